"""The domains that wait to be split, in arrays that grow."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from tfcert.branching.splitter import Domains

__all__ = ["Pool"]


class Pool:
    """Open domains, of which those with the least bounds, or the deepest ones, come out first.

    Memory is taken in pieces that double, and used again.
    """

    def __init__(self) -> None:
        self._kept: Domains | None = None
        self._free = np.zeros(0, np.int64)
        self._used = np.zeros(0, bool)

    def __len__(self) -> int:
        return int(self._used.sum())

    @property
    def nbytes(self) -> int:
        """Memory of the open domains."""
        if self._kept is None:
            return 0
        return self._kept.nbytes * len(self) // max(1, len(self._used))

    @property
    def least(self) -> float:
        """The least bound of all open domains; inf where there are none."""
        return float(self._kept.bound[self._used].min()) if self._kept and len(self) else np.inf

    def add(self, domains: Domains) -> None:
        """Takes in some domains."""
        if not len(domains):
            return
        if self._kept is None:
            self._kept = domains.take(np.arange(len(domains)))
            self._used = np.ones(len(domains), bool)
            return
        missing = len(domains) - len(self._free)
        if missing > 0:
            size = len(self._used)
            room = max(missing, size)
            self._kept = self._grown(room)
            self._used = np.concatenate([self._used, np.zeros(room, bool)])
            self._free = np.concatenate([self._free, np.arange(size, size + room)])
        places, self._free = self._free[: len(domains)], self._free[len(domains) :]
        self._used[places] = True
        _copy(domains, self._kept, places)

    def pop(self, count: int, deepest: bool) -> Domains:
        """Takes out some domains: those with the least bounds, or the deepest ones.

        Args:
            count: How many, at most; at least one must be open.
            deepest: Whether to take the deepest ones, so that few new ones come to wait.
        """
        assert self._kept is not None
        places = np.flatnonzero(self._used)
        keys = [self._kept.bound[places], places]
        if deepest:
            keys.insert(0, -self._kept.depth[places].astype(float))
        places = places[np.lexsort(keys[::-1])[:count]]
        chosen = self._kept.take(places)
        self._used[places] = False
        self._free = np.concatenate([self._free, places])
        return chosen

    def all(self) -> Domains | None:
        """All open domains."""
        return self._kept.take(self._used) if self._kept is not None else None

    def _grown(self, room: int) -> Domains:
        assert self._kept is not None
        kept = self._kept

        def grown(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([array, np.zeros((room, *array.shape[1:]), array.dtype)])

        return Domains(
            *keras.tree.map_structure(grown, (kept.owner, kept.bound, kept.depth, kept.state))
        )


def _copy(source: Domains, target: Domains, places: npt.NDArray[np.int64]) -> None:
    for new, old in zip(_arrays(source), _arrays(target), strict=True):
        old[places] = new


def _arrays(domains: Domains) -> list[npt.NDArray[Any]]:
    fields = (domains.owner, domains.bound, domains.depth, domains.state)
    return keras.tree.flatten(fields)
