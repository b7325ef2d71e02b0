"""The stages of the cascade: each decides some of the inputs that are still open."""

from __future__ import annotations

import numpy as np

from tfcert import attacks
from tfcert.bounds import methods
from tfcert.certification.findings import Findings, Problem

__all__ = ["Attack", "Bounds", "LargestEps", "Predict", "Stage", "search"]


class Stage:
    """Works on batches of one size; a batch that is not full is filled up inside.

    Attributes:
        size: Inputs in a batch.
        limited: Whether time limits apply.
        keeps_time: Whether the stage itself ends in time, also within a batch.
    """

    limited = True
    keeps_time = False

    def __init__(self, problem: Problem, findings: Findings, size: int):
        self.problem, self.findings, self.size = problem, findings, size

    def wants(self, place: int) -> bool:
        """Whether the stage has to see an input; by default where it is open."""
        return self.findings.verdict[place] == ""

    def run(self, places: np.ndarray) -> None:
        """Works on up to ``size`` inputs, and notes what it finds."""
        raise NotImplementedError


class Predict(Stage):
    """The model's class; inputs where it is wrong need no proof."""

    limited = False

    def run(self, places: np.ndarray) -> None:
        problem, found = self.problem, self.findings
        batch = problem.filled(places, self.size)
        outputs = problem.subject.outputs(problem.x[batch])[: len(places)]
        classes = problem.subject.classes_of(outputs)
        if (classes < 0).any():
            idx = problem.index[places[np.argmax(classes < 0)]]
            raise ValueError(f"Input {idx}: the model returns NaN.")
        found.predict[places] = classes
        wrong = np.flatnonzero(problem.goal.broken(outputs, places))
        if len(wrong):
            margins = problem.goal.executed(problem.x[batch], batch)
            found.decide(places[wrong], "misclassified", margins[wrong], "none")


class Attack(Stage):
    """Looks for a counterexample: a point of the region that the model gets wrong."""

    def __init__(
        self, problem: Problem, findings: Findings, size: int, attack: attacks.Attack, seed: int
    ):
        super().__init__(problem, findings, size)
        self.attack, self.seed, self.name = attack, seed, type(attack).__name__.lower()

    def run(self, places: np.ndarray) -> None:
        points, wrong = search(self.problem, self.attack, places, self.size, self.seed)
        if not len(wrong):
            return
        margins = self.problem.goal.executed(points, places)
        self.findings.decide(places[wrong], "falsified", margins[wrong], self.name)
        for place, point in zip(places[wrong], points[wrong], strict=True):
            self.findings.points[int(place)] = point


def search(
    problem: Problem,
    attack: attacks.Attack,
    places: np.ndarray,
    size: int,
    seed: int,
    eps: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the regions, and which of them the model gets wrong, as it is executed.

    Args:
        problem: The inputs and their regions.
        attack: How to search; its own region does not count.
        places: Which inputs.
        size: Inputs that are attacked together; fewer are filled up.
        seed: Of the attack.
        eps: Sizes of the regions, where they are not their own.
    """
    batch = problem.filled(places, size)
    region = problem.region_of(batch, None if eps is None else problem.filled(eps, size))
    x = problem.x[batch]
    points = problem.goal.attacked(attack.with_region(region), x, batch, seed)
    outside = ~region.contains(points, x)
    if outside.any():
        raise RuntimeError(
            f"Input {problem.index[batch[np.argmax(outside)]]}: a point of {attack!r} lies "
            "outside the region. Please keep the model, and report this as a bug."
        )
    # NaN is no class, and no answer that could be right.
    wrong = np.flatnonzero(problem.goal.broken(problem.subject.outputs(points), batch))
    wrong = wrong[wrong < len(places)]
    return points[: len(places)], wrong


class Bounds(Stage):
    """Verifies inputs by one method; keeps the best bound of the others.

    Args:
        method: The method.
        searched: Whether the largest eps is wanted. What is verified here is the first one known,
            and the only one where the time ends before the search.
    """

    def __init__(
        self,
        problem: Problem,
        findings: Findings,
        size: int,
        method: methods.Method,
        searched: bool = False,
    ):
        super().__init__(problem, findings, size)
        self.method, self.name, self.searched = method, methods.name_of(method), searched

    def run(self, places: np.ndarray) -> None:
        margins = self.problem.least_margins(places, self.size, self.method)
        verified = margins > 0
        self.findings.decide(places[verified], "verified", margins[verified], self.name)
        if self.searched:
            self.findings.radius[places[verified]] = self.problem.eps_of(places[verified])
        better = ~verified & (margins > self.findings.margin[places])
        self.findings.margin[places[better]] = margins[better]
        self.findings.method[places[better]] = self.name


class LargestEps(Stage):
    """The largest size of the region at which some method verifies an input, by bisection.

    Bounds computed in floating point need not be monotone in eps, so nothing is concluded from
    sizes in between: the eps that is noted is one that was verified itself.

    Args:
        chain: The methods, from the cheapest on; each sees a batch that has open inputs.
        largest: Where the search ends.
        steps: Halvings.
    """

    def __init__(
        self,
        problem: Problem,
        findings: Findings,
        size: int,
        chain: list[methods.Method],
        largest: float,
        steps: int,
    ):
        super().__init__(problem, findings, size)
        self.chain, self.largest, self.steps = chain, largest, steps

    def wants(self, place: int) -> bool:
        return self.findings.verdict[place] not in ("", "misclassified")

    def run(self, places: np.ndarray) -> None:
        verdict = self.findings.verdict[places]
        known = self.problem.eps_of(places)
        verified = np.where(verdict == "verified", known, 0.0)
        failed = np.where(verdict == "falsified", known, self.largest)
        # Most inputs of a well-trained network hold further out than where a bisection begins.
        for step in range(self.steps + 1):
            eps = failed if step == 0 else (verified + failed) / 2
            holds = self._verify(places, eps) & (eps > verified)
            verified = np.where(holds, eps, verified)
            failed = np.where(holds, failed, eps)
        self.findings.radius[places] = verified

    def _verify(self, places: np.ndarray, eps: np.ndarray) -> np.ndarray:
        holds = np.zeros(len(places), bool)
        for method in self.chain:
            if holds.all():
                break
            holds |= self.problem.least_margins(places, self.size, method, eps) > 0
        return holds
