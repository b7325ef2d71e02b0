"""Groups of features of which exactly one is 1: categories as tables hold them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcert.regions.options import Options
from tfcert.types import Tensor

__all__ = ["Groups"]

_MOST_ASSIGNMENTS = 10_000


class Groups:
    """One-hot groups of the features of a vector.

    A group of x moves on the way to another category: its points are ``x + f (e - x)``, where e is
    a unit vector of an allowed category. The fraction f is 1 but in schedules, so that the points
    are the unit vectors themselves.

    Args:
        places: The places of each group's features, of which none belongs to two groups.
    """

    def __init__(self, places: Sequence[Sequence[int]]):
        self.places = tuple(tuple(int(place) for place in group) for group in places)
        every = [place for group in self.places for place in group]
        short = any(len(group) < 2 for group in self.places)
        if short or len(set(every)) < len(every) or min(every, default=0) < 0:
            raise ValueError(
                "`groups` must hold groups of at least two features, each a place >= 0 that no "
                f"other group has. Received: groups={[list(group) for group in self.places]}."
            )

    def __bool__(self) -> bool:
        return bool(self.places)

    @property
    def last(self) -> int:
        """The largest place."""
        return max(place for group in self.places for place in group)

    def check_limits(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Raises unless limits of the features of groups say which categories are allowed."""
        lower, upper = self._in_full(lower), self._in_full(upper)
        for group in self.places:
            low, high = lower[..., list(group)], upper[..., list(group)]
            known = np.isin(low, (0, 1)).all() and np.isin(high, (0, 1)).all()
            if not known or (low.sum(axis=-1) > 1).any() or (high.sum(axis=-1) < 1).any():
                raise ValueError(
                    "`lower` and `upper` must be 0 or 1 for the features of a group: `upper` is 1 "
                    "for categories that are allowed, and `lower` is 1 for none but one that is "
                    f"the only one. Received: other limits in group {list(group)}."
                )

    def _in_full(self, limits: np.ndarray) -> np.ndarray:
        """Limits with an entry for each feature of a group."""
        if limits.shape[-1:] in ((), (1,)):
            return np.broadcast_to(limits, (*limits.shape[:-1], self.last + 1))
        if limits.shape[-1] <= self.last:
            raise ValueError(
                f"`groups` must hold places below {limits.shape[-1]}, the number of limits. "
                f"Received: groups={[list(group) for group in self.places]}."
            )
        return limits

    def assignments(self, upper: np.ndarray) -> list[np.ndarray]:
        """All choices of categories for one input, ``(features,)``; NaN for other features.

        Args:
            upper: Upper limits, ``(features,)``.
        """
        allowed = [[place for place in group if upper[place] > 0] for group in self.places]
        count = math.prod(map(len, allowed))
        if count > _MOST_ASSIGNMENTS:
            raise NotImplementedError(
                f"The groups of an input have {count} choices of categories, and at most "
                f"{_MOST_ASSIGNMENTS} are searched one by one. Freeze some of the groups: set "
                "their limits to x."
            )
        found = []
        for chosen in itertools.product(*allowed):
            fixed = np.full(len(upper), np.nan)
            fixed[[place for group in self.places for place in group]] = 0.0
            fixed[list(chosen)] = 1.0
            found.append(fixed)
        return found

    def options(self, x: np.ndarray, upper: np.ndarray) -> Options:
        """The categories of each group, as choices.

        Args:
            x: Inputs, ``(batch, features)``.
            upper: Upper limits of this shape: above 0 where a category is allowed.
        """
        size = max(len(group) for group in self.places)
        places = np.full((len(self.places), size), -1)
        values = np.zeros((len(x), len(self.places), size, size))
        counts, own = (np.zeros(values.shape[:2], np.int64) for _ in range(2))
        for slot, group in enumerate(self.places):
            places[slot, : len(group)] = group
            allowed = upper[:, list(group)] > 0
            order = np.argsort(~allowed, axis=1, kind="stable")  # Allowed categories come first.
            values[:, slot, : len(group), : len(group)] = np.eye(len(group))[order]
            counts[:, slot] = allowed.sum(axis=1)
            here = x[:, list(group)].argmax(axis=1)[:, None]
            own[:, slot] = (order == here).argmax(axis=1)
        family = np.zeros(len(self.places), np.int64)
        return Options(places, values, counts, own, family, np.array([-1]))

    def admitted(self, x: Tensor) -> Tensor:
        """Which inputs, ``(batch, features)``, have one-hot groups: bool, ``(batch,)``."""
        kept = ops.ones_like(x[:, 0], dtype="bool")
        for group in self.places:
            part = self._part(x, group)
            ones = ops.sum(ops.cast(part == 1, "int32"), axis=-1)
            zeros = ops.sum(ops.cast(part == 0, "int32"), axis=-1)
            kept = kept & (ones == 1) & (zeros == len(group) - 1)
        return kept

    def contain(
        self, points: np.ndarray, upper: np.ndarray, x: np.ndarray, fraction: np.ndarray
    ) -> np.ndarray:
        """Which points, ``(batch, count, features)``, have groups as the region has them.

        Args:
            points: In longdouble.
            upper: Upper limits, which broadcast against points.
            x: The inputs, likewise.
            fraction: Likewise.
        """
        found = np.ones(points.shape[:-1], bool)
        for group in self.places:
            own, allowed, still, share = (
                np.broadcast_to(values, points.shape)[..., list(group)]
                for values in (points, upper, x, fraction)
            )
            known = np.zeros(found.shape, bool)
            for place, unit in enumerate(np.eye(len(group))):
                away = np.abs(own - (still + share * (unit - still))).max(axis=-1)
                # A mean of 0 and 1 is rounded where it is made.
                near = away <= np.where(share[..., 0] == 1, 0.0, 1e-6)
                known |= near & (allowed[..., place] > 0)
            found &= known
        return found

    def minimum(self, coefficients: Tensor, upper: Tensor, x: Tensor, fraction: Tensor) -> Tensor:
        """The sum of the groups' minima of linear functions, ``(..., features)`` to ``(...)``.

        Args:
            coefficients: Of the functions.
            upper: Upper limits: above 0 where a category is allowed.
            x: The inputs.
            fraction: How far groups move, of the shape of x.
        """
        total: Any = 0.0
        for group in self.places:
            factors, allowed, still, share = (
                self._part(values, group) for values in (coefficients, upper, x, fraction)
            )
            least = ops.min(ops.where(allowed > 0, factors, np.inf), axis=-1)
            here, share = ops.sum(factors * still, axis=-1), share[..., 0]
            # All of the way: without the rounding of a mean.
            total = total + ops.where(share >= 1, least, here + share * (least - here))
        return total

    def gains(self, worth: Tensor, x: Tensor) -> Tensor:
        """By how much each category is worth more than that of x; elsewhere as it is."""
        return self._each(worth, lambda own, still: own - ops.sum(own * still, -1, True), x)

    def without(self, coefficients: Tensor) -> Tensor:
        """Coefficients that are 0 for the features of groups."""
        inside = np.isin(np.arange(coefficients.shape[-1]), [p for g in self.places for p in g])
        return ops.where(inside, ops.zeros_like(coefficients), coefficients)

    def chosen(
        self, points: Tensor, worth: Tensor, upper: Tensor, x: Tensor, fraction: Tensor
    ) -> Tensor:
        """Points whose groups are at the category that is worth most, all else as it is.

        Args:
            points: ``(..., features)``.
            worth: What each category is worth, of this shape; of x itself 0, which wins a draw.
            upper: As in ``minimum``; it broadcasts against points.
            x: The inputs, likewise.
            fraction: Likewise.
        """
        parts, order = [points], np.arange(points.shape[-1])
        for group in self.places:
            own, allowed, still, share = (
                self._part(values, group) for values in (worth, upper, x, fraction)
            )
            own = ops.where(ops.logical_and(allowed > 0, still < 1), own, -np.inf)
            best = ops.one_hot(ops.argmax(own, axis=-1), len(group), dtype=points.dtype)
            moves = ops.max(own, axis=-1, keepdims=True) > 0
            order[list(group)] = sum(part.shape[-1] for part in parts) + np.arange(len(group))
            parts.append(ops.where(moves, still + share * (best - still), still))
        return ops.take(ops.concatenate(parts, axis=-1), order, axis=-1)

    def _each(self, values: Tensor, change: Callable[..., Tensor], x: Tensor) -> Tensor:
        """Values whose groups are changed, by their own entries and those of x."""
        parts, order = [values], np.arange(values.shape[-1])
        for group in self.places:
            order[list(group)] = sum(part.shape[-1] for part in parts) + np.arange(len(group))
            parts.append(change(self._part(values, group), self._part(x, group)))
        return ops.take(ops.concatenate(parts, axis=-1), order, axis=-1)

    def _part(self, values: Tensor, group: tuple[int, ...]) -> Tensor:
        return ops.take(values, np.array(group), axis=-1)
