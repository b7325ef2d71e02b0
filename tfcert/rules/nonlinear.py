"""Nonlinear primitives: scalar curves, products, maxima, and opaque functions.

Each replaces ``a . f(x)`` by a linear lower bound: with two affine functions around f, entries of
``a`` that are >= 0 take the lower one and the others the upper one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from tfcert import backend, relaxations
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Nonlinear
from tfcert.rules.rounding import HUGE, flushed, rounding_error
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Bounds, Tensor

__all__ = [
    "Elementwise",
    "MaxReduce",
    "Opaque",
    "Product",
    "passes_zero",
    "product_ends",
    "steadiness",
]


# Entries of a group from which on a product of matrices is faster than a sum of products; never for
# the one or two rows of a neuron.
_MATRIX_PAYS = 1 << 12


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum of products over all axes behind groups and rows, ``(groups, rows)``.

    Where an entry of ``first`` is 0 and one of ``second`` infinite, NaN comes out; ``total`` is
    for such values.
    """
    shape = tuple(first.shape)
    size = math.prod(shape[2:])
    if len(shape) != 3:
        first = backend.reshape(first, (-1, shape[1], size))
        second = backend.reshape(second, (-1, second.shape[1], size))
    if second.shape[1] == 1 and shape[1] > 2 and shape[1] * size >= _MATRIX_PAYS:
        column = backend.reshape(second, (-1, size, 1))
        return ops.squeeze(ops.matmul(first, column), axis=-1)
    return ops.sum(first * second, axis=-1)


def total(coefficients: Tensor, values: Tensor) -> Tensor:
    """Like ``dot``, with 0 where the coefficient is 0, whatever the value."""
    return backend.total(coefficients, values)


