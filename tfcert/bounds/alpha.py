"""alpha-CROWN and beta-CROWN: gradient ascent on slopes and multipliers, each row for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.sweep import Slopes, sweep
from tfcert.rules.primitives import Node
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["Optimised", "optimised", "standing"]

# Adam's constants.
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class Ascent(Protocol):
    """The options of the slopes' optimisation, as in ``tfcert.methods.AlphaCrown``."""

    @property
    def iterations(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def decay(self) -> float: ...


class Optimised(NamedTuple):
    """The result of an optimisation.

    Attributes:
        lower: The best lower bounds of the rows met on the way, ``(groups, rows)``.
        slopes: ``{place: [lower_slope, upper_slope]}`` that give these bounds; see ``Slopes``.
        multipliers: ``{place: beta}`` that give these bounds.
    """

    lower: Tensor
    slopes: dict[int, Any]
    multipliers: dict[int, Tensor]


def optimised(
    evaluation: Evaluation,
    method: Ascent,
    node: Node,
    rows: Rows,
    frame: Frame,
    constant: Any = 0.0,
    *,
    slopes: Mapping[int, Any] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    enough: Callable[[Tensor], Tensor] | None = None,
) -> Optimised:
    """Lower bounds of rows with optimised slopes; at least those of the default slopes.

    Rows do not influence one another: the gradient of their sum moves each row's own slopes.

    Args:
        evaluation: Holds the intervals of all nodes, and the signs of split units.
        method: How far to go.
        node: The node that the rows are functions of.
        rows: Their coefficients.
        frame: Which sample the rows belong to.
        constant: Added to the bounds.
        slopes: Where to start, from an earlier ``Optimised`` with rows of the same shape; default:
            the slopes of CROWN.
        multipliers: Where to start; default: 0.
        enough: From the best bounds so far, ``(groups, rows)``, whether they are good enough, a
            scalar: the optimisation then ends.
    """
    record = Slopes()
    first = sweep(evaluation, node, rows, frame, constant, slopes=record)
    variables = _Variables(record, slopes or {}, multipliers or {})
    if not variables.count:
        return Optimised(first, record.values, record.multipliers)

    def objective(values: list[Tensor]) -> tuple[Tensor, Tensor]:
        lower = sweep(evaluation, node, rows, frame, constant, slopes=variables.slopes(values[0]))
        # An infinite bound has no gradient; it must not spoil the others.
        finite = ops.where(ops.isfinite(lower), lower, ops.zeros_like(lower))
        return ops.sum(finite), lower

    def body(
        step: Tensor,
        best: Tensor,
        chosen: Tensor,
        rate: Tensor,
        powers: Tensor,
        value: Tensor,
        m: Tensor,
        v: Tensor,
    ) -> tuple:
        _, lower, (gradient,) = backend.value_and_gradients(objective, [value])
        best, chosen = better(lower, value, best, chosen)
        powers = powers * decays
        m = _FIRST * m + (1 - _FIRST) * gradient
        v = _SECOND * v + (1 - _SECOND) * ops.square(gradient)
        corrected = 1.0 - powers
        change = (m / corrected[0]) / (ops.sqrt(v / corrected[1]) + _TINY)
        value = variables.projected(value + rate * change)
        return step + 1, best, chosen, rate * method.decay, powers, value, m, v

    def better(lower: Tensor, value: Tensor, best: Tensor, chosen: Tensor) -> tuple:
        """The better ones of two bounds of each row, and what gives them."""
        chosen = ops.where(ops.expand_dims(lower > best, -1), value, chosen)
        return ops.maximum(best, lower), chosen

    def goes_on(step: Tensor, best: Tensor, *_: Tensor) -> Tensor:
        more = step < method.iterations
        return more if enough is None else ops.logical_and(more, ops.logical_not(enough(best)))

    decays = ops.convert_to_tensor([_FIRST, _SECOND], dtype=evaluation.dtype)
    zeros = ops.zeros_like(variables.first)
    state = (
        ops.convert_to_tensor(0, dtype="int32"),
        first,
        variables.default,
        ops.cast(method.learning_rate, evaluation.dtype),
        ops.ones((2,), dtype=evaluation.dtype),
        variables.first,
        zeros,
        zeros,
    )
    state = backend.long_loop(goes_on, body, state, method.iterations)
    _, last = objective([state[5]])
    best, chosen = better(last, state[5], state[1], state[2])
    found = variables.slopes(chosen)
    return Optimised(best, found.values, found.multipliers)


def standing(
    evaluation: Evaluation,
    node: Node,
    rows: Rows,
    slopes: Mapping[int, Any],
    multipliers: Mapping[int, Tensor],
) -> Tensor:
    """Lower bounds of rows by one sweep with given slopes and multipliers, ``(batch, rows)``.

    Args:
        evaluation: Holds the intervals of all nodes, and the signs of split units.
        node: The node that the rows are functions of.
        rows: Their coefficients, the same number of rows for each sample.
        slopes: As in ``Optimised``, of all elementwise nodes on the way. Each is moved to the
            nearest slope that its range on these intervals allows.
        multipliers: As in ``Optimised``, of all nodes with signs.
    """

    def within(slope: Tensor, low: Any, high: Any) -> Tensor | None:
        return None if low is None else ops.clip(slope, low.beside, high.beside)

    allowed: dict[int, Any] = {}
    for place, (lower, upper) in slopes.items():
        ranges = evaluation.slope_tables(evaluation.network.nodes[place])
        allowed[place] = [within(lower, *ranges[:2]), within(upper, *ranges[2:])]
    return sweep(evaluation, node, rows, Frame(), slopes=Slopes(allowed, dict(multipliers)))


class _Variables:
    """All that moves in one tensor, ``(groups, rows, count)``, so that a step is few operations.

    Slopes are fractions of their range. Fractions give slopes of all functions one scale: ReLU's
    range is [0, 1], that of a tanh on a short interval is tiny. Multipliers are as they are.
    """

    def __init__(self, record: Slopes, slopes: Mapping[int, Any], multipliers: Mapping[int, Any]):
        self._record = record
        self._places, self._multipliers = _free_slopes(record), sorted(record.multipliers)
        like = [record.values[place][side] for place, side, _, _ in self._places]
        like += [record.multipliers[place] for place in self._multipliers]
        # Groups may be as many as the batch, whose size need not be known.
        self._shapes = [(-1, *tensor.shape[1:]) for tensor in like]
        self._sizes = [math.prod(shape[2:]) for shape in self._shapes]
        self.count = sum(self._sizes)
        if not self.count:
            return

        def fractions(given: Mapping[int, Any]) -> list[Tensor]:
            return [
                _fraction(given.get(place, record.values[place])[side], low, width)
                for place, side, low, width in self._places
            ]

        betas = [multipliers.get(p, record.multipliers[p]) for p in self._multipliers]
        none = [record.multipliers[p] for p in self._multipliers]
        self.first = self._joined([*fractions(slopes), *betas])
        self.default = self._joined([*fractions({}), *none])
        zeros, ones = ([f(beta) for beta in betas] for f in (ops.zeros_like, ops.ones_like))
        self._low = self._joined([low for _, _, low, _ in self._places] + zeros)
        self._width = self._joined([width for _, _, _, width in self._places] + ones)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        flat = [
            ops.reshape(tensor, (*shape[:2], size))
            for tensor, shape, size in zip(tensors, self._shapes, self._sizes, strict=True)
        ]
        return flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=-1)

    def projected(self, values: Tensor) -> Tensor:
        """The nearest values that are allowed: fractions in [0, 1], multipliers >= 0."""
        if not self._multipliers:
            return ops.clip(values, 0.0, 1.0)
        count = sum(self._sizes[: len(self._places)])
        most = np.where(np.arange(self.count) < count, 1.0, np.inf)
        return ops.minimum(ops.relu(values), ops.convert_to_tensor(most, dtype=values.dtype))

    def slopes(self, values: Tensor) -> Slopes:
        """What a sweep takes."""
        moved = self._low + values * self._width
        # One split: the gradient of each slice would be as large as the whole.
        parts = [moved]
        if len(self._sizes) > 1:
            parts = list(backend.split(moved, self._sizes))
        parts = [backend.reshape(t, s) for t, s in zip(parts, self._shapes, strict=True)]
        found = {place: list(pair) for place, pair in self._record.values.items()}
        for (place, side, _, _), slope in zip(self._places, parts, strict=False):
            found[place][side] = slope
        betas = parts[len(self._places) :]
        return Slopes(found, dict(zip(self._multipliers, betas, strict=True)))


def _fraction(slope: Tensor, low: Tensor, width: Tensor) -> Tensor:
    """Where a slope lies in its range, from 0 to 1; 0 where the range is a point."""
    moves = width > 0
    fraction = (slope - low) / ops.where(moves, width, ops.ones_like(width))
    return ops.where(moves, ops.clip(fraction, 0.0, 1.0), ops.zeros_like(fraction))


def _free_slopes(record: Slopes) -> list[tuple[int, int, Tensor, Tensor]]:
    """The slopes that can move: place, side, least value and width of the range, row by row."""
    found = []
    for place, pair in record.values.items():
        ranges = record.ranges[place]
        for side in (0, 1):
            low, high = ranges[2 * side : 2 * side + 2]
            if low is not None:
                zeros = ops.zeros_like(pair[side])
                found.append((place, side, low + zeros, high - low + zeros))
    return found
