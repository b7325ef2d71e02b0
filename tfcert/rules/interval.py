"""An interval that is kept in the form in which it was computed."""

from __future__ import annotations

from keras import ops

from tfcert.types import Bounds, Tensor

__all__ = ["Interval"]


class Interval:
    """Ends and centre-radius form of one enclosure, each computed once, when first asked for.

    Affine layers want ``centre -/+ radius``, monotone functions want the ends; keeping what is
    there saves the conversions between two layers of the same kind.
    """

    __slots__ = ("_center", "_lower", "_radius", "_upper")

    def __init__(
        self,
        lower: Tensor = None,
        upper: Tensor = None,
        center: Tensor = None,
        radius: Tensor = None,
    ):
        self._lower, self._upper, self._center, self._radius = lower, upper, center, radius

    @classmethod
    def from_ends(cls, lower: Tensor, upper: Tensor) -> Interval:
        return cls(lower=lower, upper=upper)

    @classmethod
    def from_center(cls, center: Tensor, radius: Tensor) -> Interval:
        return cls(center=center, radius=radius)

    @property
    def lower(self) -> Tensor:
        if self._lower is None:
            self._lower = self._center - self._radius
        return self._lower

    @property
    def upper(self) -> Tensor:
        if self._upper is None:
            self._upper = self._center + self._radius
        return self._upper

    @property
    def center(self) -> Tensor:
        if self._center is None:
            self._center = 0.5 * (self._lower + self._upper)
        return self._center

    @property
    def radius(self) -> Tensor:
        if self._radius is None:
            self._radius = 0.5 * (self._upper - self._lower)
        return self._radius

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.lower, self.upper)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value in the interval."""
        return ops.maximum(ops.abs(self.lower), ops.abs(self.upper))

    def intersect(self, lower: Tensor, upper: Tensor) -> Interval:
        """The part common with another enclosure of the same value.

        Two sound enclosures always meet; where rounding makes them miss each other by a few ulps,
        the ends are put in order again.
        """
        low, high = ops.maximum(self.lower, lower), ops.minimum(self.upper, upper)
        return Interval.from_ends(ops.minimum(low, high), ops.maximum(low, high))

    def widen(self, error: Tensor) -> Interval:
        """The interval with ``error`` added on both sides."""
        return Interval.from_ends(self.lower - error, self.upper + error)
