"""The choice of the domains whose hidden intervals are computed anew, and the limits of its time.

A search asks whether a margin can be 0 or less. So hidden values matter only at points where it is:
there a relaxed margin, a linear function of the input below the margin, is 0 or less, too. What is
left of the box is often small, and hidden intervals are much tighter on it. Tighter intervals give
a better relaxed margin, which leaves still less.

Bounds from such intervals tell no more than that: at every point, the margin is at least the bound,
or it is above ``Roots.slack``, a number just above 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from tfcert.branching.bounding import Bounder, Inputs
from tfcert.branching.layout import Layout
from tfcert.branching.roots import Roots
from tfcert.branching.splitter import Domains, Problem

__all__ = ["Narrowing"]

# Splits after which a domain gets new intervals.
_EVERY = 3
# Rounds for one domain, and the share of the bound that a round has to gain for the next one.
_ROUNDS, _GAIN = 4, 0.1
# The share of a search's time that narrowing may take, and seconds that it may take anyhow.
_SHARE, _START = 0.7, 2.0
# Tightening the intervals of whole boxes takes about so many times what narrowing them takes.
_TIGHTENING = 10.0
# Domains in one call.
_AT_A_TIME = 16


class Narrowing:
    """Computes intervals of units anew, for the domains that gain most, while there is time.

    Args:
        bounder: Computes the intervals.
        tasks: What is decided.
        roots: Of the tasks.
        deadline: Of the search, by ``time.monotonic()``.

    Attributes:
        suits: ``(tasks,)``: whether points that break the task have all its margins at 0 or below.
    """

    def __init__(
        self,
        bounder: Bounder,
        tasks: Sequence[Problem],
        roots: Roots,
        deadline: float,
    ):
        self._bounder, self._roots, self._deadline = bounder, roots, deadline
        self.suits = np.array([(task.question.needs == 1).all() for task in tasks])
        self._tightened = False
        self._begin, self._spent, self._longest = time.monotonic(), 0.0, 0.0

    @staticmethod
    def fits(layout: Layout) -> bool:
        """Whether all layers are dense, and the only nonlinear functions have two linear pieces."""
        return not (layout.network.has_windows or layout.relaxed or any(layout.smooth))

    def wants_tighter_roots(self, domains: Domains) -> bool:
        """Whether the search turns out to be long, and there is time for it; true at most once."""
        left = self._deadline - time.monotonic()
        if self._tightened or domains.depth.max() < _EVERY or left < _TIGHTENING * self._spent:
            return False
        self._tightened = True
        return True

    @staticmethod
    def start(count: int, units: int, dtype: str) -> dict[str, npt.NDArray[Any]]:
        """Returns the state of new domains, which have no intervals of their own."""
        return {
            "low": np.full((count, units), -np.inf, dtype),
            "high": np.full((count, units), np.inf, dtype),
            "narrowed": np.full(count, -_EVERY, np.int32),  # At which depth they were last.
            "most": np.full(count, np.inf),  # The largest bound that they can have.
        }

    def due(self, domains: Domains, open_part: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The open domains that get new intervals."""
        waited = domains.depth - domains.state["narrowed"] >= _EVERY
        return np.flatnonzero(open_part & waited & self.suits[domains.state["task"]])

    def rounds(
        self,
        domains: Domains,
        due: npt.NDArray[np.int64],
        inputs: Callable[[Domains], Inputs],
        bound: Callable[[Domains], Domains],
    ) -> None:
        """Narrows domains and bounds them again, as long as that helps; changes their state.

        Args:
            domains: Bounded domains.
            due: The places of those that are narrowed.
            inputs: Gives what is known of domains where margins are at most just above 0.
            bound: Bounds domains.
        """
        for _ in range(_ROUNDS):
            part = domains.take(due)
            done = self._narrow(part, inputs)
            if not done:
                return
            due, part = due[:done], part.take(np.arange(done))
            before = part.state["lower"].max(axis=1)
            empty = part.state.pop("empty")
            part = bound(part)
            part.state["lower"][empty] = np.inf
            part.state["lower"] = np.minimum(part.state["lower"], part.state["most"][:, None])
            keras.tree.map_structure(
                lambda whole, own, due=due: whole.__setitem__(due, own), domains.state, part.state
            )
            after = part.state["lower"].max(axis=1)
            due = due[(after <= 0) & (after - before > _GAIN * np.abs(before))]
            if not len(due):
                return

    def _narrow(self, domains: Domains, inputs: Callable[[Domains], Inputs]) -> int:
        """Narrows the first domains, as many as there is time for; says how many."""
        state, units, count = domains.state, self._roots.units, 0
        state["narrowed"] = domains.depth.copy()
        state["most"] = self._roots.slack[state["task"]]
        state["empty"] = np.zeros(len(domains), bool)
        while count < len(domains) and self._has_time():
            begin = time.monotonic()
            own = np.arange(count, min(count + _AT_A_TIME, len(domains)))
            found = self._bounder.narrow(inputs(domains.take(own)))
            state["low"][own] = np.maximum(state["low"][own], found.low[:, units])
            state["high"][own] = np.minimum(state["high"][own], found.high[:, units])
            state["empty"][own] = found.empty
            count += len(own)
            took = time.monotonic() - begin
            self._spent += took
            self._longest = max(0.8 * self._longest, took)
        return count

    def _has_time(self) -> bool:
        now = time.monotonic()
        if now + 2 * self._longest > self._deadline:
            return False
        return self._spent < _START + _SHARE * (now - self._begin)
