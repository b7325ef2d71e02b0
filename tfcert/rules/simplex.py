"""Primitives of the softmax: log-sum-exp, and values that sum to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import signs, total
from tfcert.rules.primitives import Nonlinear
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["LogSumExp", "UnitSum"]


class LogSumExp(Nonlinear):
    """``log sum exp`` over the last axis: convex and monotone.

    Below lies the tangent plane at the centre. Above, each exp is under its chord, and the log of
    that linear sum, being concave, is under its tangent.

    Args:
        present: Boolean array that broadcasts against the input without batch axis: which entries
            are summed, at least one of each row. None: all.
    """

    takes_more_axes = True

    def __init__(self, present: Any = None):
        self.present = present

    def _masked(self, x: Tensor) -> Tensor:
        if self.present is None:
            return x
        minus = ops.cast(float("-inf"), x.dtype)
        return ops.where(ops.convert_to_tensor(self.present), x, minus)

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return ops.logsumexp(self._masked(values[0]), axis=-1)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(
            self.apply(p, intervals[0].lower), self.apply(p, intervals[0].upper)
        )

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        open_ = intervals[0].upper > intervals[0].lower
        if self.present is not None:
            open_ = ops.logical_and(open_, ops.convert_to_tensor(self.present))
        return [open_]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        x = intervals[0]
        middle = x.center
        tangent = ops.softmax(self._masked(middle), axis=-1)
        low = self.apply(p, middle) - ops.sum(tangent * middle, axis=-1)
        highest = self._masked(x.upper)
        shift = ops.max(highest, axis=-1, keepdims=True)
        below, above = ops.exp(self._masked(x.lower) - shift), ops.exp(highest - shift)
        width = x.upper - x.lower
        flat = width <= 0
        chord = ops.where(flat, above, (above - below) / ops.where(flat, 1.0, width))
        at_middle = 0.5 * (below + above)
        mass = ops.sum(at_middle, axis=-1, keepdims=True)
        slopes = chord / mass
        high = (ops.log(mass) + shift)[..., 0] - ops.sum(slopes * middle, axis=-1)
        return tangent, low, slopes, high

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        lower_slope, low, upper_slope, high = (frame.take(t, rows) for t in relaxation)
        positive, negative = signs(rows.coefficients)
        coefficients = positive[..., None] * lower_slope + negative[..., None] * upper_slope
        constant = total(positive, low) + total(negative, high)
        return [Rows(coefficients, rows.window)], constant


class UnitSum(Nonlinear):
    """The value itself, of which it is known that entries of the last axis sum to 1.

    ``a . x = (a - m) . x + m`` for every number m. Lines around the entries do not sum to 1, so the
    choice of m matters: a part that all coefficients share should not be bounded at all. The median
    of the coefficients, weighted by the widths of the entries' intervals, makes what is left the
    smallest: the sum of ``|a_i - m| width_i``.
    """

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return values[0]

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return intervals[0]

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [ops.zeros_like(intervals[0].lower, dtype="bool")]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        return (intervals[0].upper - intervals[0].lower,)

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        a = rows.coefficients
        shared = _median(a, ops.broadcast_to(frame.take(relaxation[0], rows), ops.shape(a)))
        constant = ops.sum(shared, axis=list(range(2, len(shared.shape))))
        return [Rows(a - shared)], constant


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """The median over the last axis with weights, which is kept."""
    order = ops.argsort(values, axis=-1)
    mass = ops.cumsum(ops.take_along_axis(weights, order, axis=-1), axis=-1)
    below = ops.cast(mass < 0.5 * mass[..., -1:], "int32")
    place = ops.sum(below, axis=-1, keepdims=True)
    return ops.take_along_axis(values, ops.take_along_axis(order, place, axis=-1), axis=-1)
