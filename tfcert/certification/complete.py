"""The last stage: branch and bound, one input at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from tfcert.bounds import methods
from tfcert.branching.choices import Choices, boxes_of
from tfcert.branching.outcome import Outcome
from tfcert.branching.verifying import Settings, verify_problems
from tfcert.certification.findings import Findings, Problem
from tfcert.certification.stages import Stage

__all__ = ["Complete"]


class Complete(Stage):
    """Splits the region of an input until every part is decided, or its time is up.

    Args:
        float_safe: Whether verdicts hold for the model as executed.
        left: Seconds that an input has left, from those spent on it.
        seed: Decides random points, together with the number of the input.
        searched: As for ``Bounds``.
    """

    keeps_time = True

    def __init__(
        self,
        problem: Problem,
        findings: Findings,
        float_safe: bool,
        left: Callable[[float], float],
        seed: int,
        searched: bool,
    ):
        super().__init__(problem, findings, 1)
        self.method = methods.Crown(float_safe=float_safe)
        self.left, self.seed, self.searched = left, seed, searched

    def run(self, places: np.ndarray) -> None:
        for place in places:
            self._decide(int(place))

    def _decide(self, place: int) -> None:
        problem, found = self.problem, self.findings
        left = self.left(float(found.seconds[place]))
        outcome = self._searched(
            place,
            Settings(
                self.method,
                deadline=math.inf if left == math.inf else time.monotonic() + left,
                # The verdict does not depend on who else is certified.
                seed=self.seed + int(problem.index[place]),
            ),
        )
        here = np.array([place])
        if outcome.verdict == "holds":
            found.decide(here, "verified", np.array([outcome.bound]), outcome.method)
            if self.searched:
                found.radius[here] = problem.eps_of(here)
        elif outcome.counterexample is not None:
            point = outcome.counterexample.astype(problem.x.dtype)
            # By the scores; the class may still be right where two are equal.
            if problem.goal.broken(problem.subject.outputs(point[None]), here)[0]:
                margin = problem.goal.executed(point[None], here)
                found.decide(here, "falsified", margin, outcome.method)
                found.points[place] = point
        elif outcome.bound > found.margin[place]:
            found.margin[place], found.method[place] = outcome.bound, outcome.method

    def _searched(self, place: int, settings: Settings) -> Outcome:
        """Splits the region of an input, into boxes or by its choices."""
        here, scores = np.array([place]), self.problem.subject.scores
        x, region = self.problem.x[here], self.problem.region_of(here)
        questions = self.problem.goal.questions(here)
        if region.options(x) is not None:
            choices = Choices(region, x, questions)
            return choices.verified(scores, settings, verify_problems, attacked=True)
        boxes = boxes_of(region, x, questions)
        return verify_problems(scores, boxes, settings, split_only=True)
