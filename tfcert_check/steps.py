"""The steps of a network: values, intervals and linear bounds.

Intervals and rows hold for the exact numbers, or for those of an execution in float32 where a step
is ``float_safe``: ``rounding`` says how. A step computes one value from earlier ones. Besides the
input, it can ``enclose`` its value, which gives the interval and a size that ``backward`` asks for.

``backward`` replaces rows of the value, ``(boxes, rows, size)``, which are taken as exact numbers,
by rows of the values before, and by a number. These rows times their values, and the number, are
together a lower bound of the given rows times the value. Slopes are those of lower lines,
``(boxes or 1, rows or 1, size)``; NaN or None: by rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfcert_check.operators import Array, Linear, Pick
from tfcert_check.rounding import FLUSHED, TINY, dot, down, executed, lost, share, up

__all__ = ["Affine", "Input", "Interval", "Step", "TwoPiece"]


class Interval(NamedTuple):
    """Limits of a value on boxes, ``(boxes or 1, n)``."""

    lower: Array
    upper: Array

    @property
    def largest(self) -> Array:
        """An upper limit of the absolute value."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))

    def least(self, rows: Array) -> Array:
        """A lower bound of rows of the value, ``(boxes, rows)``."""
        least = dot(np.maximum(rows, 0), self.lower) + dot(np.minimum(rows, 0), self.upper)
        return down(least - lost(rows, self.largest))


# Maps, and the places of the values that they read.
Parts = list[tuple[Linear, int]]
# Of all values before, by their places; of lower lines; what arrives at which places, and a number.
Intervals = list[Interval]
Slopes = Array | None
Arrived = tuple[list[tuple[int, Array]], Array]


class Input:
    """The input: rows have their minimum on the box."""

    def __init__(self, size: int):
        self.size = size

    def backward(self, rows: Array, intervals: Intervals, size: Array, slopes: Slopes) -> Arrived:
        return [], intervals[0].least(rows)


class Affine:
    """``sum of L x + bias`` over some values x before."""

    def __init__(self, parts: Parts, bias: Array, float_safe: bool = False):
        self.parts, self.bias, self.size = parts, bias, len(bias)
        self._terms = 1 + sum(operator.terms + 1 for operator, _ in parts)
        self._back = sum(operator.back + 1 for operator, _ in parts)
        # What an execution in float32 is off by, as a part of ``size``; moving values is exact.
        moves = all(isinstance(operator, Pick) for operator, _ in parts)
        self._executed = executed(self._terms) if float_safe and not moves else 0.0
        self._tiny = FLUSHED if float_safe else TINY

    def enclose(self, intervals: Intervals) -> tuple[Interval, Array]:
        center, radius = self.bias[None], np.zeros((1, self.size))
        size = np.abs(self.bias)[None] + self._tiny
        for operator, place in self.parts:
            lower, upper = intervals[place]
            largest, absolute = intervals[place].largest, operator.absolute()
            middle = 0.5 * lower + 0.5 * upper
            around = up(np.maximum(upper - middle, middle - lower))
            center = center + operator.apply(middle)
            radius = radius + absolute.apply(around)
            size = size + absolute.apply(largest + self._tiny) + self._tiny * largest.max()
        radius = up(radius + share(self._terms) * (radius + size) + self._executed * size)
        return Interval(down(center - radius), up(center + radius)), size

    def backward(self, rows: Array, intervals: Intervals, size: Array, slopes: Slopes) -> Arrived:
        # ``rows L x`` is off by at most a share of ``|rows| |L| |x|``. As ``size`` is at least
        # ``|L| |x| + |bias|``, one dot product covers these errors and those of the bias. The value
        # as executed is off by a part of ``size``, too.
        flat = rows.reshape(-1, self.size)
        arrived = [
            (place, operator.transpose(flat).reshape(*rows.shape[:2], -1))
            for operator, place in self.parts
        ]
        errors = lost(rows, size, self._back, self._executed)
        return arrived, down(dot(rows, self.bias[None]) - errors)


class TwoPiece:
    """``z`` where z >= 0, else ``slope z``, with a slope from 0 to 1."""

    def __init__(self, source: int, slope: float, size: int, float_safe: bool = False):
        self.source, self.slope, self.size = source, slope, size
        self._executed = executed(1) if float_safe else 0.0

    def enclose(self, intervals: Intervals) -> tuple[Interval, Array]:
        z = intervals[self.source]
        lower, upper = (
            np.where(end >= 0, end, rounded(self.slope * end) if self.slope else 0.0)
            for end, rounded in zip(z, (down, up), strict=True)
        )
        # What an execution is off by: the product with the slope, and values that count as 0.
        off = self._executed * (self.slope * np.maximum(-z.lower, 0) + FLUSHED)
        if self._executed:
            lower, upper = down(lower - off), up(upper + off)
        return Interval(lower, upper), off

    def lines(self, z: Interval, slopes: Slopes) -> tuple[Array, Array, Array]:
        """Lines around the function: ``lower z <= f(z) <= upper z + offset`` on an interval of z.

        The lower ones, ``(boxes or 1, rows or 1, n)``, have given slopes; None, NaN: by rule.
        A lower line through 0 holds for all z, with any slope between the function's two. For an
        upper line of any slope t, the offset ``max(f(u) - t u, f(l) - t l)`` is enough, as f is
        convex. Both differences are products of numbers >= 0 here, each with two roundings.
        """
        lower, upper = z
        rule = np.where(upper > -lower, 1.0, self.slope)[:, None]
        slopes = rule if slopes is None else np.where(np.isnan(slopes), rule, slopes)
        crossing = (lower < 0) & (upper > 0)
        steep = np.where(lower >= 0, 1.0, self.slope)
        width = np.where(crossing, upper - lower, 1.0)
        chord = np.clip((upper - self.slope * lower) / width, self.slope, 1.0)
        offset = np.maximum(upper * (1.0 - chord), -lower * (chord - self.slope))
        offset = np.where(crossing, offset * (1.0 + share(0)) + TINY, 0.0)
        lowest = np.where(crossing[:, None], slopes, steep[:, None])
        return lowest, np.where(crossing, chord, steep), offset

    def backward(self, rows: Array, intervals: Intervals, size: Array, slopes: Slopes) -> Arrived:
        z = intervals[self.source]
        lower, upper, offset = self.lines(z, slopes)
        # The upper line where a coefficient is negative, else the lower one.
        arrived = np.where(rows >= 0, lower, upper[:, None]) * rows
        taken = dot(np.minimum(rows, 0), offset) - dot(np.abs(rows), size)
        errors = lost(rows, z.largest + offset + size)
        return [(self.source, arrived)], down(taken - errors)


Step = Input | Affine | TwoPiece
