"""Intervals of all values on boxes, and lower bounds of rows of a value: the trusted core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfcert_check.networks import Network
from tfcert_check.operators import Array
from tfcert_check.refusal import need
from tfcert_check.rounding import LARGEST, down, lost
from tfcert_check.steps import Input, Interval, TwoPiece

__all__ = ["ENTRIES", "Enclosure", "Tables"]

# Of the largest array of a batch of rows, so that it stays in the cache of a processor.
ENTRIES = 1 << 18

# By layer.
Tables = Mapping[int, Array] | None


class Enclosure:
    """Intervals of all values of a network on boxes.

    They hold for the inputs of each box whose values have the signs, if some are given.

    Args:
        network: The network.
        lower: Lower limits of the inputs, ``(boxes, inputs)``.
        upper: Upper limits.
        signs: Of values that two-piece functions read, by layer, ``(boxes, n)``: 1 where only
            values >= 0 are asked about, -1 where only those <= 0, else 0.
        whole: What is known already: an enclosure of one box around all of these.
        sweep: Whether the values that two-piece functions read are bounded by rows, too.
        hidden: Slopes for that besides those by rule: for a layer and one before it,
            ``(2, n, n of the one before)``, of lower and of upper limits.

    Attributes:
        intervals: By the places of values.
        empty: ``(boxes,)``: no input of the box has the signs.
    """

    def __init__(
        self,
        network: Network,
        lower: Array,
        upper: Array,
        signs: Tables = None,
        whole: Enclosure | None = None,
        sweep: bool = True,
        hidden: Mapping[tuple[int, ...], Array] | None = None,
    ):
        self.network = network
        self.intervals = [Interval(lower, upper)]
        self.empty = np.zeros(len(lower), bool)
        self._sizes = [np.zeros((1, 1))]
        self._check(0)
        for place, step in enumerate(network.steps[1:], 1):
            assert not isinstance(step, Input)
            if isinstance(step, TwoPiece):
                layer = network.layers.index(step)
                if sweep:
                    own = {k: table for (*at, k), table in (hidden or {}).items() if at == [layer]}
                    for slopes in ({}, own) if own else ({},):
                        self._sweep(step.source, slopes)
                known = whole.intervals[step.source] if whole else None
                self._narrow(step.source, known, None if signs is None else signs.get(layer))
            interval, size = step.enclose(self.intervals)
            self.intervals.append(interval)
            self._sizes.append(size)
            self._check(place)

    def lower_bounds(
        self, place: int, rows: Array, slopes: Tables = None, multipliers: Tables = None
    ) -> Array:
        """Lower bounds of rows of a value, ``(boxes, rows)``; NaN or -inf: none.

        What the loop keeps true: the rows in ``waiting``, times their values, and ``total`` are
        together a lower bound of the rows at the start.

        Args:
            place: Of the value.
            rows: ``(boxes, rows, n)``, taken as exact numbers.
            slopes: By layer, slopes of lower lines, ``(boxes or 1, rows or 1, n)``; NaN, or no
                such layer: by rule.
            multipliers: By layer, numbers times the signs of values that are asked about: what is
                subtracted from rows there, ``(boxes, rows or 1, n)``. The number times sign times
                value is at least 0, so that subtracting it leaves a lower bound.
        """
        steps, waiting = self.network.steps, {place: rows}
        given = {id(self.network.layers[k]): table for k, table in (slopes or {}).items()}
        total, best = np.zeros(rows.shape[:2]), self.intervals[place].least(rows)
        subtracted = {self.network.layers[k].source: m for k, m in (multipliers or {}).items()}
        for current in range(place, -1, -1):
            if current not in waiting:
                continue
            here = waiting.pop(current)
            if current in subtracted:
                here = here - subtracted[current]
                total = down(total - lost(here, self.intervals[current].largest))
            step = steps[current]
            size, own = self._sizes[current], given.get(id(step))
            arrived, change = step.backward(here, self.intervals, size, own)
            total = down(total + change)
            for source, more in arrived:
                if source in waiting:
                    more = waiting[source] + more
                    total = down(total - lost(more, self.intervals[source].largest))
                waiting[source] = more
            # Wherever the rows are, intervals bound them, too; fmax leaves out NaN.
            bounded = total
            for source, more in waiting.items():
                bounded = down(bounded + self.intervals[source].least(more))
            best = np.fmax(best, bounded)
        return best

    def _sweep(self, place: int, hidden: Mapping[int, Array]) -> None:
        """Bounds the entries whose sign is open by rows e_j and -e_j."""
        lower, upper = (end.copy() for end in self.intervals[place])
        boxes, size = lower.shape
        open_here = (lower < 0) & (upper > 0)
        open_ones = np.flatnonzero(open_here.any(axis=0))
        widest = max(step.size for step in self.network.steps[: place + 1])
        count = max(1, ENTRIES // (2 * widest * boxes))
        for start in range(0, len(open_ones), count):
            units = open_ones[start : start + count]
            rows = np.zeros((boxes, 2, len(units), size))
            rows[:, 0, np.arange(len(units)), units] = 1.0
            rows[:, 1, np.arange(len(units)), units] = -1.0
            slopes = {k: t[:, units].reshape(1, -1, t.shape[2]) for k, t in hidden.items()}
            found = self.lower_bounds(place, rows.reshape(boxes, -1, size), slopes)
            found = np.where(np.isfinite(found), found, -np.inf).reshape(boxes, 2, -1)
            # No box gains by those beside it, so that each leaf stands for itself.
            found = np.where(open_here[:, None, units], found, -np.inf)
            lower[:, units] = np.maximum(lower[:, units], found[:, 0])
            upper[:, units] = np.minimum(upper[:, units], -found[:, 1])
        self.intervals[place] = Interval(lower, upper)

    def _narrow(self, place: int, known: Interval | None, signs: Any) -> None:
        """Intersects an interval with a known one and signs, and notes which boxes are empty."""
        lower, upper = self.intervals[place]
        if known is not None:
            lower, upper = np.maximum(lower, known.lower), np.minimum(upper, known.upper)
        if signs is not None:
            lower = np.where(signs > 0, np.maximum(lower, 0), lower)
            upper = np.where(signs < 0, np.minimum(upper, 0), upper)
        self.empty |= (lower > upper).any(axis=1)
        # Nothing is claimed of empty boxes; their intervals only have to be numbers in order.
        self.intervals[place] = Interval(lower, np.maximum(lower, upper))
        self._check(place)

    def _check(self, place: int) -> None:
        fits = (self.intervals[place].largest <= LARGEST).all()
        need(fits, "a value of the network may be too large, or not a number")
