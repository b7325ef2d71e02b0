"""Values of every step of a sequence: primitives that act on each step as on a batch of them.

The steps are folded into the batch, so that nothing is computed step by step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Opaque
from tfcert.rules.primitives import Affine, Constant, Input, Node, Nonlinear, Primitive, in_order
from tfcert.rules.rows import Frame, Rows, SampleTable
from tfcert.types import Tensor

__all__ = ["repeated"]


def repeated(outputs: Sequence[Node], entry: Node, sequence: Node) -> list[Node]:
    """The nodes of one step, for all steps of a sequence.

    Args:
        outputs: What one step is asked for.
        entry: The input of one step, an ``Input``.
        sequence: A node of the shape ``(steps, *shape of entry)``.

    Returns:
        Nodes of the shapes ``(steps, *shape of the output)``.
    """
    steps = sequence.shape[0]
    made = {entry: sequence}
    for node in in_order(outputs):
        if isinstance(node.primitive, Input):
            continue
        enclosure = None
        if node.enclosure is not None:
            function, sources = node.enclosure
            enclosure = _folded_enclosure(function), tuple(made[source] for source in sources)
        made[node] = Node(
            _for_steps(node.primitive, steps, node.shape),
            [made[source] for source in node.inputs],
            (steps, *node.shape),
            enclosure=enclosure,
        )
    return [made[node] for node in outputs]


@functools.singledispatch
def _for_steps(primitive: Any, steps: int, shape: tuple[int, ...]) -> Primitive:
    """The primitive that acts on every step as a primitive of one step does.

    Args:
        primitive: That of one step.
        steps: How many there are.
        shape: The shape of its value.
    """
    raise NotImplementedError(f"{type(primitive).__name__} is not known for sequences.")


@_for_steps.register
def _(primitive: Affine, steps: int, shape: tuple[int, ...]) -> Primitive:
    return primitive.for_steps() if primitive.takes_more_axes else _AffineSteps(primitive, steps)


@_for_steps.register
def _(primitive: Nonlinear, steps: int, shape: tuple[int, ...]) -> Primitive:
    return primitive if primitive.takes_more_axes else _NonlinearSteps(primitive, steps)


@_for_steps.register
def _(primitive: Opaque, steps: int, shape: tuple[int, ...]) -> Primitive:
    return _OpaqueSteps(primitive, steps)


@_for_steps.register
def _(primitive: Constant, steps: int, shape: tuple[int, ...]) -> Primitive:
    return Constant(lambda: ops.broadcast_to(primitive.read()[None], (steps, *shape)))


def _fold(value: Tensor) -> Tensor:
    """``(batch, steps, ...)`` to ``(batch * steps, ...)``."""
    return backend.reshape(value, (-1, *value.shape[2:]))


def _folded(interval: Interval) -> Interval:
    """The interval of folded values, in the form that it is kept in."""
    return interval.moved(_fold)


def _folded_enclosure(function: Callable[..., Interval]) -> Callable[..., Interval]:
    def enclose(*intervals: Interval) -> Interval:
        steps = intervals[0].lower.shape[1]
        found = function(*map(_folded, intervals))
        return found.moved(lambda t: backend.reshape(t, (-1, steps, *t.shape[1:])))

    return enclose


class _Steps(Primitive):
    """A primitive on every step alike.

    Args:
        step: The primitive of one step.
        steps: How many there are.
    """

    def __init__(self, step: Any, steps: int):
        self.step, self.steps = step, steps

    def _unfold(self, value: Tensor) -> Tensor:
        return backend.reshape(value, (-1, self.steps, *value.shape[1:]))

    def parameters(self, dtype: str) -> Any:
        return self.step.parameters(dtype)

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return self._unfold(self.step.apply(p, *map(_fold, values)))

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return self.step.interval(p, *map(_folded, intervals)).moved(self._unfold)

    def keeps_ends(self, p: Any) -> bool:
        return self.step.keeps_ends(p)

    def check(self, need: str) -> None:
        self.step.check(need)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor | None:
        error = self.step.rounding(p, unit, *map(_fold, magnitudes))
        if error is None or len(error.shape) == 0 or error.shape[0] == 1:
            return error  # The same for all steps.
        return self._unfold(error)

    def lipschitz(
        self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor
    ) -> Tensor | float:
        return self.step.lipschitz(p, _of_one_step(shapes), *radii)


def _of_one_step(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [shape[1:] for shape in shapes]


class _AffineSteps(_Steps, Affine):
    """An affine primitive on every step alike."""

    def bias(self, p: Any) -> Tensor | None:
        return self.step.bias(p)

    def prepare(self, p: Any) -> None:
        self.step.prepare(p)

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        found = self.step.transpose(p, _fold(coefficients), _of_one_step(shapes))
        return [self._unfold(part) for part in found]


class _OpaqueSteps(_Steps, Opaque):
    """A layer of which only interval bounds are known, on every step alike."""


class _NonlinearSteps(_Steps, Nonlinear):
    """A nonlinear primitive on every step alike."""

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [self._unfold(t) for t in self.step.unstable(p, *map(_folded, intervals))]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        found = self.step.relax(p, slope, *map(_folded, intervals))
        return tuple(None if t is None else self._unfold(t) for t in found)

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        count = rows.coefficients.shape[1]

        def back(part: Rows) -> Rows:
            split = backend.reshape(
                part.coefficients, (-1, self.steps, *part.coefficients.shape[1:])
            )
            return Rows(_swapped(split))

        groups = Rows(_fold(_swapped(rows.coefficients)))
        found, constant = self.step.backward(
            p, relaxation, groups, _StepsFrame(frame, rows), _of_one_step(shapes)
        )
        constant = ops.sum(backend.reshape(constant, (-1, self.steps, count)), axis=1)
        return [back(part) for part in found], constant


def _swapped(coefficients: Tensor) -> Tensor:
    """Rows and steps in each other's place."""
    return ops.transpose(coefficients, [0, 2, 1, *range(3, len(coefficients.shape))])


class _StepsFrame(Frame):
    """Hands out values of samples for groups that are one step of one sample each."""

    def __init__(self, frame: Frame, rows: Rows):
        super().__init__()
        self._frame, self._rows = frame, rows

    def take(self, values: SampleTable, rows: Rows) -> Tensor:
        beside = self._frame.take(values, self._rows)  # (groups, 1, steps, ...)
        return _fold(_swapped(beside))