def signs(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative parts."""
    positive = ops.relu(coefficients)  # Its gradient is one kernel; that of maximum is three.
    return positive, coefficients - positive


class Elementwise(Nonlinear):
    """A scalar function of every entry.

    Args:
        curve: A ``relaxations.Curve``, or a function of the parameters that makes one.
        variable: What the function reads, for curves with trained parameters (PReLU).
    """

    takes_more_axes = True

    def __init__(self, curve: Any, variable: Any = None):
        self._curve, self.variable = curve, variable

    def parameters(self, dtype: str) -> Any:
        if self.variable is None:
            return self._curve
        return self._curve(ops.cast(ops.convert_to_tensor(self.variable), dtype))

    def beside(self, p: Any, rows: Rows, frame: Frame, shape: tuple[int, ...]) -> Any:
        """The function of the entries that rows see: a window has the parameters of its places."""
        if self.variable is None or rows.window is None:
            return p
        values = ops.convert_to_tensor(self.variable)
        values = ops.broadcast_to(ops.cast(values, rows.coefficients.dtype), shape)
        return self._curve(frame.take_shared(values, rows))

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return p(values[0])

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(*p.interval(intervals[0].lower, intervals[0].upper))

    def keeps_ends(self, p: Any) -> bool:
        return not p.turning

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [p.unstable(intervals[0].lower, intervals[0].upper)]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> relaxations.Lines:
        lines = p.lines(intervals[0].lower, intervals[0].upper, slope)
        if passes_zero(p):
            lines = lines._replace(lower_intercept=None)
        return lines

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        lines = [None if line is None else frame.take(line, rows) for line in relaxation]
        return apply_lines(relaxations.Lines(*lines), rows)

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        if isinstance(p, relaxations.TwoPiece):
            slope = ops.abs(ops.cast(p.negative_slope, radii[0].dtype))
            return radii[0] * ops.maximum(ops.max(slope), 1.0)
        if isinstance(p, relaxations.PiecewiseLinear) and p.continuous:
            return radii[0] * max(abs(slope) for slope in p.slopes)
        return super().lipschitz(p, shapes, *radii)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor | None:
        x = magnitudes[0]
        if isinstance(p, relaxations.TwoPiece):
            slope = p.negative_slope
            if isinstance(slope, float | int) and slope in (-1, 0, 1):
                return None  # Picking and changing a sign are exact.
            tiny = flushed(3, unit)
            slope = ops.abs(ops.cast(slope, x.dtype))
            error = rounding_error((x + tiny) * (slope + tiny), 3, unit)
            return ops.where(slope >= HUGE, float("inf"), error)
        if isinstance(p, relaxations.PiecewiseLinear) and p.continuous:
            constants = max(abs(c) for c in (*p.intercepts, *p.breaks))
            if all(
                slope == 0 or (slope == 1 and intercept == 0)
                for slope, intercept in zip(p.slopes, p.intercepts, strict=True)
            ):
                # Picks x or a constant, which is rounded.
                return rounding_error(ops.full_like(x, constants), 1, unit)
            # Executions differ in how they write it, and round the constants first: allow for a
            # few operations on numbers as large as the largest part.
            steepest = max(1.0, *[abs(slope) for slope in p.slopes])
            return rounding_error(steepest * (x + constants), 8, unit)
        return super().rounding(p, unit, *magnitudes)


def passes_zero(curve: relaxations.Curve) -> bool:
    """Whether the lower line of a curve passes through 0 and the upper one is its chord."""
    if not isinstance(curve, relaxations.TwoPiece):
        return False
    return isinstance(curve.negative_slope, float | int) and curve.negative_slope <= 1


def apply_lines(lines: relaxations.Lines, rows: Rows) -> tuple[Sequence[Rows], Tensor]:
    """Rows through elementwise lines that stand beside the coefficients."""
    positive, negative = signs(rows.coefficients)
    coefficients = positive * lines.lower_slope + negative * lines.upper_slope
    # Two-piece functions leave out an intercept that is 0, and the others of theirs are finite.
    if lines.lower_intercept is None:
        constant = dot(negative, lines.upper_intercept)
    else:
        constant = total(positive, lines.lower_intercept) + total(negative, lines.upper_intercept)
    # Outside of the map, lines read 0.
    return [Rows(coefficients, rows.window, clean=True)], constant


def product_ends(x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """The exact range of products, with broadcasting."""
    corners = [x.lower * y.lower, x.lower * y.upper, x.upper * y.lower, x.upper * y.upper]
    low = ops.minimum(ops.minimum(*corners[:2]), ops.minimum(*corners[2:]))
    high = ops.maximum(ops.maximum(*corners[:2]), ops.maximum(*corners[2:]))
    return low, high


def steadiness(x: Interval) -> Tensor:
    """Centre over radius, within [-1, 1]: 1 in size where the sign is known, 0 around 0."""
    moves = x.radius > 0
    ratio = x.center / ops.where(moves, x.radius, ops.ones_like(x.radius))
    return ops.where(moves, ops.clip(ratio, -1.0, 1.0), ops.sign(x.center))


class Product(Nonlinear):
    """``x * y`` of two bounded values of one shape.

    With centres c and radii r, every s in [-1, 1] gives a plane below,
    ``x y >= (c_y + s r_y) x + (c_x + s r_x) y - c_x c_y - s (c_x r_y + r_x c_y) - r_x r_y``, which
    lies between the two planes of McCormick; so it is above, with one of the radii negated. All
    of them are as tight on the mean. Small coefficients pass on little of what is not known of x
    and y: the sum ``|c_y + s r_y| r_x + |c_x + s r_x| r_y`` is least at minus the steadiness of
    either factor, and at all s between. Taken is that of the factor that is steadier. Where both
    keep their signs, it is that of the factor with the smaller radius: then the coefficient on the
    other one is the smallest. alpha-CROWN goes on from there.
    """

    takes_more_axes = True
    turns = True

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return values[0] * values[1]

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(*product_ends(*intervals))

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        x, y = intervals
        both = (x.upper > x.lower) & (y.upper > y.lower)
        return [both, both]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        x, y = intervals
        below, above = self._turns(x, y)
        return *_below(x, y, below), *_above(x, y, above)

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        below, above = ([frame.take(t, rows) for t in relaxation[i : i + 3]] for i in (0, 3))
        return _apply_planes(below, above, rows)

    def turn(self, tables: Any, rows: Rows, frame: Frame, shapes: Any) -> list[Tensor]:
        found = self._turns(*_balls(tables, rows, frame))
        return [number + ops.zeros_like(rows.coefficients) for number in found]

    def turned(
        self, numbers: Sequence[Tensor], tables: Any, rows: Rows, frame: Frame, shapes: Any
    ) -> tuple[Sequence[Rows], Tensor]:
        x, y = _balls(tables, rows, frame)
        return _apply_planes(_below(x, y, numbers[0]), _above(x, y, numbers[1]), rows)

    def _turns(self, x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
        """The numbers s of the planes below and above ``x y``."""
        of_x, of_y = steadiness(x), steadiness(y)
        size_x, size_y = ops.abs(of_x), ops.abs(of_y)
        first = (size_x > size_y) | ((size_x == size_y) & self.prefers_first(x, y))
        return -ops.where(first, of_x, of_y), ops.where(first, -of_x, of_y)

    def prefers_first(self, x: Interval, y: Interval) -> Tensor:
        """Where the steadiness of x is taken, if both factors are equally steady."""
        return x.radius < y.radius

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        tiny = flushed(2, unit)
        return rounding_error((magnitudes[0] + tiny) * (magnitudes[1] + tiny), 2, unit)


def _balls(tables: Any, rows: Rows, frame: Frame) -> list[Interval]:
    """Intervals of the inputs beside the rows, of their centres and radii."""
    return [Interval.from_center(*(frame.take(t, rows) for t in pair)) for pair in tables]


def _below(x: Interval, y: Interval, s: Tensor) -> tuple:
    return _plane(x, y.center, y.radius, s, -1.0)


def _above(x: Interval, y: Interval, s: Tensor) -> tuple:
    return _plane(x, y.center, -y.radius, s, 1.0)


def _apply_planes(
    below: Sequence[Tensor], above: Sequence[Tensor], rows: Rows
) -> tuple[Sequence[Rows], Tensor]:
    """Rows through planes, each of two slopes and an intercept, beside the coefficients."""
    positive, negative = signs(rows.coefficients)
    on_x = positive * below[0] + negative * above[0]
    on_y = positive * below[1] + negative * above[1]
    constant = total(positive, below[2]) + total(negative, above[2])
    return [Rows(on_x, rows.window), Rows(on_y, rows.window)], constant


def _plane(x: Interval, center: Tensor, radius: Tensor, s: Tensor, side: float) -> tuple:
    """Slopes and intercept of a plane below ``x y``; above for ``side=1`` and a negated radius."""
    error = side * x.radius * ops.abs(radius)
    intercept = error - x.center * center - s * (x.center * radius + x.radius * center)
    return center + s * radius, x.center + s * x.radius, intercept


class MaxReduce(Nonlinear):
    """The maximum over the last axis.

    Args:
        present: Boolean array that broadcasts against the input without batch axis: which entries
            take part (pooling windows reach over the edge of the map). None: all.
    """

    takes_more_axes = True

    def __init__(self, present: Any = None):
        self.present = present

    def _masked(self, x: Tensor, fill: Tensor) -> Tensor:
        if self.present is None:
            return x
        return ops.where(ops.convert_to_tensor(self.present), x, fill)

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        x = values[0]
        return ops.max(self._masked(x, ops.cast(float("-inf"), x.dtype)), axis=-1)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(
            self.apply(p, intervals[0].lower), self.apply(p, intervals[0].upper)
        )

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        x = intervals[0]
        minus = ops.cast(float("-inf"), x.lower.dtype)
        best = ops.max(self._masked(x.lower, minus), axis=-1, keepdims=True)
        rival = self._masked(x.upper, minus) > best
        several = ops.sum(ops.cast(rival, "int32"), axis=-1, keepdims=True) > 1
        return [rival & several]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        """Lower: the entry with the largest centre. Upper: the better of two at the centre.

        With ``L = max_i l_i``: ``max x <= L + sum_i relu(x_i - L)``, each term under its chord on
        ``[l_i, u_i]``; exact where one entry dominates. Or the constant ``max u``.
        """
        lower, upper = intervals[0].lower, intervals[0].upper
        dtype = lower.dtype
        minus = ops.cast(float("-inf"), dtype)
        low_all, up_all = self._masked(lower, minus), self._masked(upper, minus)
        floor = ops.max(low_all, axis=-1, keepdims=True)
        top = ops.max(up_all, axis=-1)
        # An entry that cannot exceed the floor adds nothing; an infinite end has no chord.
        active = self._masked(upper > floor, ops.zeros_like(upper, dtype="bool"))
        width = ops.where(active, upper - lower, ops.ones_like(upper))
        chord = ops.where(active, (upper - floor) / width, ops.zeros_like(upper))
        intercept = floor[..., 0] - ops.sum(
            ops.where(active, chord * lower, ops.zeros_like(lower)), axis=-1
        )
        # The entry that sits at the floor itself has the term relu(x - l) = x - l: slope 1.
        middle = intercept + ops.sum(
            ops.where(active, chord * 0.5 * (lower + upper), ops.zeros_like(lower)), axis=-1
        )
        use_chords = middle < top
        upper_slope = ops.where(use_chords[..., None], chord, ops.zeros_like(chord))
        upper_intercept = ops.where(use_chords, intercept, top)
        center = self._masked(lower + upper, minus)
        pick = ops.one_hot(ops.argmax(center, axis=-1), lower.shape[-1], dtype=dtype)
        return pick, upper_slope, upper_intercept

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        lower_slope, upper_slope, intercept = (frame.take(t, rows) for t in relaxation)
        positive, negative = signs(rows.coefficients)
        shape, entries = tuple(rows.coefficients.shape), int(lower_slope.shape[-1])
        size = math.prod(shape[2:])

        def entries_first(slopes: Tensor) -> Tensor:
            return ops.swapaxes(backend.reshape(slopes, (-1, 1, size, entries)), 2, 3)

        # Products with a last axis of a few entries take three times as long.
        flat = [backend.reshape(part, (-1, shape[1], 1, size)) for part in (positive, negative)]
        coefficients = flat[0] * entries_first(lower_slope) + flat[1] * entries_first(upper_slope)
        coefficients = backend.reshape(ops.swapaxes(coefficients, 2, 3), (-1, *shape[1:], entries))
        return [Rows(coefficients, rows.window)], total(negative, intercept)

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        return radii[0]

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> None:
        return None


class Opaque(Nonlinear):
    """A layer of which only interval bounds are known: linear bounds start anew behind it."""

    def __init__(self, function: Callable[..., Tensor], bounds: Callable[..., Bounds]):
        self.function, self.bounds = function, bounds

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return self.function(*values)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(*self.bounds(*[x.bounds for x in intervals]))

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [x.upper > x.lower for x in intervals]
