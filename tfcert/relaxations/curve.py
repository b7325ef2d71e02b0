"""A scalar function with declared facts, and the bounds that follow from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import types

__all__ = ["Curve", "Lines", "SLACK", "SLOPES", "monotone_only"]

_INF = math.inf

# Evaluations, slopes and intercepts are rounded. Intercepts are moved outwards by this many machine
# epsilons of the magnitudes involved, so that the lines hold in exact arithmetic: about 5e-7
# relative in float32, 1e-15 in float64.
SLACK = 4.0

# Halvings of a bracket around a touching point. A touching point that is off by d costs about d**2
# in the intercept, so that 24 halvings reach rounding error for any interval that is narrower than
# 1000.
_STEPS = 24

SLOPES = ("adaptive", "same", "zero", "one")

_Point = tuple[types.Tensor, types.Tensor]


class Lines(NamedTuple):
    """Lines that enclose a function f on an interval.

    ``lower_slope * x + lower_intercept <= f(x) <= upper_slope * x + upper_intercept``.
    """

    lower_slope: types.Tensor
    lower_intercept: types.Tensor
    upper_slope: types.Tensor
    upper_intercept: types.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A scalar function and the facts from which its bounds follow.

    The line below f is the supporting line, at the midpoint, of the convex envelope of f on
    ``[lower, upper]``; of all lines below f it leaves the smallest area. Its slope is found by
    bisection. Its intercept is

        min over x in [lower, upper] of f(x) - slope * x,

    bounded from below whatever the slope: only end points matter where f is concave or linear, and
    where f is convex the tangents at both ends of a bracket around the minimum are below f. The
    line above f mirrors this.

    Where an end is infinite or f overflows, both lines are constant: the range of f, infinite if
    need be. Where ``[lower, upper]`` leaves the domain, compiled code cannot raise: the range and
    the intercepts are NaN there.

    Example:

    >>> cube = Curve(
    ...     "cube",
    ...     lambda x: x * x * x,
    ...     lambda x: 3.0 * x * x,
    ...     breaks=(0.0,),
    ...     curvature=("concave", "convex"),
    ... )
    >>> cube.interval(-1.0, 2.0)  # Bounds(lower=-1.0, upper=8.0)
    >>> quartic = Curve(
    ...     "quartic", lambda x: x**4, lambda x: 4.0 * x**3, curvature=("convex",), turning=(0.0,)
    ... )
    >>> lines = quartic.lines(-1.0, 2.0)

    Args:
        name: Used in messages.
        function: f, written with ``keras.ops``. Continuous.
        derivative: f', accurate to a few units in the last place *relative to f'*: a derivative
            that is written as ``1 - tanh(x)**2`` is pure noise for large x, and wide intervals
            multiply that noise.
        breaks: Increasing points where the curvature changes or f' jumps.
        curvature: One more entry than `breaks`: ``"convex"``, ``"concave"``, ``"linear"``, or
            ``"monotone"`` where nothing else is known, which gives constant lines.
        turning: Points where f turns between increasing and decreasing; f is monotone between them.
        shape: ``"convex"`` or ``"concave"`` if f is that as a whole, its kinks included; it saves
            the bisections. Known without `breaks`.
        domain: f is defined on the open interval ``(low, high)``.
        domain_closed: Whether finite ends belong to the domain.
        poles: Points that no interval may contain.
        domain_text: The domain in words, for error messages.
        limits: ``(f(-inf), f(inf))``, needed where evaluating f there gives NaN.
        noise: f is evaluated with an error of at most ``SLACK / 2`` epsilons of
            ``|f(x)| + min(|x|, noise)``; positive for functions that lose digits by cancellation.
    """

    name: str
    function: Callable[[types.Tensor], types.Tensor]
    derivative: Callable[[types.Tensor], types.Tensor]
    breaks: tuple[float, ...] = ()
    curvature: tuple[str, ...] = ("convex",)
    turning: tuple[float, ...] = ()
    shape: str | None = None
    domain: tuple[float, float] = (-_INF, _INF)
    domain_closed: bool = False
    poles: tuple[float, ...] = ()
    domain_text: str = ""
    limits: tuple[float, float] | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        # NumPy's scalars would turn float32 results into float64.
        for field in ("breaks", "turning", "poles", "domain"):
            object.__setattr__(self, field, tuple(map(float, getattr(self, field))))
        known = {"convex", "concave", "linear", "monotone"}
        if len(self.curvature) != len(self.breaks) + 1 or not set(self.curvature) <= known:
            raise ValueError(
                f"`curvature` must have one more entry than `breaks`, each one of {sorted(known)}. "
                f"Received: curvature={self.curvature}, breaks={self.breaks}"
            )
        if list(self.breaks) != sorted(set(self.breaks)):
            raise ValueError(f"`breaks` must be increasing. Received: breaks={self.breaks}")
        if not self.breaks and self.curvature[0] in ("convex", "concave"):
            object.__setattr__(self, "shape", self.curvature[0])

    def __call__(self, x: types.Tensor) -> types.Tensor:
        return self.function(ops.convert_to_tensor(x))

    def interval(self, lower: types.Tensor, upper: types.Tensor) -> types.Bounds:
        """The range of f on ``[lower, upper]``; NaN where that leaves the domain."""
        lower, upper, inside = self._inside(lower, upper)
        values = [self._value(lower), self._value(upper)]
        values += [self._value(_between(t, lower, upper)) for t in self.turning]
        low, high = values[0], values[0]
        for value in values[1:]:
            low, high = ops.minimum(low, value), ops.maximum(high, value)
        low, high = capped(low, high)
        return types.Bounds(ops.where(inside, low, np.nan), ops.where(inside, high, np.nan))

    def lines(self, lower: types.Tensor, upper: types.Tensor, slope: str = "adaptive") -> Lines:
        """The tightest lines on ``[lower, upper]``, or with another slope for the lower one.

        Args:
            lower, upper: Ends of the interval, of any one shape.
            slope: The slope of the lower line where f is not linear: ``"adaptive"`` (the tightest),
                ``"same"`` (that of the upper line), ``"zero"`` or ``"one"``.
        """
        if slope not in SLOPES:
            raise ValueError(f"`slope` must be one of {SLOPES}. Received: slope={slope!r}")
        bounds = self.interval(lower, upper)
        unstable = self.unstable(lower, upper)
        lower, upper, finite = self._finite(lower, upper)
        low = self._tightest(1.0, lower, upper)
        high = self._tightest(-1.0, lower, upper)
        if slope != "adaptive":
            other = {
                "same": -high[0],
                "zero": ops.zeros_like(low[0]),
                "one": ops.ones_like(low[0]),
            }[slope]
            low = (
                ops.where(unstable, other, low[0]),
                ops.where(unstable, self._offset(1.0, other, lower, upper), low[1]),
            )
        return self._checked(low, (-high[0], -high[1]), bounds, finite)

    def lines_with_slopes(
        self,
        lower_slope: types.Tensor,
        upper_slope: types.Tensor,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> Lines:
        """Sound intercepts for any slopes, which broadcast against the interval's ends.

        The gradient of an intercept with respect to its slope is minus the point where the line
        touches f.
        """
        bounds = self.interval(lower, upper)
        lower, upper, finite = self._finite(lower, upper)
        low = self._offset(1.0, lower_slope, lower, upper)
        high = self._offset(-1.0, -upper_slope, lower, upper)
        return self._checked((lower_slope, low), (upper_slope, -high), bounds, finite)

    def slope_range(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor, types.Tensor]:
        """Slopes among which the best lines are found.

        They are the slopes of the convex (concave) envelope at both ends of the interval: every
        line that touches the envelope from below (above) inside the interval has a slope between
        them.

        Returns:
            ``(lower_min, lower_max, upper_min, upper_max)``.
        """
        bounds = self.lines(lower, upper)
        lower, upper, finite = self._finite(lower, upper)
        result = []
        for sign, slope in ((1.0, bounds.lower_slope), (-1.0, -bounds.upper_slope)):
            least, most = self._envelope_slopes(sign, lower, upper)
            least = ops.where(finite & ops.isfinite(least), ops.minimum(least, slope), slope)
            most = ops.where(finite & ops.isfinite(most), ops.maximum(most, slope), slope)
            result += [least, most] if sign > 0 else [-most, -least]
        lower_min, lower_max, upper_min, upper_max = result
        return lower_min, lower_max, upper_min, upper_max

    def unstable(self, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Where f is not linear on ``[lower, upper]``, so that tighter bounds of the input help."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        result = lower < upper
        for low, high in self._segments("linear"):
            result = result & ((lower < low) | (upper > high))
        return result

    # What follows bounds g = sign * f from below; the line above f is minus the line below -f.

    def _tightest(
        self, sign: float, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor]:
        """The supporting line, at the midpoint, of the convex envelope of g."""
        if self.shape == _convex(sign):
            middle = 0.5 * lower + 0.5 * upper
            slope = sign * self.derivative(middle)
            intercept = sign * self(middle) - slope * middle
            return slope, intercept - self._slack(intercept, slope, lower, upper)
        slope = self._support(sign, lower, upper)
        return slope, self._offset(sign, slope, lower, upper)

    def _support(self, sign: float, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Slope of the convex envelope of g at the midpoint m.

        The envelope at m is the least of g(m), where g is convex there, and of all chords across m.
        A chord that supports g begins at `lower`, at a kink, or at a tangent point.
        """
        middle = 0.5 * lower + 0.5 * upper
        slope = sign * self.derivative(middle)
        if "monotone" in self.curvature:
            return ops.zeros_like(slope)
        value = ops.full_like(middle, _INF)
        for low, high in self._segments(_convex(sign)):
            value = ops.where((low <= middle) & (middle <= high), sign * self(middle), value)
        for start, end in self._chords(sign, lower, upper):
            apart, chord = _chord(start, end)
            height = start[1] + chord * (middle - start[0])
            better = apart & (start[0] <= middle) & (middle <= end[0]) & (height < value)
            slope = ops.where(better, chord, slope)
            value = ops.where(better, height, value)
        least, most = self._derivatives(sign, lower, upper)
        return ops.maximum(ops.minimum(slope, most), least)

    def _envelope_slopes(
        self, sign: float, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor]:
        """Slopes of the convex envelope of g at both ends."""
        if "monotone" in self.curvature:
            return ops.zeros_like(lower), ops.zeros_like(lower)
        if self.shape == _convex(sign):
            return sign * self.derivative(lower), sign * self.derivative(upper)
        least, most = ops.full_like(lower, _INF), ops.full_like(lower, -_INF)
        for low, high in self._segments(_convex(sign)):
            least = ops.where((low <= lower) & (lower < high), sign * self.derivative(lower), least)
            most = ops.where((low < upper) & (upper <= high), sign * self.derivative(upper), most)
        for start, end in self._chords(sign, lower, upper):
            apart, chord = _chord(start, end)
            least = ops.where(apart & (start[0] <= lower), ops.minimum(least, chord), least)
            most = ops.where(apart & (end[0] >= upper), ops.maximum(most, chord), most)
        low, high = self._derivatives(sign, lower, upper)
        return ops.maximum(least, low), ops.minimum(most, high)

    def _chords(
        self, sign: float, lower: types.Tensor, upper: types.Tensor
    ) -> list[tuple[_Point, _Point]]:
        """Points of g, left and right, between which the convex envelope may be straight."""
        first, last = (lower, sign * self(lower)), (upper, sign * self(upper))
        corners = self._corners(sign, lower, upper)
        # First, so that it wins ties: it alone carries the gradient of both ends.
        chords = [(first, last)]
        chords += [(first, corner) for corner in corners] + [(corner, last) for corner in corners]
        chords += itertools.combinations(corners, 2)
        for low, high in self._segments(_convex(sign)):
            left, right = self._tangent_points(sign, low, high, lower, upper)
            chords += [(first, (left, sign * self(left))), ((right, sign * self(right)), last)]
        return chords

    def _tangent_points(
        self, sign: float, low: float, high: float, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor]:
        """Where the tangents from the interval's ends touch the convex ``[low, high]`` of g.

        By the envelope theorem the slope of such a tangent does not change to first order when its
        touching point moves, so that no gradient is lost by holding these points fixed.
        """
        lower, upper = ops.stop_gradient(lower), ops.stop_gradient(upper)
        ends = ops.stack([lower, upper])
        heights = sign * self(ends)

        def go_right(x: types.Tensor) -> types.Tensor:
            above = sign * self(x) + sign * self.derivative(x) * (ends - x) - heights
            return ops.stack([above[0] > 0, above[1] < 0])

        left, right = _between(low, lower, upper), _between(high, lower, upper)
        left, right = _bisect(go_right, ops.stack([left, left]), ops.stack([right, right]))
        left, right = (
            ops.where(low <= lower, lower, right[0]),
            ops.where(upper <= high, upper, left[1]),
        )
        return ops.stop_gradient(left), ops.stop_gradient(right)

    def _derivatives(
        self, sign: float, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor]:
        """Least and greatest derivative of g on the interval: no slope outside them is of use.

        They keep the rounding noise of a chord across a tiny interval from spoiling its slope.
        """
        points = [lower, upper]
        for t in self.breaks:
            points += [_between(side, lower, upper) for side in _neighbours(t, lower)]
        least = most = sign * self.derivative(points[0])
        for point in points[1:]:
            slope = sign * self.derivative(point)
            least, most = ops.minimum(least, slope), ops.maximum(most, slope)
        return ops.stop_gradient(least), ops.stop_gradient(most)

    def _offset(
        self, sign: float, slope: types.Tensor, lower: types.Tensor, upper: types.Tensor
    ) -> types.Tensor:
        """The greatest intercept known to be sound: a lower bound of ``g(x) - slope * x``."""
        result = ops.minimum(sign * self(lower) - slope * lower, sign * self(upper) - slope * upper)
        for x, value in self._corners(sign, lower, upper):
            result = ops.minimum(result, value - slope * x)
        for low, high in self._segments(_convex(sign)):
            result = ops.minimum(result, self._segment_offset(sign, slope, low, high, lower, upper))
        for low, high in self._segments("monotone"):
            left, right = _between(low, lower, upper), _between(high, lower, upper)
            least = ops.minimum(sign * self(left), sign * self(right))
            result = ops.minimum(result, least - ops.maximum(slope * left, slope * right))
        return result - self._slack(result, slope, lower, upper)

    def _segment_offset(
        self,
        sign: float,
        slope: types.Tensor,
        low: float,
        high: float,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> types.Tensor:
        """A lower bound of ``g(x) - slope * x`` on the convex segment ``[low, high]``.

        The bracket [a, b] around the minimum gives two bounds, as both tangents are below g:
        g(a) - slope * a + min(g'(a) - slope, 0) * (b - a), and the mirror image at b.
        """
        fixed = ops.stop_gradient(slope)
        start = ops.stop_gradient(_between(low, lower, upper) + ops.zeros_like(slope))
        end = ops.stop_gradient(_between(high, lower, upper) + ops.zeros_like(slope))
        start, end = _bisect(lambda x: sign * self.derivative(x) < fixed, start, end)
        width = ops.where(end > start, end - start, 0.0)
        fall = ops.minimum(sign * self.derivative(start) - fixed, 0.0)
        rise = ops.maximum(sign * self.derivative(end) - fixed, 0.0)
        # An infinite derivative (sqrt at 0) gives the bound -inf, and the other end decides.
        drop_start = ops.where(width > 0, -fall * width, 0.0)
        drop_end = ops.where(width > 0, rise * width, 0.0)
        by_start = (
            sign * self(start) - fixed * start - drop_start
            >= sign * self(end) - fixed * end - drop_end
        )
        touch = ops.stop_gradient(ops.where(by_start, start, end))
        touch = ops.where(touch <= lower, lower, ops.where(touch >= upper, upper, touch))
        return (
            sign * self(touch)
            - slope * touch
            - ops.stop_gradient(ops.where(by_start, drop_start, drop_end))
        )

    def _checked(
        self, low: _Point, high: _Point, bounds: types.Bounds, finite: types.Tensor
    ) -> Lines:
        """Lines from both (slope, intercept); constants from `bounds` where a line is unusable."""
        least, most = ops.stop_gradient(bounds.lower), ops.stop_gradient(bounds.upper)
        least, most = (
            end + side * SLACK * epsilon(end) * (ops.abs(end) + self.noise)
            for end, side in ((least, -1.0), (most, 1.0))
        )
        low_ok = finite & ops.isfinite(low[0]) & ops.isfinite(low[1])
        high_ok = finite & ops.isfinite(high[0]) & ops.isfinite(high[1])
        return Lines(
            ops.where(low_ok, low[0], 0.0),
            ops.where(low_ok, low[1], least),
            ops.where(high_ok, high[0], 0.0),
            ops.where(high_ok, high[1], most),
        )

    def _slack(
        self,
        intercept: types.Tensor,
        slope: types.Tensor,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> types.Tensor:
        """How far an intercept is moved outwards for rounding."""
        size = ops.maximum(ops.abs(lower), ops.abs(upper))
        scale = ops.abs(intercept) + ops.abs(slope) * size + ops.minimum(size, self.noise)
        # Products with anything below the smallest normal number may be flushed to 0.
        tiny = float(np.finfo(keras.backend.standardize_dtype(lower.dtype)).tiny)
        return ops.stop_gradient(SLACK * (epsilon(lower) * scale + tiny * (1.0 + size)))

    def _corners(self, sign: float, lower: types.Tensor, upper: types.Tensor) -> list[_Point]:
        """Kinks of g, moved into the interval; ends of convex segments need none."""
        if self.shape is not None:
            return []
        ends = {end for segment in self._segments(_convex(sign)) for end in segment}
        points = [_between(t, lower, upper) for t in self.breaks if t not in ends]
        return [(x, sign * self(x)) for x in points]

    def _segments(self, kind: str) -> list[tuple[float, float]]:
        """The pieces of the line with one kind of curvature."""
        ends = (-_INF, *self.breaks, _INF)
        return [
            (ends[i], ends[i + 1])
            for i, curvature in enumerate(self.curvature)
            if curvature == kind
        ]

    def _value(self, x: types.Tensor) -> types.Tensor:
        """f, and its limit at an infinite end."""
        if self.limits is None:
            return self(x)
        finite = ops.where(ops.isinf(x), self._safe_point(), x)
        limit = ops.where(x < 0, self.limits[0], self.limits[1])
        return ops.where(ops.isinf(x), ops.cast(limit, finite.dtype), self(finite))

    def _inside(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor]:
        """The interval, where it lies inside the domain, and where that is."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        low, high = self.domain
        inside = (lower == lower) & (upper == upper)  # A NaN is passed on.
        if low > -_INF:
            inside = inside & ((lower >= low) if self.domain_closed else (lower > low))
        if high < _INF:
            inside = inside & ((upper <= high) if self.domain_closed else (upper < high))
        for pole in self.poles:
            inside = inside & ((lower > pole) | (upper < pole))
        safe = self._safe_point()
        return ops.where(inside, lower, safe), ops.where(inside, upper, safe), inside

    def _finite(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor]:
        """The interval where f can be computed on all of it, else a point; and where that is."""
        lower, upper, inside = self._inside(lower, upper)
        middle = 0.5 * lower + 0.5 * upper
        finite = inside & ops.isfinite(upper - lower) & ops.isfinite(self.derivative(middle))
        finite = finite & ops.isfinite(self(lower)) & ops.isfinite(self(upper))
        safe = self._safe_point()
        return ops.where(finite, lower, safe), ops.where(finite, upper, safe), finite

    def _safe_point(self) -> float:
        low, high = self.domain
        if math.isinf(low) and math.isinf(high):
            return 1.0
        if math.isinf(high):
            return low + 1.0
        return high - 1.0 if math.isinf(low) else 0.5 * (low + high)


def monotone_only(
    name: str,
    function: Callable[[types.Tensor], types.Tensor],
    decreasing: bool = False,
    **facts: Any,
) -> Curve:
    """A function of which only monotonicity is known: its lines are constants.

    Its range comes from the end points.

    >>> staircase = monotone_only("staircase", ops.floor)
    """
    del decreasing  # Both directions are bounded by the lesser and the greater end point.
    return Curve(name, function, ops.zeros_like, curvature=("monotone",), **facts)


def _convex(sign: float) -> str:
    """The curvature of f for which ``sign * f`` is convex."""
    return "convex" if sign > 0 else "concave"


def _chord(start: _Point, end: _Point) -> tuple[types.Tensor, types.Tensor]:
    """Whether two points, left one first, lie apart, and the slope from one to the other."""
    run = end[0] - start[0]
    # The gradient of a quotient squares the divisor, which must not overflow.
    apart = run > float(np.finfo(keras.backend.standardize_dtype(run.dtype)).tiny) ** 0.5
    return apart, (end[1] - start[1]) / ops.where(apart, run, 1.0)


def _between(t: types.Tensor, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
    return ops.minimum(ops.maximum(lower, t), upper)


def _bisect(
    go_right: Callable[[types.Tensor], types.Tensor], left: types.Tensor, right: types.Tensor
) -> tuple[types.Tensor, types.Tensor]:
    """Halves brackets ``[left, right]`` towards where `go_right` turns from true to false."""

    def halve(_: Any, bracket: _Point) -> _Point:
        left, right = bracket
        middle = 0.5 * left + 0.5 * right
        move = go_right(middle)
        return ops.where(move, middle, left), ops.where(move, right, middle)

    return ops.fori_loop(0, _STEPS, halve, (left, right))


def capped(low: types.Tensor, high: types.Tensor) -> types.Bounds:
    """Bounds without an infinite lower one, which would prove anything: f has only overflowed."""
    largest = float(np.finfo(keras.backend.standardize_dtype(low.dtype)).max)
    return types.Bounds(ops.minimum(low, largest), ops.maximum(high, -largest))


def epsilon(x: types.Tensor) -> float:
    """The machine epsilon of a tensor's type."""
    return float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)


def _neighbours(t: float, like: types.Tensor) -> tuple[float, float]:
    """The numbers on both sides of a kink `t`; not denormal, as these count as 0."""
    dtype = np.dtype(keras.backend.standardize_dtype(like.dtype))
    if t == 0:
        return -float(np.finfo(dtype).tiny), float(np.finfo(dtype).tiny)
    low, high = (np.nextafter(dtype.type(t), dtype.type(end)) for end in (-_INF, _INF))
    return float(low), float(high)
