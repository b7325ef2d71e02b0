"""Piecewise-linear functions: closed forms, no bisection."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, types
from tfcert.relaxations import curve as curve_lib
from tfcert.relaxations.envelope import SLACK, Envelope, Pair, epsilon

__all__ = ["PiecewiseLinear", "TwoPiece"]


class TwoPiece(curve_lib.Curve):
    """The function ``f(x) = x`` for ``x >= 0``, and ``negative_slope * x`` below.

    ReLU (0), LeakyReLU, absolute value (-1), PReLU.

    On an unstable interval (lower < 0 < upper) one line is the chord, and the other passes through
    0 with any slope between both pieces'. f is convex where `negative_slope` <= 1 and concave
    elsewhere; there the roles are swapped.

    Args:
        negative_slope: A float, or a tensor that broadcasts against the inputs (PReLU).
        name: Used in messages.
    """

    negative_slope: types.Tensor

    def __init__(self, negative_slope: types.Tensor = 0.0, name: str = "two_piece"):
        super().__init__(
            name, self._evaluate, self._differentiate, breaks=(0.0,), curvature=("linear", "linear")
        )
        object.__setattr__(self, "negative_slope", negative_slope)

    def _evaluate(self, x: types.Tensor) -> types.Tensor:
        if self._fixed() == 0:
            return ops.relu(x)
        return ops.where(x >= 0, x, _times(self._alpha(x), ops.minimum(x, 0.0)))

    def _differentiate(self, x: types.Tensor) -> types.Tensor:
        return ops.where(x >= 0, ops.ones_like(x), self._alpha(x) * ops.ones_like(x))

    def _alpha(self, x: types.Tensor) -> types.Tensor:
        return ops.convert_to_tensor(self.negative_slope, dtype=x.dtype)

    def interval(self, lower: types.Tensor, upper: types.Tensor) -> types.Bounds:
        """Returns the range of f on ``[lower, upper]``."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        fixed = self._fixed()
        if fixed == 0:
            # ops.relu may turn NaN into 0, which would hide it.
            return types.Bounds(backend.rectified(lower), backend.rectified(upper))
        low = ops.where(ops.isnan(lower), lower, self(lower))
        high = ops.where(ops.isnan(upper), upper, self(upper))
        if fixed is not None and fixed >= 0:
            return types.Bounds(low, high)
        crossing = self.unstable(lower, upper)
        least, most = ops.minimum(low, high), ops.maximum(low, high)
        # Where the left piece falls, 0 is the minimum of an unstable interval.
        return types.Bounds(ops.where(crossing, ops.minimum(least, 0.0), least), most)

    def unstable(self, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Returns whether the kink lies inside the interval."""
        return (ops.convert_to_tensor(lower) < 0) & (ops.convert_to_tensor(upper) > 0)

    def lines(
        self, lower: types.Tensor, upper: types.Tensor, slope: str = "adaptive"
    ) -> curve_lib.Lines:
        """Returns the chord, and a line through 0 whose slope follows `slope`.

        ``"adaptive"``: the slope of the longer piece, which minimises the area; ``"zero"``,
        ``"one"``: that, or the nearest sound slope; ``"same"``: the slope of the chord. Stable
        intervals keep f itself.
        """
        if slope not in curve_lib.SLOPES:
            raise ValueError(
                f"`slope` must be one of {curve_lib.SLOPES}. Received: slope={slope!r}"
            )
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        if self._fixed() == 0:
            return _relu_lines(lower, upper, slope)
        alpha, convex, crossing = self._alpha(lower), self._convex(), self.unstable(lower, upper)
        chord, intercept = self._chord(lower, upper, crossing)
        if slope == "adaptive":
            through = ops.where(upper > -lower, 1.0, alpha)
        else:
            through = {"same": chord, "zero": 0.0, "one": 1.0}[slope]
            # Rounding, or infinite ends, may have put the chord's slope outside.
            through = ops.maximum(
                ops.minimum(through, ops.maximum(alpha, 1.0)), ops.minimum(alpha, 1.0)
            )
        piece = ops.where(lower >= 0, 1.0, alpha)
        through = ops.where(crossing, through, piece)
        chord = ops.where(crossing, chord, piece)
        zero = _zero_or_nan(lower, upper)
        intercept = intercept + zero
        if convex is True:
            return curve_lib.Lines(through, zero, chord, intercept)
        if convex is False:
            return curve_lib.Lines(chord, intercept, through, zero)
        return curve_lib.Lines(
            ops.where(convex, through, chord),
            ops.where(convex, zero, intercept),
            ops.where(convex, chord, through),
            ops.where(convex, intercept, zero),
        )

    def slope_range(
        self, lower: types.Tensor, upper: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor, types.Tensor, types.Tensor]:
        """Returns the limits of the slopes; only the line through 0 can move."""
        lines = self.lines(lower, upper)
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        alpha, convex, crossing = self._alpha(lower), self._convex(), self.unstable(lower, upper)
        least, most = ops.minimum(alpha, 1.0), ops.maximum(alpha, 1.0)
        below, above = crossing & convex, crossing & ops.logical_not(convex)
        return (
            ops.where(below, least, lines.lower_slope),
            ops.where(below, most, lines.lower_slope),
            ops.where(above, least, lines.upper_slope),
            ops.where(above, most, lines.upper_slope),
        )

    def lines_with_slopes(
        self,
        lower_slope: types.Tensor,
        upper_slope: types.Tensor,
        lower: types.Tensor,
        upper: types.Tensor,
    ) -> curve_lib.Lines:
        """Returns sound intercepts for any slopes, from both ends and the kink."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        alpha, crossing = self._alpha(lower), self.unstable(lower, upper)
        left = ops.where(lower >= 0, 1.0, alpha)
        right = ops.where(crossing, 1.0, left)
        # Not inf where there is no kink: an infinite lower intercept would prove anything.
        largest = float(np.finfo(keras.backend.standardize_dtype(lower.dtype)).max)
        kink = ops.where(crossing, ops.zeros_like(lower), largest)
        low = ops.minimum(_times(left - lower_slope, lower), _times(right - lower_slope, upper))
        high = ops.maximum(_times(left - upper_slope, lower), _times(right - upper_slope, upper))
        low, high = ops.minimum(low, kink), ops.maximum(high, -kink)
        slack = SLACK * epsilon(lower) + _zero_or_nan(lower, upper)
        return curve_lib.Lines(
            lower_slope,
            low * (1.0 - slack * ops.sign(low)),
            upper_slope,
            high * (1.0 + slack * ops.sign(high)),
        )

    def _fixed(self) -> float | None:
        """The negative slope where it is a number, else None."""
        return self.negative_slope if isinstance(self.negative_slope, int | float) else None

    def _convex(self) -> types.Tensor:
        """Whether f is convex: True, False, or a boolean tensor."""
        fixed = self._fixed()
        if fixed is not None:
            return fixed <= 1
        return ops.convert_to_tensor(self.negative_slope) <= 1

    def _chord(
        self, lower: types.Tensor, upper: types.Tensor, crossing: types.Tensor
    ) -> tuple[types.Tensor, types.Tensor]:
        """The line through both ends of an unstable interval, rounded to the sound side.

        With t = upper / (upper - lower): slope = a + (1 - a) * t, intercept = (1 - a) * t * -lower.
        The intercept is 0 on stable intervals.
        """
        fixed = self._fixed()
        alpha = self._alpha(lower) if fixed is None else fixed
        width = upper - lower
        bounded = crossing & (width < np.inf)
        # t and the product are rounded up, also where they would be flushed to 0: that lifts the
        # chord at both ends (lowers it, where f is concave).
        up = 1.0 + SLACK * epsilon(lower)
        tiny = float(np.finfo(keras.backend.standardize_dtype(lower.dtype)).tiny)
        share = ops.where(bounded, upper, 0.0) / ops.where(bounded, width, 1.0) * up + tiny
        intercept = (1.0 - alpha) * (share * up * ops.where(bounded, -lower, 0.0) + tiny)
        slope = alpha + (1.0 - alpha) * share
        if fixed != 0:
            # This sum is rounded too.
            rounding = (up - 1.0) * ops.where(bounded, width, 0.0) * abs(alpha)
            rounding = ops.where(self._convex(), rounding, -rounding)
            intercept = intercept + ops.stop_gradient(rounding)
        # An unbounded interval has a constant line.
        bounds = self.interval(lower, upper)
        constant = ops.stop_gradient(ops.where(self._convex(), bounds.upper, bounds.lower))
        slope = ops.where(bounded, slope, 0.0)
        return slope, ops.where(bounded, intercept, ops.where(crossing, constant, 0.0))


class PiecewiseLinear(curve_lib.Curve):
    """A piecewise-linear function, which may jump.

    ``f(x) = slopes[i] * x + intercepts[i]`` on piece i.

    Args:
        name: Used in messages.
        function: f; it decides which piece holds at a break.
        breaks: Increasing points between the pieces.
        slopes: The slope of each piece: one entry more than ``breaks``.
        intercepts: The intercept of each piece: one entry more than ``breaks``.
        **facts: More facts of a ``Curve``, such as ``turning``, the points where f turns between
            increasing and decreasing.
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def __init__(
        self,
        name: str,
        function: Callable[[types.Tensor], types.Tensor],
        breaks: Sequence[float],
        slopes: Sequence[float],
        intercepts: Sequence[float],
        **facts: Any,
    ):
        super().__init__(
            name,
            function,
            self._differentiate,
            breaks=tuple(breaks),
            curvature=("linear",) * len(slopes),
            noise=max(abs(c) for c in intercepts),
            **facts,
        )
        object.__setattr__(self, "slopes", tuple(slopes))
        object.__setattr__(self, "intercepts", tuple(intercepts))

    @property
    def continuous(self) -> bool:
        """Returns whether f has no jumps."""
        return all(left == right for _, left, right in self.ends())

    def interval(self, lower: types.Tensor, upper: types.Tensor) -> types.Bounds:
        """Returns the range of f on ``[lower, upper]``, limits at jumps included."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        values = [self._value(lower), self._value(upper)]
        low, high = ops.minimum(*values), ops.maximum(*values)
        for t, left, right in self.ends():
            # A limit counts where its piece reaches into the interval.
            for value, inside in (
                (left, (lower < t) & (t <= upper)),
                (right, (lower <= t) & (t < upper)),
            ):
                low = ops.where(inside, ops.minimum(low, value), low)
                high = ops.where(inside, ops.maximum(high, value), high)
        low, high = curve_lib.capped(low, high)
        zero = _zero_or_nan(lower, upper)
        return types.Bounds(low + zero, high + zero)

    def unstable(self, lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
        """Returns whether a break lies inside the interval, or a jump inside or on its border."""
        lower, upper = ops.convert_to_tensor(lower), ops.convert_to_tensor(upper)
        result = ops.zeros_like(lower < upper)
        for t, left, right in self.ends():
            touches = (
                (lower < t) & (t < upper)
                if left == right
                else (lower <= t) & (t <= upper) & (lower < upper)
            )
            result = result | touches
        return result

    def envelope(self, sign: float, lower: types.Tensor, upper: types.Tensor) -> Envelope:
        """Returns the envelope as in `Curve`, with both limits of f at a jump."""
        return _JumpingEnvelope(self, sign, lower, upper)

    def _differentiate(self, x: types.Tensor) -> types.Tensor:
        return self.piece(x, self.slopes)

    def piece(self, x: types.Tensor, values: Sequence[float]) -> types.Tensor:
        """Returns the entry of `values` for the piece that contains x."""
        result = ops.full_like(x, values[0])
        for t, value in zip(self.breaks, values[1:], strict=True):
            result = ops.where(x >= t, value, result)
        return result

    def ends(self) -> list[tuple[float, float, float]]:
        """Returns the breaks with the limits of f from the left and from the right."""
        result = []
        for i, t in enumerate(self.breaks):
            left = self.slopes[i] * t + self.intercepts[i]
            right = self.slopes[i + 1] * t + self.intercepts[i + 1]
            result.append((t, left, left if math.isclose(left, right, abs_tol=1e-12) else right))
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class _JumpingEnvelope(Envelope):
    """The envelope of a piecewise-linear function: exact on a piece, and below it at jumps."""

    curve: PiecewiseLinear

    def tightest(self) -> Pair:
        curve, lower, upper = self.curve, self.lower, self.upper
        slope, intercept = super().tightest()
        stable = ops.logical_not(curve.unstable(lower, upper)) & (lower < upper)
        exact = self.sign * curve.piece(self._middle(), curve.slopes)
        offset = self.sign * curve.piece(self._middle(), curve.intercepts)
        if any(value != float(np.float32(value)) for value in curve.slopes + curve.intercepts):
            offset = offset - self._slack(offset, exact)  # As 1/6 in hard_sigmoid.
        return ops.where(stable, exact, slope), ops.where(stable, offset, intercept)

    def _derivatives(self) -> tuple[types.Tensor, types.Tensor]:
        # A chord across a jump may be steeper than every piece.
        return -np.inf, np.inf

    def _corners(self) -> list[Pair]:
        lower, upper = self.lower, self.upper
        corners = []
        for t, left, right in self.curve.ends():
            ends = [(left, (lower < t) & (t <= upper))]
            if right != left:
                ends.append((right, (lower <= t) & (t < upper)))
            # Elsewhere the corner is the lower end itself.
            corners += [
                (
                    ops.where(inside, t, lower),
                    ops.where(inside, self.sign * value, self._g(lower)),
                )
                for value, inside in ends
            ]
        return corners


def _relu_lines(lower: types.Tensor, upper: types.Tensor, slope: str) -> curve_lib.Lines:
    """What ``TwoPiece.lines`` says, for ReLU, in half the operations: it is on every hot path.

    With l' = min(l, 0) and u' = max(u, 0), the chord's slope u' / (u' - l') is exact on stable
    intervals too: 1 or 0.
    """
    numbers = np.finfo(keras.backend.standardize_dtype(lower.dtype))
    up = 1.0 + SLACK * float(numbers.eps)
    # The gradient of a quotient squares the divisor.
    tiny, large = float(numbers.tiny) ** 0.5, float(numbers.max) / 4
    # Cut off, so that a stable interval with an infinite end has finite differences.
    low = ops.maximum(ops.minimum(lower, 0.0), -large)
    high = ops.minimum(ops.maximum(upper, 0.0), large)
    crossing = ops.minimum(high, -low) > 0
    width = high - low
    short = width <= tiny
    # Both factors are rounded up. Where that is not enough, as one of them is flushed to 0 or the
    # interval is short, the last term is.
    chord = ops.minimum(high / ops.where(short, 1.0, width) * up, 1.0)
    chord = ops.where(short, ops.cast(upper > 0, lower.dtype), chord)
    intercept = chord * -low * up + ops.where(crossing, tiny * (1.0 - low), 0.0)
    unbounded = crossing & (ops.maximum(upper, -lower) > large)
    chord = ops.where(unbounded, 0.0, chord)
    intercept = ops.where(unbounded, ops.maximum(upper, 0.0), intercept)
    intercept = ops.where(ops.isnan(lower) | ops.isnan(upper), np.nan, intercept)
    if slope == "adaptive":
        through = ops.cast(upper > -lower, lower.dtype)
    elif slope == "same":
        through = chord
    elif slope == "zero":
        through = ops.cast((lower >= 0) & (upper > 0), lower.dtype)
    else:
        through = ops.cast(upper > 0, lower.dtype)
    return curve_lib.Lines(through, ops.zeros_like(low), chord, intercept)


def _zero_or_nan(lower: types.Tensor, upper: types.Tensor) -> types.Tensor:
    """0, but NaN where an end is: comparisons with NaN would hide it."""
    return ops.where(ops.isnan(lower) | ops.isnan(upper), np.nan, ops.zeros_like(lower))


def _times(slope: types.Tensor, x: types.Tensor) -> types.Tensor:
    """``slope * x`` with 0 * inf = 0, and without NaN gradients where x is infinite."""
    finite = ops.isfinite(x)
    rest = ops.where(finite | (slope == 0), 0.0, ops.stop_gradient(slope * x))
    return slope * ops.where(finite, x, 0.0) + rest
