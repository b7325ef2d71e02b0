"""The search: open domains wait, are split, and their parts bounded, until none is left."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfcert.branching.checking import Referee
from tfcert.branching.outcome import Counterexample, Reason
from tfcert.branching.pool import Pool
from tfcert.branching.splitter import Domains, Splitter
from tfcert.properties.questions import Problem

__all__ = ["Found", "Limits", "Progress", "search"]

# From this share of the memory on, the deepest domains are split first.
_NEARLY_FULL = 0.5
# Domains whose points an attack improves on.
_ATTACKED = 128
# A line on a terminal is drawn anew so often, and a file gets one of its own (seconds).
_TERMINAL, _FILE = 0.5, 10.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a search gives up.

    Attributes:
        deadline: By ``time.monotonic()``; inf for none.
        memory: Bytes that open domains may take.
    """

    deadline: float = np.inf
    memory: int = 2 << 30


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        holds: Whether all domains were proved.
        counterexample: A point that breaks the property; None where none was found.
        bound: The least bound of all leaves.
        domains: The number of bounded domains.
        reason: Why neither is known; None otherwise.
    """

    holds: bool
    counterexample: Counterexample | None
    bound: float
    domains: int
    reason: Reason | None


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a search, for a log.

    Attributes:
        seconds: The time since the start.
        domains: The number of bounded domains.
        open: The number of open domains.
        bound: The least bound of all open domains.
        rate: Domains per second, over the whole time.
    """

    seconds: float
    domains: int
    open: int
    bound: float
    rate: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:.0f} s: {self.domains} domains, {self.open} open, "
            f"least bound {self.bound:.4g}, {self.rate:.0f} domains/s"
        )


# watch(domains, proved): told of all domains that were bounded, and which of them are done.
Watch = Callable[[Domains, npt.NDArray[np.bool_]], Any]
# attack(points, owner) -> points that may break the questions of the same owners.
Attack = Callable[[npt.NDArray[Any], npt.NDArray[np.int32]], npt.NDArray[Any]]


