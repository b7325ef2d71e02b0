"""The choices that make up a region: words of positions, categories of groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Options", "joined"]

Array = npt.NDArray[Any]


class Options(NamedTuple):
    """The choices that an input of a region consists of, for each input of a batch.

    A *slot* is a part of the input that takes one of a few values: a position of a text, or a
    one-hot group. An *assignment* names the option of each slot by its number, or -1 for a slot
    that is open.

    Attributes:
        places: ``(slots, entries)``: the entries of the flat input in each slot; -1 fills up.
        values: ``(batch, slots, options, entries)``: their values for each option; 0 fills up.
        counts: ``(batch, slots)``: how many options each slot has.
        own: ``(batch, slots)``: the option of x.
        family: ``(slots,)``: the number of the slots' family.
        most: ``(families,)``: how many slots of a family may differ from x; -1: all.
    """

    places: Array
    values: npt.NDArray[np.float64]
    counts: Array
    own: Array
    family: Array
    most: Array

    def start(self) -> Array:
        """The assignment in which all slots with several options are open, of each input."""
        return self.settled(np.arange(len(self.own)), np.full(self.own.shape, -1, np.int64))

    def changes(self, owner: Array, chosen: Array) -> Array:
        """How many slots of each family may still change, ``(n, families)``; -1: all open ones.

        Args:
            owner: The input that each assignment belongs to, ``(n,)``.
            chosen: Assignments, ``(n, slots)``.
        """
        changed = (chosen >= 0) & (chosen != self.own[owner])
        found = np.empty((len(chosen), len(self.most)), np.int64)
        for number, most in enumerate(self.most):
            mine = self.family == number
            left = most - changed[:, mine].sum(axis=1)
            enough = left >= (chosen[:, mine] < 0).sum(axis=1)
            found[:, number] = np.where((most < 0) | enough, -1, left)
        return found

    def settled(self, owner: Array, chosen: Array) -> Array:
        """Assignments in which slots that cannot change have the option of x."""
        still = (self.changes(owner, chosen) == 0)[:, self.family] | (self.counts[owner] <= 1)
        return np.where((chosen < 0) & still, self.own[owner], chosen)

    def parts(self, owner: Array, chosen: Array, slot: Array) -> tuple[Array, Array]:
        """Assignments with each option of a slot that is open.

        Args:
            owner: As above.
            chosen: As above.
            slot: The slot of each assignment, ``(n,)``.

        Returns:
            Which assignment each part comes from, ``(parts,)``, and the parts.
        """
        count, options = len(chosen), self.values.shape[2]
        parent, option = np.repeat(np.arange(count), options), np.tile(np.arange(options), count)
        exists = option < self.counts[owner[parent], slot[parent]]
        parent, option = parent[exists], option[exists]
        found = chosen[parent]
        found[np.arange(len(parent)), slot[parent]] = option
        return parent, self.settled(owner[parent], found)

    def gains(
        self, owner: Array, chosen: Array, slopes: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """How far linear functions differ between the options of each open slot, ``(n, slots)``.

        Args:
            owner: As above.
            chosen: As above.
            slopes: Coefficients of the flat inputs, ``(n, rows, inputs)``; the largest difference
                of all rows counts.

        Returns:
            -1 for slots that are not open.
        """
        own = np.where(self.places >= 0, slopes[..., np.maximum(self.places, 0)], 0.0)
        worth = np.einsum("nrsk,nsok->nrso", own, self.values[owner])
        exists = np.arange(self.values.shape[2]) < self.counts[owner][..., None]
        high = np.where(exists[:, None], worth, -np.inf).max(axis=-1)
        low = np.where(exists[:, None], worth, np.inf).min(axis=-1)
        return np.where(chosen < 0, (high - low).max(axis=1), -1.0)


def joined(parts: list[tuple[int, Options]]) -> Options:
    """The slots of several parts of one input.

    Args:
        parts: Where each part begins in the flat input, and its slots.
    """
    entries = max(one.places.shape[1] for _, one in parts)
    most = max(one.values.shape[2] for _, one in parts)
    places, values, family = [], [], []
    for number, (start, one) in enumerate(parts):
        more = entries - one.places.shape[1]
        shifted = np.where(one.places >= 0, one.places + start, -1)
        places.append(np.pad(shifted, ((0, 0), (0, more)), constant_values=-1))
        wide = ((0, 0), (0, 0), (0, most - one.values.shape[2]), (0, more))
        values.append(np.pad(one.values, wide))
        family.append(one.family + sum(len(before.most) for _, before in parts[:number]))
    return Options(
        np.concatenate(places),
        np.concatenate(values, axis=1),
        np.concatenate([one.counts for _, one in parts], axis=1),
        np.concatenate([one.own for _, one in parts], axis=1),
        np.concatenate(family),
        np.concatenate([one.most for _, one in parts]),
    )
