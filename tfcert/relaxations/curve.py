"""A scalar function with declared facts, and the bounds that follow from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import types
from tfcert.relaxations.envelope import SLACK, Envelope, Pair, between, epsilon

__all__ = ["Curve", "Lines", "SLACK", "SLOPES", "monotone_only"]

_INF = math.inf

SLOPES = ("adaptive", "same", "zero", "one")


class Lines(NamedTuple):
    """Lines that enclose a function f on an interval.

    ``lower_slope * x + lower_intercept <= f(x) <= upper_slope * x + upper_intercept``.

    Args:
        lower_slope: The slope of the line below f.
        lower_intercept: The value of that line at 0.
        upper_slope: The slope of the line above f.
        upper_intercept: The value of that line at 0.
    """

    lower_slope: types.Tensor
    lower_intercept: types.Tensor
    upper_slope: types.Tensor
    upper_intercept: types.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A scalar function with the properties from which its bounds follow.

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
        domain: The open interval ``(low, high)`` on which f is defined.
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

    @property
    def is_searched(self) -> bool:
        """Returns whether a search finds the lines, because no closed form exists."""
        return self.shape is None and set(self.curvature) != {"linear"}

    def __call__(self, x: types.Tensor) -> types.Tensor:
        return self.function(ops.convert_to_tensor(x))

    def interval(self, lower: types.Tensor, upper: types.Tensor) -> types.Bounds:
        """Returns the range of f on ``[lower, upper]``, or NaN outside the domain."""
        lower, upper, inside = self._inside(lower, upper)
        values = [self._value(lower), self._value(upper)]
        values += [self._value(between(t, lower, upper)) for t in self.turning]
        low, high = values[0], values[0]
        for value in values[1:]:
            low, high = ops.minimum(low, value), ops.maximum(high, value)
        low, high = capped(low, high)
        return types.Bounds(ops.where(inside, low, np.nan), ops.where(inside, high, np.nan))

    def lines(self, lower: types.Tensor, upper: types.Tensor, slope: str = "adaptive") -> Lines:
        """Returns the tightest lines on ``[lower, upper]``, or lines with another lower slope.

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
        below = self.envelope(1.0, lower, upper)
        low, high = below.tightest(), self.envelope(-1.0, lower, upper).tightest()
        if slope != "adaptive":
            other = {
                "same": -high[0],
                "zero": ops.zeros_like(low[0]),
                "one": ops.ones_like(low[0]),
            }[slope]
            low = (
                ops.where(unstable, other, low[0]),
                ops.where(unstable, below.offset(other), low[1]),
            )
        return self._checked(low, (-high[0], -high[1]), bounds, finite)

    def lines_with_slopes(
        self,
        lower_slope: types.Tensor,
        upper_slope: types.Tensor,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> Lines:
        """Returns sound intercepts for any slopes, which broadcast to the interval's ends.

        The gradient of an intercept with respect to its slope is minus the point where the line
        touches f.
        """
        bounds = self.interval(lower, upper)
        lower, upper, finite = self._finite(lower, upper)
        low = self.envelope(1.0, lower, upper).offset(lower_slope)
        high = self.envelope(-1.0, lower, upper).offset(-upper_slope)
        return self._checked((lower_slope, low), (upper_slope, -high), bounds, finite)

    def slope_range(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor, types.Tensor]:
        """Returns the limits between which the slopes of the best lines lie.

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
            least, most = self.envelope(sign, lower, upper).end_slopes()
            least = ops.where(finite & ops.isfinite(least), ops.minimum(least, slope), slope)
            most = ops.where(finite & ops.isfinite(most), ops.maximum(most, slope), slope)
            result += [least, most] if sign > 0 else [-most, -least]
        lower_min, lower_max, upper_min, upper_max = result
        return lower_min, lower_max, upper_min, upper_max

    def unstable(self, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Returns whether f is not linear on ``[lower, upper]``: then tighter inputs help."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        result = lower < upper
        ends = (-_INF, *self.breaks, _INF)
        for i, kind in enumerate(self.curvature):
            if kind == "linear":
                result = result & ((lower < ends[i]) | (upper > ends[i + 1]))
        return result

    def envelope(self, sign: float, lower: types.Tensor, upper: types.Tensor) -> Envelope:
        """Returns the envelope that bounds ``sign * f`` from below on an interval with finite f."""
        return Envelope(self, sign, lower, upper)

    def _checked(self, low: Pair, high: Pair, bounds: types.Bounds, finite: types.Tensor) -> Lines:
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
    """Returns the curve of a function that is only known to be monotone; its lines are constants.

    Its range comes from the end points.

    Args:
        name: Used in messages.
        function: The function, of a tensor.
        decreasing: Whether the function falls instead of rising.
        **facts: More facts of a ``Curve``, such as its ``domain``.

    Example:

    >>> staircase = monotone_only("staircase", ops.floor)
    """
    del decreasing  # Both directions are bounded by the lesser and the greater end point.
    return Curve(name, function, ops.zeros_like, curvature=("monotone",), **facts)


def capped(low: types.Tensor, high: types.Tensor) -> types.Bounds:
    """Bounds without an infinite lower one, which would prove anything: f has only overflowed."""
    largest = float(np.finfo(keras.backend.standardize_dtype(low.dtype)).max)
    return types.Bounds(ops.minimum(low, largest), ops.maximum(high, -largest))