class Beside(Protocol):
    """Attacks that take turns with a search; see ``attacking.Turns``."""

    def is_due(self, elapsed: float, left: float) -> bool:
        """Whether a turn is due after some seconds, with some left."""
        ...

    def take(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Points that may be counterexamples, and their owners."""
        ...


def search(
    splitter: Splitter,
    problems: Sequence[Problem],
    referee: Referee,
    limits: Limits,
    log: Callable[[Progress], Any] | None = None,
    watch: Watch | None = None,
    attack: Attack | None = None,
    verbose: int = 0,
    beside: Beside | None = None,
) -> Found:
    """Splits and bounds until every domain is proved, a point breaks the property, or time is up.

    Args:
        splitter: How to split and to bound; made for these problems.
        problems: What is asked.
        referee: Decides which points are counterexamples.
        limits: When to give up.
        log: Called after every step.
        watch: Called with all bounded domains; the proved ones among them cover, at the end of a
            search that succeeds, every problem.
        attack: Improves on the points of some domains; called in the fourth, eighth, 16th, ...
            step, with those of the open domains that have the least bounds.
        verbose: 1 for a line of progress on standard error.
        beside: Looks for counterexamples where a step has ended and it says that it is due.
    """
    return _Search(splitter, problems, referee, limits, log, watch, attack, verbose, beside).run()


class _Search:
    def __init__(
        self,
        splitter: Splitter,
        problems: Sequence[Problem],
        referee: Referee,
        limits: Limits,
        log: Callable[[Progress], Any] | None,
        watch: Watch | None,
        attack: Attack | None,
        verbose: int,
        beside: Beside | None,
    ):
        self._splitter, self._referee, self._limits = splitter, referee, limits
        self._questions = [problem.question for problem in problems]
        self._log, self._watch, self._attack, self._beside = log, watch, attack, beside
        self._steps = 0
        self._line = _Line() if verbose else None
        self._open, self._stuck = Pool(), Pool()
        self._least, self._domains, self._longest = np.inf, 0, 0.0
        self._begin = time.monotonic()
        self._counterexample: Counterexample | None = None

    def run(self) -> Found:
        self._bound(self._splitter.start())
        reason = None
        while self._counterexample is None and (len(self._open) or len(self._stuck)):
            if not len(self._open):
                reason = self._settle()
                break
            reason = self._exceeded()
            if reason is not None:
                break
            self._step()
        if self._line is not None:
            self._line.close()
        holds = self._counterexample is None and reason is None
        bound = min(self._least, self._open.least, self._stuck.least)
        return Found(holds, self._counterexample, bound, self._domains, reason)

    def _exceeded(self) -> Reason | None:
        """Which limit is reached, and what to try."""
        limits = self._limits
        state = f"{len(self._open)} parts are open after {self._domains}"
        # No step is begun that would probably end late.
        if time.monotonic() + self._longest > limits.deadline:
            text = f"The time is up: {state}. Try a longer time_limit, or a smaller region."
            return Reason("time", text)
        if self._memory > limits.memory:
            text = f"The memory is full: {state}. Try a larger max_memory, or a tighter method."
            return Reason("memory", text)
        return None

    @property
    def _memory(self) -> int:
        return self._open.nbytes + self._stuck.nbytes

    def _step(self) -> None:
        """Splits some domains and bounds their parts."""
        begin = time.monotonic()
        full = self._memory > _NEARLY_FULL * self._limits.memory
        chosen = self._open.pop(max(1, self._splitter.batch // 2), deepest=full)
        self._bound(self._splitter.split(chosen))
        if self._domains > 2 * self._splitter.batch:  # What came first was compiled, too.
            # A step that took long for once is forgotten again.
            self._longest = max(0.8 * self._longest, time.monotonic() - begin)

    def _bound(self, domains: Domains) -> None:
        """Bounds domains; keeps those that are open."""
        size = self._splitter.batch
        for start in range(0, len(domains), size):
            if time.monotonic() > self._limits.deadline:
                self._open.add(domains.take(np.arange(start, len(domains))))
                return
            part = domains.take(np.arange(start, min(start + size, len(domains))))
            bounded = self._splitter.bound(part)
            self._domains += len(part)
            bound = self._keep(bounded.domains, bounded.lower)
            if bounded.points is not None:
                self._look_at(bounded.points, part.owner, bound)
            self._look_elsewhere()
            self._report()
            if self._counterexample is not None:
                return

    def _look_at(
        self,
        points: npt.NDArray[Any],
        owner: npt.NDArray[np.int32],
        bound: npt.NDArray[np.float64],
    ) -> None:
        """Looks for a counterexample among points of domains, and now and then around them."""
        self._counterexample = self._referee.judge(points, owner)
        self._steps += 1
        now = self._steps >= 4 and self._steps & (self._steps - 1) == 0
        if self._attack is None or not now or self._counterexample is not None:
            return
        worst = np.argsort(bound, kind="stable")[:_ATTACKED]
        worst = worst[bound[worst] <= 0]
        if len(worst):
            found = self._attack(points[worst], owner[worst])
            self._counterexample = self._referee.judge(found, owner[worst])

    def _look_elsewhere(self) -> None:
        """Looks for a counterexample by the attacks beside the search, if they are due."""
        if self._beside is None or self._counterexample is not None or not len(self._open):
            return
        now = time.monotonic()
        if self._beside.is_due(now - self._begin, self._limits.deadline - now):
            self._counterexample = self._referee.judge(*self._beside.take())

    def _keep(self, domains: Domains, lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Takes in bounded domains: proved ones are done, others wait. Returns their bounds."""
        if np.isnan(lower).any():
            raise ValueError(
                "Bounds of a part of the region are NaN: values become too large for the model's "
                "type. Use a smaller region, or a model of dtype float64."
            )
        bound = np.maximum(self._values(lower, domains.owner), domains.bound)
        domains = dataclasses.replace(domains, bound=bound)
        proved = bound > 0
        if self._watch is not None:
            self._watch(domains, proved)
        if proved.any():
            self._least = min(self._least, float(bound[proved].min()))
        left = domains.take(~proved)
        able = self._splitter.can_split(left)
        self._open.add(left.take(able))
        self._stuck.add(left.take(~able))
        return bound

    def _values(
        self, lower: npt.NDArray[np.float64], owner: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float64]:
        found = np.empty(len(owner))
        for place in np.unique(owner):
            mine = owner == place
            found[mine] = self._questions[place].value(lower[mine])
        return found

    def _settle(self) -> Reason | None:
        """Asks for the last word on domains that cannot be split; says why some are left."""
        domains = self._stuck.all()
        assert domains is not None
        settled = self._splitter.settle(domains, self._limits.deadline)
        self._stuck = Pool()
        self._keep(settled.domains, settled.lower)
        if settled.points is not None:
            self._counterexample = self._referee.judge(settled.points, settled.domains.owner)
        left = len(self._stuck)
        if not left or self._counterexample is not None:
            return None
        if time.monotonic() > self._limits.deadline:
            text = f"The time is up: {left} parts are open. Try a longer time_limit."
            return Reason("time", text)
        return self._splitter.open_reason(left)

    def _report(self) -> None:
        if self._log is None and self._line is None:
            return
        seconds = time.monotonic() - self._begin
        now = Progress(
            seconds,
            self._domains,
            len(self._open) + len(self._stuck),
            min(self._open.least, self._stuck.least),
            self._domains / max(seconds, 1e-9),
        )
        if self._log is not None:
            self._log(now)
        if self._line is not None:
            self._line.show(now)


class _Line:
    """The progress on standard error: one line of a terminal, or now and then a line of a file."""

    def __init__(self) -> None:
        self._terminal, self._shown, self._width = sys.stderr.isatty(), time.monotonic(), 0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < (_TERMINAL if self._terminal else _FILE):
            return
        self._shown, text = now, str(progress)
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._width:
            sys.stderr.write("\n")
