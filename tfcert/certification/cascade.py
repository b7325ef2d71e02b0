"""The order of work: every stage gets full batches of what the stages before left open."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence

import numpy as np

from tfcert.certification.findings import Findings
from tfcert.certification.stages import Stage

__all__ = ["Limits", "run"]


class Limits:
    """Time limits, for an input and for the whole run, in seconds; None for no limit.

    Most stages do not interrupt a batch. An input does not enter such a stage if it would take the
    input beyond its limit, going by what the stage has taken so far.

    Args:
        per_input: Seconds for each input.
        whole: Seconds for the run.
        spent: Seconds that the run has taken before it was interrupted.
    """

    def __init__(self, per_input: float | None, whole: float | None, spent: float):
        self.per_input = per_input
        self._end = None if whole is None else time.monotonic() + whole - spent
        self._cost: dict[Stage, float] = {}

    def left(self, spent: float) -> float:
        """Seconds that an input has left, after those that were spent on it."""
        whole = np.inf if self._end is None else self._end - time.monotonic()
        return float(min(whole, np.inf if self.per_input is None else self.per_input - spent))

    def note(self, stage: Stage, seconds: float) -> None:
        """Notes what an input took; compilation, in the first batches, is forgotten later."""
        self._cost[stage] = min(seconds, self._cost.get(stage, np.inf))

    def allow(self, stage: Stage, spent: float) -> bool:
        """Whether an input may enter a stage."""
        if not stage.limited:
            return True
        if self._end is not None and time.monotonic() >= self._end:
            return False
        ahead = 0.0 if stage.keeps_time else self._cost.get(stage, 0.0)
        return self.per_input is None or spent + ahead < self.per_input


def run(
    stages: Sequence[Stage],
    deciding: int,
    places: Sequence[int],
    findings: Findings,
    limits: Limits,
    finish: Callable[[list[int]], None],
) -> None:
    """Sends inputs through the stages, and hands them on as they leave.

    The last stage that has a full batch works first, so that results come early and no more than
    one batch waits before any stage. At the end the batches that are left are not full.

    Args:
        stages: In their order.
        deciding: How many of them decide; what is open behind them becomes unknown.
        places: The inputs.
        findings: What is known of them.
        limits: Time limits.
        finish: Is given inputs that have left.
    """
    queues: list[collections.deque[int]] = [collections.deque() for _ in stages]
    coming = collections.deque(places)

    def enter(moving: Sequence[int], level: int) -> None:
        """Puts inputs before the next stage that wants them."""
        done = []
        for place in moving:
            for i, stage in enumerate(stages[level:], start=level):
                if i >= deciding and findings.verdict[place] == "":
                    findings.verdict[place] = "unknown"
                if stage.wants(place) and limits.allow(stage, findings.seconds[place]):
                    queues[i].append(place)
                    break
            else:
                findings.verdict[place] = findings.verdict[place] or "unknown"
                done.append(place)
        if done:
            finish(done)

    def work(level: int) -> None:
        stage, queue = stages[level], queues[level]
        batch = [queue.popleft() for _ in range(min(stage.size, len(queue)))]
        # The time may be over since they came.
        now = [place for place in batch if limits.allow(stage, findings.seconds[place])]
        if now:
            begin = time.perf_counter()
            stage.run(np.array(now))
            seconds = (time.perf_counter() - begin) / len(now)
            limits.note(stage, seconds)
            findings.seconds[now] += seconds
        enter(batch, level + 1)

    while True:
        full = [i for i, stage in enumerate(stages) if len(queues[i]) >= stage.size]
        waiting = [i for i, queue in enumerate(queues) if queue]
        if full:
            work(full[-1])
        elif coming:
            enter([coming.popleft() for _ in range(min(stages[0].size, len(coming)))], 0)
        elif waiting:
            work(waiting[0])
        else:
            return
