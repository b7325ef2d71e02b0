"""The positions of a network's units, slopes and multipliers in flat arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert.network import Network
from tfcert.relaxations import TwoPiece
from tfcert.rules.nonlinear import Elementwise, passes_zero
from tfcert.rules.primitives import Nonlinear

__all__ = ["Layout", "Spot"]

Array = npt.NDArray[Any]


class Spot(NamedTuple):
    """Entries of one node in a flat array.

    Attributes:
        place: Of the node in ``network.nodes``.
        side: 0 for lower lines, 1 for upper ones; 0 for units.
        shape: Of the node's value.
        start: Where the entries begin.
        stop: Where they end.
    """

    place: int
    side: int
    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """The units and slopes of a network, one after another.

    A *unit* is an entry of a value that an elementwise function reads; units are what can be split.
    Where a two-piece function reads it (ReLU, LeakyReLU, PReLU, the absolute value), the sign of
    the unit decides which piece of the function holds. Others, such as tanh or a clip, are split at
    a point of the unit's interval, as often as it takes: their lines fit the halves better. Slopes
    are those of the lines around all elementwise functions that can turn.

    Args:
        network: The network.
        points: Whether units of other functions than two-piece ones are split at points; they are
            no units otherwise.

    Attributes:
        network: The network.
        units: Where the units of each node stand.
        slopes: Where the slopes of each node stand.
        relaxed: The names of nonlinear layers that have no units.
        readers: For each spot of ``units``, the places of the functions that read it.
        smooth: For each spot of ``units``, whether they are split at points of their intervals.
    """

    def __init__(self, network: Network, points: bool = True):
        self.network = network
        reads: dict[int, list[int]] = {}
        smooth: set[int] = set()
        sides: list[tuple[int, int]] = []
        self.relaxed: list[str] = []
        for place, node in enumerate(network.nodes):
            if not isinstance(node.primitive, Elementwise):
                if isinstance(node.primitive, Nonlinear):
                    self.relaxed.append(node.name)
                continue
            curve = node.primitive.parameters(network.dtype)
            # A line through 0 may turn; where the other one is the chord, no other one is better.
            sides += [(place, side) for side in ((0,) if passes_zero(curve) else (0, 1))]
            source = network.index[node.inputs[0]]
            if isinstance(curve, TwoPiece) or points:
                reads.setdefault(source, []).append(place)
            else:
                self.relaxed.append(node.name)
            if points and not isinstance(curve, TwoPiece):
                smooth.add(source)
        self.units = _spots(network, [(place, 0) for place in sorted(reads)])
        self.slopes = _spots(network, sides)
        self.readers = [reads[spot.place] for spot in self.units]
        self.smooth = [spot.place in smooth for spot in self.units]

    @property
    def unit_count(self) -> int:
        """Returns the number of units."""
        return self.units[-1].stop if self.units else 0

    @property
    def slope_count(self) -> int:
        """Returns the number of slopes."""
        return self.slopes[-1].stop if self.slopes else 0

    @property
    def smooth_units(self) -> Array:
        """Which units are split at points of their intervals, ``(units,)``."""
        counts = [spot.stop - spot.start for spot in self.units]
        return np.repeat(np.array(self.smooth, bool), counts)

    def by_place(self, units: Array) -> dict[int, Array]:
        """Flat entries of units, ``(..., units)``, by the places of their nodes."""
        lead = units.shape[:-1]
        return {
            spot.place: units[..., spot.start : spot.stop].reshape(*lead, *spot.shape)
            for spot in self.units
        }

    def slopes_by_place(self, slopes: Array) -> dict[int, list[Array]]:
        """Flat slopes, ``(..., slopes)``, as ``{place: [lower, upper]}``; upper may be left out."""
        found: dict[int, list[Array]] = {}
        lead = slopes.shape[:-1]
        for spot in self.slopes:
            part = slopes[..., spot.start : spot.stop].reshape(*lead, *spot.shape)
            found.setdefault(spot.place, []).append(part)
        return found

    def locate(self, unit: Array) -> tuple[Array, Array]:
        """The places of flat units, and their entries in the flat values there."""
        starts = np.array([spot.start for spot in self.units], np.int64)
        which = np.searchsorted(starts, unit, side="right") - 1
        places = np.array([spot.place for spot in self.units], np.int64)
        return places[which], unit - starts[which]


def flat_units(layout: Layout, values: Mapping[int, Any]) -> Array:
    """The reverse of ``Layout.by_place``: ``{place: (..., *shape)}`` as ``(..., units)``."""
    return _joined((values[spot.place], spot) for spot in layout.units)


def flat_slopes(layout: Layout, values: Mapping[int, Any]) -> Array:
    """The reverse of ``Layout.slopes_by_place``."""
    return _joined((values[spot.place][spot.side], spot) for spot in layout.slopes)


def _joined(parts: Iterable[tuple[Any, Spot]]) -> Array:
    flat = []
    for value, spot in parts:
        value = np.asarray(value)
        lead = value.shape[: value.ndim - len(spot.shape)]
        flat.append(value.reshape(*lead, -1))
    return np.concatenate(flat, axis=-1)


def _spots(network: Network, entries: list[tuple[int, int]]) -> list[Spot]:
    found, start = [], 0
    for place, side in entries:
        shape = network.nodes[place].shape
        stop = start + math.prod(shape)
        found.append(Spot(place, side, shape, start, stop))
        start = stop
    return found
