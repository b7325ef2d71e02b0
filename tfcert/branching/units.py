"""Branch and bound on the signs of units: beta-CROWN with trials of the best splits.

A domain is the part of a problem's box on which some units have given signs. Splitting a unit makes
two domains: its value >= 0, and <= 0. On each the two-piece function that reads the unit (ReLU,
LeakyReLU, PReLU, the absolute value) is linear, so the relaxation is tighter. A unit that another
elementwise function reads, such as tanh or a clip, is split at the middle of its interval, again
and again: lines fit the function better on both halves. Maxima are trees of ReLUs. Other nonlinear
layers (products) may be in the network and are relaxed as ever.

References: Wang et al., 2021, https://arxiv.org/abs/2103.06624; for points other than 0 Shi et al.,
2024, https://arxiv.org/abs/2405.21063
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from tfcert.bounds import methods
from tfcert.branching import choosing, leaves
from tfcert.branching.bounding import Bounder, Found, Inputs
from tfcert.branching.layout import Layout
from tfcert.branching.maxima import splittable
from tfcert.branching.narrowing import Narrowing
from tfcert.branching.outcome import Reason, within_rounding
from tfcert.branching.recording import Recorder
from tfcert.branching.roots import Roots
from tfcert.branching.splitter import Bounded, Domains, Problem
from tfcert.branching.tasks import case_numbers, tasks_of
from tfcert.network import network_of

__all__ = ["UnitSplitter"]

Array = npt.NDArray[Any]

# Slopes and multipliers are kept in half the bits: they are only where an optimisation starts.
_KEPT = "float16"
_LARGEST = 6e4
# Bounds hidden values on whole boxes once more, where a search turns out to be long.
_DEEP = methods.AlphaCrown(iterations=5, learning_rate=0.25, optimize_intermediate=True)
# The most ways to break a question that leaves are decided for.
_WAYS = 64


class UnitSplitter:
    """Splits problems at the signs of units.

    Args:
        model: One output of shape ``(batch, outputs)``.
        problems: What is asked.
        method: How far slopes and multipliers are optimised for each domain.
        root: How hidden values are bounded on the whole boxes. Tighter methods save some tenths of
            the domains, and on networks with many layers cost much more than that.
        candidates: How many units of a domain are tried out before it is split; 1: the one with the
            best estimate is split. Trials save some tenths of the domains, and cost more than that
            on a CPU.
        batch: The most domains in one call.
        recorder: Is told about the tree.
        cases: Of each problem, the numbers of its cases for the recorder, in the order of
            ``Question.conjunctions``; None: numbers from 0 on, over all problems.
        deadline: Of the search, by ``time.monotonic()``: when little time is left, nothing is
            compiled, and no hidden intervals are computed anew.
        narrow: Whether hidden intervals are computed anew, where that is possible and no recorder
            follows.

    Attributes:
        tasks: What is decided apart, with domains of its own: a group of margins of a question, and
            of a group whose margins must all be positive each margin. Other margins of the question
            count as inf there.
        owner: ``(tasks,)``: the problem that each task belongs to.
    """

    name = "units"

    def __init__(
        self,
        model: keras.Model,
        problems: Sequence[Problem],
        method: methods.AlphaCrown | None = None,
        root: methods.Crown | None = None,
        candidates: int = 1,
        batch: int = 256,
        recorder: Recorder | None = None,
        cases: Sequence[Sequence[int]] | None = None,
        deadline: float = math.inf,
        narrow: bool = True,
    ):
        # Proofs know signs alone, and the network as it is.
        self.model, self.network = (
            model,
            network_of(model) if recorder is not None else splittable(model),
        )
        self.problems, self.batch, self.recorder = list(problems), batch, recorder
        self.layout = Layout(self.network, points=recorder is None)
        self._cut = any(self.layout.smooth)
        method = method or methods.AlphaCrown(iterations=10, learning_rate=0.1, decay=0.9)
        root = root or methods.Crown()
        self.tasks, self._groups = tasks_of(self.problems)
        self.owner = np.array([owner for owner, _ in self._groups], np.int32)
        self.roots = Roots(model, self.layout, self.tasks, root)
        self._candidates = min(candidates, self.layout.unit_count)
        self.bounder = Bounder(model, self.layout, method, self._candidates, batch, deadline)
        self.bounded = 0  # How many domains were bounded.
        self._narrowing = None
        if narrow and recorder is None and Narrowing.fits(self.layout):
            self._narrowing = Narrowing(self.bounder, self.tasks, self.roots, deadline)
        if recorder is not None:
            self._cases = case_numbers(self.problems, self.tasks, cases)

    def start(self) -> Domains:
        """One domain a task: the whole box of its problem."""
        count, roots = len(self.tasks), self.roots
        rows, units = roots.rows.shape[1], len(roots.units)
        slopes = np.repeat(roots.start[:, None], rows, axis=1)
        nodes = np.full(count, -1, np.int64)
        if self.recorder is not None:
            nodes[:] = [self.recorder.add_root(case) for case in self._cases]
        state = {
            "task": np.arange(count, dtype=np.int32),
            "signs": np.zeros((count, units), np.int8),
            "decided": np.zeros((count, units), np.int8),
            "slopes": slopes.astype(_KEPT),
            "multipliers": np.zeros((count, rows, units), _KEPT),
            "lower": np.full((count, rows), -np.inf),
            "candidates": np.full((count, self._candidates), -1, np.int32),
            "node": nodes,
        }
        if self._cut:
            state["low"] = np.full((count, units), -np.inf, np.float32)
            state["high"] = np.full((count, units), np.inf, np.float32)
            state["cuts"] = np.zeros((count, self._candidates), np.float32)
        if self._narrowing is not None:
            state |= self._narrowing.start(count, units, self.network.dtype)
        return Domains(self.owner, np.full(count, -np.inf), np.zeros(count, np.int32), state)

    def can_split(self, domains: Domains) -> npt.NDArray[np.bool_]:
        """Where some unit may still have both signs; domains have to be bounded before."""
        return (domains.state["candidates"] >= 0).any(axis=1)

    def split(self, domains: Domains) -> Domains:
        """Children on which a unit is above its cut, then those below, side by side."""
        best = self._choose(domains)
        units = self.roots.known[domains.state["candidates"][np.arange(len(domains)), best]]
        children = domains.take(np.repeat(np.arange(len(domains)), 2))
        state = self._parted(children.state, np.repeat(units, 2), np.repeat(best, 2))
        if self.recorder is not None:
            place, unit = self.layout.locate(self.roots.units[units])
            state["node"] = self.recorder.split_unit(domains.state["node"], place, unit).ravel()
        return Domains(children.owner, children.bound, children.depth + 1, state)

    def _parted(self, state: dict[str, Array], units: Array, candidates: Array) -> dict[str, Array]:
        """States of pairs of domains, each split at a unit: above its cut, then below.

        Args:
            state: Two equal states for each pair.
            units: By their places among the units of the roots, ``(n,)``; -1: nothing is split.
            candidates: Which candidates of the domains they are, ``(n,)``.
        """
        there = np.flatnonzero(units >= 0)
        units, above = units[there], there % 2 == 0
        signs = state["signs"].copy()
        signs[there, units] = np.where(above, 1, -1)
        state = {**state, "signs": signs}
        if self._cut:
            cut = state["cuts"][there, candidates[there]]
            low, high = state["low"].copy(), state["high"].copy()
            low[there[above], units[above]] = cut[above]
            high[there[~above], units[~above]] = cut[~above]
            state |= {"low": low, "high": high}
        return state

    def _choose(self, domains: Domains) -> Array:
        """The candidate at which each domain is split, ``(n,)``."""
        candidates = self.roots.known[domains.state["candidates"]]
        candidates = np.where(domains.state["candidates"] >= 0, candidates, -1)
        count, several = candidates.shape
        if several == 1:
            return np.zeros(count, np.int64)
        tried = domains.take(np.repeat(np.arange(count), 2 * several))
        which = np.tile(np.repeat(np.arange(several), 2), count)
        tried.state = self._parted(tried.state, np.repeat(candidates.ravel(), 2), which)
        lower = np.maximum(self.bounder.try_out(self._inputs(tried)), tried.state["lower"])
        value = self._values(tried.state["task"], lower).reshape(count, several, 2)
        return choosing.preferred(value, candidates)

    def bound(self, domains: Domains) -> Bounded:
        """Bounds domains by beta-CROWN, from where their parents ended."""
        domains, points = self._bounded(domains)
        if self._narrowing is not None:
            left = self._values(domains.state["task"], domains.state["lower"]) <= 0
            due = self._narrowing.due(domains, left)
            if len(due):
                if self._narrowing.wants_tighter_roots(domains):
                    self.roots.tighten(self.model, self.network, _DEEP)
                self._narrowing.rounds(
                    domains, due, self._within_reach, lambda part: self._bounded(part)[0]
                )
        return Bounded(domains, self._of_problems(domains), points)

    def _bounded(self, domains: Domains) -> tuple[Domains, Array]:
        """Bounded domains, and points where their relaxed problems have their minimum."""
        found = self.bounder.bound(self._inputs(domains))
        self.bounded += len(domains)
        lower = np.maximum(found.lower, domains.state["lower"])
        roots = self.roots
        state = {
            **domains.state,
            "lower": lower,
            "decided": found.decided[:, roots.units],
            "slopes": found.slopes[..., roots.slopes].astype(_KEPT),
            "multipliers": np.minimum(found.multipliers[..., roots.units], _LARGEST).astype(_KEPT),
            "candidates": found.candidates,
        }
        if self._cut:
            state["cuts"] = found.cuts.astype(np.float32)
        if self.recorder is not None:
            self._record(domains, found)
        if self._narrowing is not None:
            state["lower"] = np.minimum(lower, state["most"][:, None])
        return Domains(domains.owner, domains.bound, domains.depth, state), found.points

    def _within_reach(self, domains: Domains) -> Inputs:
        """The inputs of `Bounder.narrow`, about points whose margins are at most the slack."""
        inputs, task = self._inputs(domains), domains.state["task"]
        return inputs._replace(offsets=inputs.offsets - self.roots.slack[task][:, None])

    def settle(self, domains: Domains, deadline: float) -> Bounded:
        """Decides domains without a unit to split by linear programs.

        ``lower`` is then the least value of the largest margin of each way to break the question,
        the same for all margins: it proves the question where it is above 0.
        """
        lower = domains.state["lower"].copy()
        points = np.stack([self.problems[owner].lower for owner in domains.owner])
        for i in range(len(domains)):
            if time.monotonic() >= deadline:
                break
            least = self._least(domains.take(np.array([i])))
            if least is None:
                continue
            value, point = least
            lower[i] = np.maximum(lower[i], value)
            if point is not None:
                points[i] = point.reshape(points[i].shape)
        if self._narrowing is not None:
            lower = np.minimum(lower, domains.state["most"][:, None])
        state = {**domains.state, "lower": lower}
        domains = Domains(domains.owner, domains.bound, domains.depth, state)
        return Bounded(domains, self._of_problems(domains), points)

    def open_reason(self, count: int) -> Reason:
        relaxed = self.layout.relaxed
        if not relaxed:
            return within_rounding(count)
        text = (
            f"{count} parts have no unit left to split, and are open: layer {relaxed[0]!r} is "
            "relaxed, and only elementwise functions are split. Try a smaller region, or "
            "tfcert.methods.AlphaCrown(optimize_intermediate=True)."
        )
        return Reason("splitting", text)

    def _of_problems(self, domains: Domains) -> Array:
        """The bounds of domains as those of the margins of their problems."""
        most = max(len(problem.question.rows) for problem in self.problems)
        lower = np.full((len(domains), most), np.inf)
        for task in np.unique(domains.state["task"]):
            members = self._groups[task][1]
            own = np.flatnonzero(domains.state["task"] == task)
            lower[np.ix_(own, members)] = domains.state["lower"][own, : len(members)]
        return lower

    def _least(self, domain: Domains) -> tuple[float, Array | None] | None:
        """The least value of the question on one domain, and where; None where it stays open."""
        place = int(domain.state["task"][0])
        problem, decided = self.tasks[place], self.roots.decided[place].copy()
        decided[self.roots.units] = domain.state["decided"][0]
        signs = np.zeros(len(decided), np.int8)
        signs[self.roots.units] = domain.state["signs"][0]
        decided = np.where(signs != 0, signs, decided)
        if (decided == 0).any():
            return None
        if self._narrowing is not None:
            # Units of narrowed intervals have a sign only where the question may be broken.
            signs[self.roots.units] = decided[self.roots.units]
        try:
            piece = leaves.AffinePiece(
                self.network, self.layout, problem.lower, problem.upper, decided
            )
        except NotImplementedError:  # Never affine: the verdict stays open.
            return None
        question, least, point = problem.question, np.inf, None
        for rows in question.conjunctions(_WAYS):
            found = piece.least(signs, question.rows[rows], question.offsets[rows])
            if found.value < least:
                least, point = found.value, found.point
            if self.recorder is not None and len(rows) == 1 and found.multipliers is not None:
                units = np.zeros((1, len(signs)))
                units[0, np.flatnonzero(signs)] = found.multipliers
                multipliers = self.layout.by_place(units)
                if found.value > 0:
                    self.recorder.close(domain.state["node"], rows[0], None, multipliers)
        return least, point

    def _values(self, task: Array, lower: Array) -> Array:
        """The values of the questions of tasks from bounds of their margins."""
        value = np.empty(len(task))
        for place in np.unique(task):
            own = task == place
            value[own] = self.tasks[place].question.value(lower[own])
        return value

    def _record(self, domains: Domains, found: Found) -> None:
        """Closes the nodes that the bounds prove, where one margin is enough for it."""
        assert self.recorder is not None
        proved = np.flatnonzero(self._values(domains.state["task"], found.lower) > 0)
        finite = np.isfinite(found.lower[proved]).all(axis=1)
        empty, proved = proved[~finite], proved[finite]
        if len(empty):  # Any margin will do.
            self.recorder.close(domains.state["node"][empty], np.zeros(len(empty), np.int64))
        if not len(proved):
            return
        row = found.lower[proved].argmax(axis=1)
        slopes = {
            place: own[0]
            for place, own in self.layout.slopes_by_place(found.slopes[proved, row]).items()
        }
        multipliers = self.layout.by_place(found.multipliers[proved, row])
        self.recorder.close(domains.state["node"][proved], row, slopes, multipliers)

    def _inputs(self, domains: Domains) -> Inputs:
        """The domains with all that is kept once for each problem."""
        roots, state, owner = self.roots, domains.state, domains.state["task"]
        count, rows = len(owner), roots.rows.shape[1]
        signs = np.zeros((count, self.layout.unit_count), np.int8)
        signs[:, roots.units] = state["signs"]
        slopes = np.zeros((count, rows, self.layout.slope_count), np.float32)
        slopes[..., roots.slopes] = state["slopes"]
        multipliers = np.zeros((count, rows, self.layout.unit_count), np.float32)
        multipliers[..., roots.units] = state["multipliers"]
        ends = {place: (low[owner], high[owner]) for place, (low, high) in roots.ends.items()}
        points = None
        if self._cut or self._narrowing is not None:
            ends = self._within_limits(ends, state)
        if self._cut:
            points = self._last_cuts(state)
        return Inputs(
            roots.lower[owner],
            roots.upper[owner],
            roots.rows[owner],
            roots.offsets[owner],
            ends,
            signs,
            points,
            slopes,
            multipliers,
        )

    def _within_limits(self, ends: dict[int, Any], state: dict[str, Array]) -> dict[int, Any]:
        """Intervals of units inside the limits that domains keep: cuts, or narrower intervals."""
        count, units = len(state["signs"]), self.roots.units
        limits = {}
        for name, open_end in (("low", -np.inf), ("high", np.inf)):
            flat = np.full((count, self.layout.unit_count), open_end, state[name].dtype)
            flat[:, units] = state[name]
            limits[name] = self.layout.by_place(flat)
        ends = dict(ends)
        for place, low in limits["low"].items():
            lower, upper = ends[place]
            # Rounding may have moved the interval off the cut: it then is a point.
            lower = np.maximum(lower, low)
            ends[place] = lower, np.maximum(np.minimum(upper, limits["high"][place]), lower)
        return ends

    def _last_cuts(self, state: dict[str, Array]) -> Array:
        """The points that the signs compare units with."""
        points = np.zeros((len(state["signs"]), self.layout.unit_count), np.float32)
        last = np.where(state["signs"] > 0, state["low"], state["high"])
        points[:, self.roots.units] = np.where(state["signs"] != 0, last, 0.0)
        return points
