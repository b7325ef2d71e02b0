"""Where units, slopes and multipliers of a network stand in flat arrays."""

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

    A *unit* is an entry of a value that a two-piece function reads (ReLU, LeakyReLU, PReLU, the
    absolute value). The sign of a unit decides which piece of the function holds, so units are what
    can be split. Slopes are those of the lines around all elementwise functions that can turn.

    Args:
        network: The network.

    Attributes:
        units: Where the units of each node stand.
        slopes: Where the slopes of each node stand.
        relaxed: The names of nonlinear layers that have no units.
        readers: For each spot of ``units``, the places of the two-piece functions that read it.
    """

    def __init__(self, network: Network):
        kinks: dict[int, list[int]] = {}
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
            if isinstance(curve, TwoPiece):
                kinks.setdefault(network.index[node.inputs[0]], []).append(place)
            else:
                self.relaxed.append(node.name)
        self.units = _spots(network, [(place, 0) for place in sorted(kinks)])
        self.slopes = _spots(network, sides)
        self.readers = [kinks[spot.place] for spot in self.units]

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return self.units[-1].stop if self.units else 0

    @property
    def slope_count(self) -> int:
        """How many slopes there are."""
        return self.slopes[-1].stop if self.slopes else 0

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
