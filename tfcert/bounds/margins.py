"""Margin bounds inside of a training step: intervals once, then what an objective asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from tfcert.bounds import methods, propagation
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.known import Known
from tfcert.bounds.method import rival_rows
from tfcert.bounds.ranking import ranked_margins
from tfcert.bounds.sweep import sweep
from tfcert.network import network_of
from tfcert.regions import Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["Margins", "RelaxedMinimum"]


class RelaxedMinimum(NamedTuple):
    """The minimum of linear functions of the scores over a relaxation.

    Attributes:
        value: ``(batch, rows)``, a lower bound.
        point: The input where it is attained, ``(batch, rows, *input_shape)``.
        coefficients: By node, those of its value in the relaxed problem, ``(batch, rows, *shape)``.
    """

    value: Tensor
    point: Tensor
    coefficients: dict[Node, Tensor]


class Margins:
    """Lower bounds of ``f_y - f_j`` by several methods that share one evaluation.

    Unlike ``bound_margins`` it compiles and checks nothing: it is written into the graph of a
    training step, whose inputs the trainer has checked.

    Args:
        model: A built model with one output, ``(batch, classes)``.
        x: Inputs.
        y: Integer labels, ``(batch,)``.
        region: The region; its size may be a tensor.
        method: "ibp" or a backward method; decides how hidden layers are bounded.
        moments: ``{node: (mean, variance)}`` of batch normalisations, from ``clean_moments``;
            others use their moving statistics.
        known: Intervals of hidden nodes, ``{node: interval}``, for bounds over a latent region: all
            values of these nodes within their intervals, whether or not an input of the region
            leads there. Every path to the outputs must lead through one of them.
        shift: What is added to the model's scores, ``(batch, classes)``; None for nothing.
        allowed: How many rivals may reach the label. The margins of ``interval``, ``backward`` and
            ``best`` are those of ``ranked_margins``; rows of functions and ``pairs`` are not.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        region: Region,
        method: Any = "ibp",
        moments: dict[Node, tuple[Tensor, Tensor]] | None = None,
        known: dict[Node, Interval] | None = None,
        shift: Tensor | None = None,
        allowed: int = 0,
    ):
        self.method = methods.get(method)
        self.network = network_of(model)
        self.allowed = allowed
        self.region, self.shift, self.x = region, shift, ops.cast(x, self.network.dtype)
        known = known or {}
        starts = set(known)
        if self.network.outputs in starts or (
            starts and self.network.input in self.network.behind(starts)
        ):
            raise ValueError(
                "`known` must hold inner nodes, one on every path to the outputs. Received: "
                f"{', '.join(repr(node.name) for node in known)}."
            )
        places = {self.network.index[node]: value.bounds for node, value in known.items()}
        self.evaluation: Evaluation = propagation.evaluate(
            self.network,
            region,
            region.bind(self.x),
            self.method,
            moments,
            trains=True,
            point=self.x,
            known=Known(intervals=places, starts=frozenset(places)),
        )
        classes = self.network.outputs.shape[-1]
        self.y = ops.cast(y, "int32")
        self.hot = ops.one_hot(y, classes, dtype=self.network.dtype)

    def interval(self, sign: float = 1.0) -> Tensor:
        """By intervals, with the last affine layers folded, ``(batch, classes)``; 0 for y.

        Args:
            sign: -1.0 for lower bounds of ``f_j - f_y`` instead.
        """
        return self._counted(self._lower(self._near, sign))

    def if_swept(self, wanted: Tensor, swept: Callable[[], Tensor], otherwise: Tensor) -> Tensor:
        """``swept()``, which calls ``backward`` or ``backward_of``, or else a value at hand.

        A sweep costs several times what intervals cost; it is not computed where it is not wanted.

        Args:
            wanted: A scalar condition.
            swept: Computes the value with a sweep.
            otherwise: The value without one.
        """
        # The relaxations are made before the branch, so that code behind it can read them too.
        self._prepare()
        return ops.cond(wanted, swept, lambda: otherwise)

    def backward(self) -> Tensor:
        """By the method's backward sweep alone, ``(batch, classes)``; 0 for y."""
        return self._counted(self._lower(self.backward_of))

    def best(self) -> Tensor:
        """The larger of the intervals' bounds and the method's own, ``(batch, classes)``."""
        lower = self._lower(self._near)
        if self.method.backward:
            lower = ops.maximum(lower, self._lower(self.backward_of))
        return self._counted(lower)

    def _counted(self, lower: Tensor) -> Tensor:
        return ranked_margins(lower, self.y, self.allowed)

    def backward_of(self, rows: Tensor) -> Tensor:
        """Lower bounds of linear functions of the scores by the backward sweep alone.

        Args:
            rows: Coefficients on the scores, ``(batch, rows, classes)``.
        """
        node = self.network.outputs
        lower = propagation.lower_rows(self.evaluation, self.method, node, rows, intersect=False)
        return self._shifted(rows, lower)

    def pairs(self) -> Tensor:
        """Lower bounds of ``f_k - f_j`` for all pairs, by intervals, ``(batch, classes, classes)``.

        Entry ``[:, k, j]``; 0 where k = j.
        """
        classes = self.hot.shape[-1]
        eye = ops.eye(classes, dtype=self.hot.dtype)
        rows = ops.reshape(eye[:, None] - eye[None], (1, classes**2, classes))
        rows = ops.broadcast_to(rows, (ops.shape(self.hot)[0], classes**2, classes))
        lower = ops.reshape(self._near(rows), (-1, classes, classes))
        return ops.where(eye > 0, ops.zeros_like(lower), lower)

    def relaxed_minimum(self, rows: Tensor) -> RelaxedMinimum:
        """Where and at which value the relaxed problem has its minimum, for rows of the scores.

        The scores are those of the model, without ``shift``.

        Args:
            rows: Coefficients on the scores, ``(batch, rows, classes)``.
        """
        record: dict[Node, Tensor] = {}
        node = self.network.outputs
        self._prepare()
        value = sweep(self.evaluation, node, Rows(rows), Frame(), record=record)
        point = self.region.minimiser(record[self.network.input], self.x)
        return RelaxedMinimum(value, ops.stop_gradient(point), record)

    def _prepare(self) -> None:
        """Makes the relaxations that sweeps read."""
        self.evaluation.prepare(self.network.outputs, False)

    @property
    def rows(self) -> Tensor:
        """The coefficients of all margins on the scores, ``(batch, classes, classes)``."""
        return self.hot[:, None] - ops.eye(self.hot.shape[-1], dtype=self.hot.dtype)[None]

    @property
    def other_rows(self) -> Tensor:
        """The same without that of the label, ``(batch, classes - 1, classes)``."""
        return rival_rows(self.y, self.hot.shape[-1], self.hot.dtype)

    def _near(self, rows: Tensor) -> Tensor:
        """Lower bounds of linear functions of the scores by intervals, ``(batch, rows)``."""
        node, ibp = self.network.outputs, methods.IBP()
        lower = propagation.lower_rows(self.evaluation, ibp, node, rows, intersect=False)
        return self._shifted(rows, lower)

    def _shifted(self, rows: Tensor, lower: Tensor) -> Tensor:
        """Bounds of functions of the scores, with what the shift adds to them."""
        if self.shift is None:
            return lower
        return lower + ops.sum(rows * self.shift[:, None], axis=-1)

    def _lower(self, bound: Callable[[Tensor], Tensor], sign: float = 1.0) -> Tensor:
        """Bounds the rows of all classes but y, and puts the 0 of y between them."""
        y, lower = self.y[:, None], bound(sign * self.other_rows)
        label = ops.arange(self.hot.shape[-1], dtype="int32")[None]
        # No gather: XLA cannot compile the gradient of Keras's inside of a condition.
        below, above = ops.pad(lower, ((0, 0), (0, 1))), ops.pad(lower, ((0, 0), (1, 0)))
        lower = ops.where(label < y, below, above)
        return ops.where(self.hot > 0, ops.zeros_like(lower), lower)
