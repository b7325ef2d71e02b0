"""An interval that is kept in the form in which it was computed."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from tfcert.types import Bounds, Tensor

__all__ = ["Interval"]


class Interval:
    """Ends and centre-radius form of one enclosure, each computed once, when first asked for.

    Affine layers want ``centre -/+ radius``, monotone functions want the ends; keeping what is
    there saves the conversions between two layers of the same kind.
    """

    __slots__ = ("_center", "_crossable", "_lower", "_radius", "_spread", "_upper")

    def __init__(
        self,
        lower: Tensor = None,
        upper: Tensor = None,
        center: Tensor = None,
        radius: Tensor = None,
        spread: Tensor = None,
    ):
        self._lower, self._upper, self._center, self._radius = lower, upper, center, radius
        self._spread = spread
        self._crossable = False

    @classmethod
    def from_ends(cls, lower: Tensor, upper: Tensor) -> Interval:
        return cls(lower=lower, upper=upper)

    @classmethod
    def from_center(cls, center: Tensor, radius: Tensor) -> Interval:
        return cls(center=center, radius=radius)

    @classmethod
    def alike(
        cls, center: Tensor, spread: Tensor, lower: Tensor = None, upper: Tensor = None
    ) -> Interval:
        """Intervals of one radius for all samples.

        Args:
            center: ``(batch, *shape)``.
            spread: The radius, ``(1, *shape)``.
            lower: The lower ends, where they were rounded outward.
            upper: The upper ends, likewise.
        """
        return cls(lower, upper, center, spread=spread)

    @property
    def lower(self) -> Tensor:
        if self._lower is None:
            self._lower = self._center - self.spread
        return self._lower

    @property
    def upper(self) -> Tensor:
        if self._upper is None:
            self._upper = self._center + self.spread
        return self._upper

    @property
    def center(self) -> Tensor:
        if self._center is None:
            self._center = 0.5 * (self._lower + self._upper)
        return self._center

    @property
    def radius(self) -> Tensor:
        if self._radius is None and self._spread is not None:
            self._radius = ops.broadcast_to(self._spread, ops.shape(self.center))
        elif self._radius is None:
            self._radius = 0.5 * (self._upper - self._lower)
        return self._radius

    @property
    def is_centered(self) -> bool:
        """Whether only the centre and the radius are there so far."""
        return self._lower is None

    @property
    def is_alike(self) -> bool:
        """Whether the radius is known to be the same for all samples."""
        return self._spread is not None

    @property
    def spread(self) -> Tensor:
        """The radius, with a batch axis of 1 where it is the same for all samples."""
        return self.radius if self._spread is None else self._spread

    def mapped(self, center: Tensor, spread: Tensor) -> Interval:
        """An interval that follows from this one.

        Args:
            center: Its centre, computed from ``center``.
            spread: Its radius, computed from ``spread``.
        """
        return (Interval.alike if self.is_alike else Interval.from_center)(center, spread)

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.lower, self.upper)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value in the interval."""
        return ops.maximum(ops.abs(self.lower), ops.abs(self.upper))

    def moved(self, move: Callable[[Tensor], Tensor]) -> Interval:
        """The interval of moved values; what is not computed yet is not computed for it."""
        radius = self.radius if self._lower is None else self._radius
        known = (self._lower, self._upper, self._center, radius)
        found = Interval(*(None if t is None else move(t) for t in known))
        found._crossable = self._crossable
        return found

    def intersect(self, lower: Tensor, upper: Tensor) -> Interval:
        """The part common with another enclosure of the same value.

        Its ends may cross. Two sound enclosures of a value that exists miss each other by a few
        ulps at most, by rounding; ends that cross by more prove that there is no such value.
        """
        result = Interval.from_ends(ops.maximum(self.lower, lower), ops.minimum(self.upper, upper))
        result._crossable = True
        return result

    @property
    def may_cross(self) -> bool:
        """Whether the lower end may lie above the upper one."""
        return self._crossable

    def ordered(self) -> Interval:
        """The same enclosure with its ends in order, for values that exist."""
        if not self._crossable:
            return self
        low, high = self.lower, self.upper
        return Interval.from_ends(ops.minimum(low, high), ops.maximum(low, high))

    def widen(self, error: Tensor) -> Interval:
        """The interval with ``error`` added on both sides."""
        return Interval.from_ends(self.lower - error, self.upper + error)
