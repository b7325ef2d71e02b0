"""Lines below a scalar function: the search behind `Curve`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from tfcert import types

__all__ = ["Envelope", "Known", "SLACK", "between", "epsilon"]

_INF = math.inf

# Evaluations, slopes and intercepts are rounded. Intercepts are moved outwards by this many machine
# epsilons of the magnitudes involved, so that the lines hold in exact arithmetic: about 5e-7
# relative in float32, 1e-15 in float64.
SLACK = 4.0

# Halvings of a bracket around a touching point. A touching point that is off by d costs about d**2
# in the intercept, so that 24 halvings reach rounding error for any interval that is narrower than
# 1000.
_STEPS = 24

# A point of the graph, or the slope and the intercept of a line.
Pair = tuple[types.Tensor, types.Tensor]


class Known(Protocol):
    """A scalar function and what its lines follow from; `Curve` says what each fact means."""

    @property
    def breaks(self) -> tuple[float, ...]: ...

    @property
    def curvature(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> str | None: ...

    @property
    def noise(self) -> float: ...

    @property
    def derivative(self) -> Callable[[types.Tensor], types.Tensor]: ...

    def __call__(self, x: types.Tensor) -> types.Tensor: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Envelope:
    """Lines below ``g = sign * f`` on ``[lower, upper]``, where all of g is finite.

    With sign -1 they give the lines above f: minus the lines below -f.

    Args:
        curve: f and what is known of it.
        sign: 1 or -1.
        lower, upper: Ends of the interval, of one shape.
    """

    curve: Known
    sign: float
    lower: types.Tensor
    upper: types.Tensor

    def tightest(self) -> Pair:
        """Slope and intercept of the line that supports the convex envelope of g at the midpoint.

        Of all lines below g it leaves the smallest area.
        """
        if self.curve.shape == self._kind:
            middle = self._middle()
            slope = self._slope(middle)
            intercept = self._g(middle) - slope * middle
            return slope, intercept - self._slack(intercept, slope)
        slope = self._support()
        return slope, self.offset(slope)

    def offset(self, slope: types.Tensor) -> types.Tensor:
        """The greatest intercept known to be sound: a lower bound of ``g(x) - slope * x``."""
        lower, upper = self.lower, self.upper
        result = ops.minimum(self._g(lower) - slope * lower, self._g(upper) - slope * upper)
        for x, value in self._corners():
            result = ops.minimum(result, value - slope * x)
        for low, high in self._segments(self._kind):
            result = ops.minimum(result, self._segment_offset(slope, low, high))
        for low, high in self._segments("monotone"):
            left, right = self._between(low), self._between(high)
            least = ops.minimum(self._g(left), self._g(right))
            result = ops.minimum(result, least - ops.maximum(slope * left, slope * right))
        return result - self._slack(result, slope)

    def end_slopes(self) -> tuple[types.Tensor, types.Tensor]:
        """Slopes of the convex envelope of g at both ends."""
        lower, upper = self.lower, self.upper
        if "monotone" in self.curve.curvature:
            return ops.zeros_like(lower), ops.zeros_like(lower)
        if self.curve.shape == self._kind:
            return self._slope(lower), self._slope(upper)
        least, most = ops.full_like(lower, _INF), ops.full_like(lower, -_INF)
        for low, high in self._segments(self._kind):
            least = ops.where((low <= lower) & (lower < high), self._slope(lower), least)
            most = ops.where((low < upper) & (upper <= high), self._slope(upper), most)
        for start, end in self._chords():
            apart, chord = _chord(start, end)
            least = ops.where(apart & (start[0] <= lower), ops.minimum(least, chord), least)
            most = ops.where(apart & (end[0] >= upper), ops.maximum(most, chord), most)
        low, high = self._derivatives()
        return ops.maximum(least, low), ops.minimum(most, high)

    @property
    def _kind(self) -> str:
        """The curvature of f where g is convex."""
        return "convex" if self.sign > 0 else "concave"

    def _g(self, x: types.Tensor) -> types.Tensor:
        return self.sign * self.curve(x)

    def _slope(self, x: types.Tensor) -> types.Tensor:
        return self.sign * self.curve.derivative(x)

    def _middle(self) -> types.Tensor:
        return 0.5 * self.lower + 0.5 * self.upper

    def _between(self, t: float) -> types.Tensor:
        return between(t, self.lower, self.upper)

    def _segments(self, kind: str) -> list[tuple[float, float]]:
        """The pieces of the line where f has one kind of curvature."""
        ends = (-_INF, *self.curve.breaks, _INF)
        kinds = self.curve.curvature
        return [(ends[i], ends[i + 1]) for i in range(len(kinds)) if kinds[i] == kind]

    def _corners(self) -> list[Pair]:
        """Kinks of g, moved into the interval; ends of convex segments need none."""
        if self.curve.shape is not None:
            return []
        ends = {end for segment in self._segments(self._kind) for end in segment}
        points = [self._between(t) for t in self.curve.breaks if t not in ends]
        return [(x, self._g(x)) for x in points]

    def _support(self) -> types.Tensor:
        """Slope of the convex envelope of g at the midpoint m.

        The envelope at m is the least of g(m), where g is convex there, and of all chords across m.
        A chord that supports g begins at `lower`, at a kink, or at a tangent point.
        """
        middle = self._middle()
        slope = self._slope(middle)
        if "monotone" in self.curve.curvature:
            return ops.zeros_like(slope)
        value = ops.full_like(middle, _INF)
        for low, high in self._segments(self._kind):
            value = ops.where((low <= middle) & (middle <= high), self._g(middle), value)
        for start, end in self._chords():
            apart, chord = _chord(start, end)
            height = start[1] + chord * (middle - start[0])
            better = apart & (start[0] <= middle) & (middle <= end[0]) & (height < value)
            slope = ops.where(better, chord, slope)
            value = ops.where(better, height, value)
        least, most = self._derivatives()
        return ops.maximum(ops.minimum(slope, most), least)

    def _chords(self) -> list[tuple[Pair, Pair]]:
        """Points of g, left and right, between which the convex envelope may be straight."""
        first, last = (self.lower, self._g(self.lower)), (self.upper, self._g(self.upper))
        corners = self._corners()
        # First, so that it wins ties: it alone carries the gradient of both ends.
        chords = [(first, last)]
        chords += [(first, corner) for corner in corners] + [(corner, last) for corner in corners]
        chords += itertools.combinations(corners, 2)
        for low, high in self._segments(self._kind):
            left, right = self._tangent_points(low, high)
            chords += [(first, (left, self._g(left))), ((right, self._g(right)), last)]
        return chords

    def _tangent_points(self, low: float, high: float) -> tuple[types.Tensor, types.Tensor]:
        """Where the tangents from the interval's ends touch the convex ``[low, high]`` of g.

        By the envelope theorem the slope of such a tangent does not change to first order when its
        touching point moves, so that no gradient is lost by holding these points fixed.
        """
        lower, upper = ops.stop_gradient(self.lower), ops.stop_gradient(self.upper)
        ends = ops.stack([lower, upper])
        heights = self._g(ends)

        def go_right(x: types.Tensor) -> types.Tensor:
            above = self._g(x) + self._slope(x) * (ends - x) - heights
            return ops.stack([above[0] > 0, above[1] < 0])

        left, right = between(low, lower, upper), between(high, lower, upper)
        left, right = _bisect(go_right, ops.stack([left, left]), ops.stack([right, right]))
        left, right = (
            ops.where(low <= lower, lower, right[0]),
            ops.where(upper <= high, upper, left[1]),
        )
        return ops.stop_gradient(left), ops.stop_gradient(right)

    def _derivatives(self) -> tuple[types.Tensor, types.Tensor]:
        """Least and greatest derivative of g on the interval: no slope outside them is of use.

        They keep the rounding noise of a chord across a tiny interval from spoiling its slope.
        """
        points = [self.lower, self.upper]
        for t in self.curve.breaks:
            points += [self._between(side) for side in _neighbours(t, self.lower)]
        least = most = self._slope(points[0])
        for point in points[1:]:
            slope = self._slope(point)
            least, most = ops.minimum(least, slope), ops.maximum(most, slope)
        return ops.stop_gradient(least), ops.stop_gradient(most)

    def _segment_offset(self, slope: types.Tensor, low: float, high: float) -> types.Tensor:
        """A lower bound of ``g(x) - slope * x`` on the convex segment ``[low, high]``.

        The bracket [a, b] around the minimum gives two bounds, as both tangents are below g:
        g(a) - slope * a + min(g'(a) - slope, 0) * (b - a), and the mirror image at b.
        """
        fixed = ops.stop_gradient(slope)
        start = ops.stop_gradient(self._between(low) + ops.zeros_like(slope))
        end = ops.stop_gradient(self._between(high) + ops.zeros_like(slope))
        start, end = _bisect(lambda x: self._slope(x) < fixed, start, end)
        width = ops.where(end > start, end - start, 0.0)
        fall = ops.minimum(self._slope(start) - fixed, 0.0)
        rise = ops.maximum(self._slope(end) - fixed, 0.0)
        # An infinite derivative (sqrt at 0) gives the bound -inf, and the other end decides.
        drop_start = ops.where(width > 0, -fall * width, 0.0)
        drop_end = ops.where(width > 0, rise * width, 0.0)
        by_start = (
            self._g(start) - fixed * start - drop_start >= self._g(end) - fixed * end - drop_end
        )
        touch = ops.stop_gradient(ops.where(by_start, start, end))
        touch = ops.where(
            touch <= self.lower, self.lower, ops.where(touch >= self.upper, self.upper, touch)
        )
        drop = ops.stop_gradient(ops.where(by_start, drop_start, drop_end))
        return self._g(touch) - slope * touch - drop

    def _slack(self, intercept: types.Tensor, slope: types.Tensor) -> types.Tensor:
        """How far an intercept is moved outwards for rounding."""
        size = ops.maximum(ops.abs(self.lower), ops.abs(self.upper))
        scale = ops.abs(intercept) + ops.abs(slope) * size + ops.minimum(size, self.curve.noise)
        # Products with anything below the smallest normal number may be flushed to 0.
        tiny = float(np.finfo(keras.backend.standardize_dtype(self.lower.dtype)).tiny)
        return ops.stop_gradient(SLACK * (epsilon(self.lower) * scale + tiny * (1.0 + size)))


def between(t: types.Tensor, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
    """`t`, moved into the interval."""
    return ops.minimum(ops.maximum(lower, t), upper)


def epsilon(x: types.Tensor) -> float:
    """The machine epsilon of a tensor's type."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)


def _chord(start: Pair, end: Pair) -> tuple[types.Tensor, types.Tensor]:
    """Whether two points, left one first, lie apart, and the slope from one to the other."""
    run = end[0] - start[0]
    # The gradient of a quotient squares the divisor, which must not overflow.
    apart = run > float(np.finfo(keras.backend.standardize_dtype(run.dtype)).tiny) ** 0.5
    return apart, (end[1] - start[1]) / ops.where(apart, run, 1.0)


def _bisect(
    go_right: Callable[[types.Tensor], types.Tensor], left: types.Tensor, right: types.Tensor
) -> tuple[types.Tensor, types.Tensor]:
    """Halves brackets ``[left, right]`` towards where `go_right` turns from true to false."""

    def halve(_: Any, bracket: Pair) -> Pair:
        left, right = bracket
        middle = 0.5 * left + 0.5 * right
        move = go_right(middle)
        return ops.where(move, middle, left), ops.where(move, right, middle)

    return ops.fori_loop(0, _STEPS, halve, (left, right))


def _neighbours(t: float, like: types.Tensor) -> tuple[float, float]:
    """The numbers on both sides of a kink `t`; not denormal, as these count as 0."""
    dtype = np.dtype(keras.backend.standardize_dtype(like.dtype))
    if t == 0:
        return -float(np.finfo(dtype).tiny), float(np.finfo(dtype).tiny)
    low, high = (np.nextafter(dtype.type(t), dtype.type(end)) for end in (-_INF, _INF))
    return float(low), float(high)
