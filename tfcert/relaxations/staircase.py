"""Rounding to whole numbers, which no two kernels need to do alike, followed by a clip."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from tfcert import types
from tfcert.relaxations import curve as curve_lib
from tfcert.relaxations.envelope import SLACK, epsilon

__all__ = ["Staircase"]


class Staircase(curve_lib.Curve):
    """Some whole number at most `radius` away from x, clipped to limits that are whole numbers.

    It is not one function: bounds hold for every way to round. The least number that x may become
    is ``low(x) = clip(ceil(x - radius), limits)``, the largest ``high(x) = -low'(-x)`` with the
    limits negated. On ``[l, u]``, ``low`` lies above

        max(L, min(T, x - radius)) with L = low(l), T = low(u),

    which is flat, then rises, and is flat again. A line of the slope a below it touches it at one
    of the ends or at the first bend, ``min(L + radius, u)``. The best line is L itself if the bend
    lies behind the midpoint, and elsewhere passes through the bend and the end at u.

    Args:
        limits: The smallest and the largest whole number.
        radius: How far a result may lie from x, before the clip; at least 0.5.
        function: One way to round. Default: to the nearest number.
    """

    limits: tuple[float, float]
    radius: float

    def __init__(
        self,
        limits: tuple[int, int],
        radius: float = 0.5,
        function: Callable[[types.Tensor], types.Tensor] | None = None,
    ):
        low, high = map(float, limits)
        super().__init__(
            "staircase",
            function or (lambda x: ops.clip(ops.round(x), low, high)),
            lambda x: ops.where((x > low) & (x < high), ops.ones_like(x), ops.zeros_like(x)),
            curvature=("monotone",),
        )
        object.__setattr__(self, "limits", (low, high))
        object.__setattr__(self, "radius", float(radius))

    @property
    def is_searched(self) -> bool:
        """Returns False: the lines have closed forms."""
        return False

    def interval(self, lower: types.Tensor, upper: types.Tensor) -> types.Bounds:
        """Returns the least and the largest whole number that ``[lower, upper]`` may become."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        return types.Bounds(_least(lower, self.radius, *self.limits), self._largest(upper))

    def _largest(self, x: types.Tensor) -> types.Tensor:
        low, high = self.limits
        return -_least(-x, self.radius, -high, -low)

    def unstable(self, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Returns whether more than one whole number is possible."""
        low, high = self.interval(lower, upper)
        return low < high

    def lines(
        self, lower: types.Tensor, upper: types.Tensor, slope: str = "adaptive"
    ) -> curve_lib.Lines:
        """Returns the lines that are tightest at the midpoint, or others, as in `Curve`."""
        if slope not in curve_lib.SLOPES:
            raise ValueError(
                f"`slope` must be one of {curve_lib.SLOPES}. Received: slope={slope!r}"
            )
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        below, above = self._sides(lower, upper)
        high = above.slope()
        if slope == "adaptive":
            low = below.slope()
        else:
            low = {"same": high, "zero": ops.zeros_like(high), "one": ops.ones_like(high)}[slope]
            low = ops.where(self.unstable(lower, upper), low, ops.zeros_like(low))
        return self.lines_with_slopes(low, high, lower, upper)

    def lines_with_slopes(
        self,
        lower_slope: types.Tensor,
        upper_slope: types.Tensor,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> curve_lib.Lines:
        """Returns sound intercepts for any slopes; slopes on unbounded intervals become 0."""
        below, above = self._sides(ops.convert_to_tensor(lower), ops.convert_to_tensor(upper))
        low_slope, low = below.line(lower_slope)
        high_slope, high = above.line(upper_slope)
        return curve_lib.Lines(low_slope, low, high_slope, -high)

    def slope_range(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor, types.Tensor]:
        """Returns the limits of the slopes: from flat to the steepest line through the bend."""
        below, above = self._sides(ops.convert_to_tensor(lower), ops.convert_to_tensor(upper))
        zero = ops.zeros_like(below.steepest())
        return zero, below.steepest(), zero, above.steepest()

    def _sides(self, lower: types.Tensor, upper: types.Tensor) -> tuple[_Below, _Below]:
        """What lies below, and the mirror image of what lies above."""
        low, high = self.limits
        return (
            _Below(lower, upper, self.radius, low, high),
            _Below(-upper, -lower, self.radius, -high, -low),
        )


def _least(x: types.Tensor, radius: float, low: float, high: float) -> types.Tensor:
    """The least whole number that x may become."""
    # Some kernels turn NaN into a limit here, which would hide it.
    return ops.where(ops.isnan(x), x, ops.clip(ops.ceil(x - radius), low, high))


class _Below:
    """Lines below the staircase on ``[lower, upper]``."""

    def __init__(
        self, lower: types.Tensor, upper: types.Tensor, radius: float, low: float, high: float
    ):
        bounded = ops.isfinite(lower) & ops.isfinite(upper)
        self.bounded = bounded
        self.least = _least(lower, radius, low, high)
        self.lower = ops.where(bounded, lower, 0.0)
        self.upper = ops.where(bounded, upper, 0.0)
        top = _least(self.upper, radius, low, high)
        self.top = ops.maximum(self.least, ops.minimum(top, self.upper - radius))
        self.bend = ops.minimum(self.least + radius, self.upper)

    def steepest(self) -> types.Tensor:
        """The slope from the bend to the end at upper, 0 where they coincide."""
        run = self.upper - self.bend
        rises = self.bounded & (run > 0)
        share = (self.top - self.least) / ops.where(rises, run, 1.0)
        return ops.where(rises, ops.clip(share, 0.0, 1.0), ops.zeros_like(run))

    def slope(self) -> types.Tensor:
        """The slope of the line that is tightest at the midpoint."""
        middle = 0.5 * (self.lower + self.upper)
        return ops.where(middle > self.bend, self.steepest(), ops.zeros_like(middle))

    def line(self, slope: types.Tensor) -> tuple[types.Tensor, types.Tensor]:
        """The slope, 0 on unbounded intervals, and the intercept, rounded down."""
        slope = ops.where(self.bounded, slope, ops.zeros_like(slope))
        intercept = ops.minimum(
            self.least - slope * self.lower,
            ops.minimum(self.least - slope * self.bend, self.top - slope * self.upper),
        )
        size = ops.maximum(ops.abs(self.lower), ops.abs(self.upper))
        size = ops.abs(slope) * size + ops.abs(self.least) + ops.abs(self.top)
        return slope, intercept - ops.stop_gradient(SLACK * epsilon(size) * size)
