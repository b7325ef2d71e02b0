"""``verify``: proves or breaks one property."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcert.bounds import methods
from tfcert.branching import attacking, whole
from tfcert.branching.asking import check_output, question_of, subject_of
from tfcert.branching.boxes import BoxSplitter, free_inputs
from tfcert.branching.certificates import Certificate
from tfcert.branching.checking import Referee
from tfcert.branching.layout import Layout
from tfcert.branching.maxima import splittable
from tfcert.branching.outcome import Counterexample, Outcome, Reason
from tfcert.branching.recording import BoxRecord, Recorder
from tfcert.branching.search import Found, Limits, Progress, search
from tfcert.branching.splitter import Splitter
from tfcert.branching.units import UnitSplitter
from tfcert.derivatives import resolved
from tfcert.entering import Inputs, Regions, enter
from tfcert.network import network_of
from tfcert.properties import Monotone, OutputProperty, Property
from tfcert.properties.questions import Problem
from tfcert.properties.writing import MOST_WAYS
from tfcert.types import MethodName

__all__ = ["Settings", "find_counterexample", "verify", "verify_problems"]

# Inputs with at most so many numbers that vary are split themselves.
_FEW_INPUTS = 20
# Random points, then starts and steps of the attack, for each problem.
_DRAWN, _STARTS, _STEPS = 256, 128, 30


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a verification.

    Attributes:
        method: Bounds every part of the region.
        deadline: When to give up, by ``time.monotonic()``; inf for never.
        seed: Decides random points.
        max_memory: Limit of the memory for open parts, in bytes.
        batch_size: The largest number of parts bounded together. None: chosen for the network.
        log: Called with a ``Progress`` after every step.
        verbose: 1 for a line of progress on standard error.
        recorder: Is told about the tree of the search; the first part of it is the whole region.
        cases: The numbers of the cases of each problem, for the recorder.
        slack: How far above 0 margins have to be where units are split.
    """

    method: methods.Method
    deadline: float = math.inf
    seed: int = 0
    max_memory: int = 2 << 30
    batch_size: int | None = None
    log: Callable[[Progress], Any] | None = None
    verbose: int = 0
    recorder: Recorder | None = None
    cases: Sequence[Sequence[int]] | None = None
    slack: float = 0.0


def verify(
    model: keras.Model,
    asked: Property | OutputProperty | Monotone,
    x: Inputs | None = None,
    region: Regions | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    *,
    method: MethodName | methods.Method = "crown",
    max_memory: int = 2 << 30,
    batch_size: int | None = None,
    log: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    recorder: Recorder | None = None,
    certificate: str | os.PathLike[str] | None = None,
) -> Outcome:
    """Decides whether a property holds for all inputs of a region.

    First an attack looks for a counterexample. Then the whole region is bounded. If neither
    decides, the region is split into parts, and each part is bounded, attacked and split further.
    The search ends when all parts are proved, a counterexample is found, or the time runs out.

    Args:
        model: A built model with one output, ``(batch, outputs)``. For a property of the outputs'
            order, such as ``ClassStays``, a final softmax is left out, and a single output z (a
            logit, or a probability after a sigmoid) has the scores 0 and z.
        asked: The property: from ``tfcert.properties.read_vnnlib``, which contains the inputs, or
            another object of ``tfcert.properties``, which must hold around x.
        x: Inputs, ``(batch, *input_shape)``; the property must hold around each of them. For a
            model with several inputs, a dictionary or a list of arrays.
        region: A ``Box``, or an ``LpBall`` with the norm "inf". For several inputs, a dictionary or
            a list with a region, or "fixed", for each.
        time_limit: Limit in seconds; None for no limit. The search keeps the limit to about a
            second. Compiling is not interrupted.
        seed: The seed of random points. With enough time, the verdict does not depend on the seed.
        method: The method that bounds each part, as for ``tfcert.bound``. With ``float_safe=True``
            the verdict holds for the model as executed in float32.
        max_memory: Limit of the memory for open parts, in bytes.
        batch_size: The largest number of parts bounded together. None: chosen for the network.
        log: A function that is called with a ``tfcert.branching.Progress`` after every step.
        verbose: 1 for a line of progress on standard error.
        recorder: An object that records the splits and the proof of every part, such as a
            ``tfcert.proofs.Tree``. Cases are numbered as in ``asked.cases``.
        certificate: A .npz file for the proof, which is written if the property holds;
            ``tfcert-check`` checks it, with ``--float_safe`` for a method that is. Unless they come
            from ``load_onnx`` and ``read_vnnlib``, the network and the property are written beside
            it: for "proof.npz" as "proof.network.npz" and "proof.vnnlib".

    Returns:
        An ``Outcome``: ``verdict`` "holds", "violated" or "unknown", ``counterexample``, ``bound``,
        ``domains``, ``seconds``, and ``reason``, which says why the verdict is unknown.

    Example:

    >>> asked = tfcert.properties.ClassStays(1)
    >>> outcome = tfcert.verify(model, asked, x[:1], tfcert.LpBall(0.05), time_limit=60)
    >>> outcome.verdict, outcome.bound
    """
    begin = time.monotonic()
    method = methods.get(method)
    model, inputs, around, apart = enter(model, x, region)
    model, asked = resolved(model, asked, around)
    model = subject_of(model, asked, method.float_safe)
    check_output(model)
    if time_limit is not None and not time_limit > 0:
        raise ValueError(
            f"`time_limit` must be seconds > 0, or None. Received: time_limit={time_limit}."
        )
    for name, value in (("seed", seed), ("max_memory", max_memory)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"`{name}` must be an integer >= 0. Received: {name}={value!r}.")
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 2):
        raise ValueError(
            f"`batch_size` must be an integer >= 2, or None. Received: batch_size={batch_size!r}."
        )
    question = question_of(model, asked, inputs, around)
    problems = question.boxes()
    proof = (
        None if certificate is None else Certificate(certificate, model, asked, problems, method)
    )
    if proof is not None and recorder is not None:
        raise ValueError(
            "`recorder` must be None with `certificate`, which needs its own recorder. Received: "
            f"recorder={recorder!r}."
        )
    cases, slack = asked.places_by_box() if isinstance(asked, Property) else None, 0.0
    if proof is not None and method.float_safe and problems and not _are_few(problems):
        method.check(network_of(model))
        method, slack = proof.by_checker(method), whole.rounding(model, problems, method)
    settings = Settings(
        method=method,
        deadline=begin + (math.inf if time_limit is None else time_limit),
        seed=int(seed),
        max_memory=int(max_memory),
        batch_size=batch_size,
        log=log,
        verbose=verbose,
        recorder=recorder if proof is None else proof.tree,
        cases=cases if proof is None else proof.cases,
        slack=slack,
    )
    outcome = question.verified(model, settings, verify_problems)
    if apart is not None:
        outcome = outcome.with_points(lambda point: apart(point, None))
    return outcome if proof is None else proof.written(outcome)


def find_counterexample(
    model: keras.Model,
    asked: Property | OutputProperty | Monotone,
    x: Inputs | None = None,
    region: Regions | None = None,
    steps: int = 50,
    starts: int = 64,
    seed: int = 0,
) -> Counterexample | None:
    """Searches for an input that breaks a property, by random points and gradient steps.

    Args:
        model: A built model with one output, ``(batch, outputs)``.
        asked: The property: from ``tfcert.properties.read_vnnlib``, which contains the inputs, or
            another object of ``tfcert.properties``, which must hold around x.
        x: Inputs, ``(batch, *input_shape)``; the search covers the region of each input.
        region: A ``Box``, or an ``LpBall`` of the norm "inf".
        steps: Gradient steps of ``tfcert.attacks.APGD``.
        starts: Random starting points for each box.
        seed: The seed of the starting points.

    Returns:
        The counterexample with its outputs, or None.

    Example:

    >>> asked = tfcert.properties.OutputRange(upper=10.0)
    >>> found = tfcert.branching.find_counterexample(model, asked, x, tfcert.LpBall(0.1))
    """
    model, inputs, around, apart = enter(model, x, region)
    model, asked = resolved(model, asked, around)
    model = subject_of(model, asked)
    check_output(model)
    for name, value, least in (("steps", steps, 1), ("starts", starts, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}.")
    question = question_of(model, asked, inputs, around)
    found = question.counterexample(model, steps, starts, seed)
    return (
        found
        if found is None or apart is None
        else found.with_point(lambda point: apart(point, None))
    )


def verify_problems(
    model: keras.Model, problems: Sequence[Problem], settings: Settings, split_only: bool = False
) -> Outcome:
    """``verify`` for problems that are known to fit the model.

    Args:
        model: The model.
        problems: All of them must hold.
        settings: How to go about it.
        split_only: Whether to split at once, since bounds of whole boxes are known not to decide.
    """
    settings.method.check(network_of(model))
    return _Verification(model, list(problems), settings).run(split_only)


class _Verification:
    """One run, stage by stage.

    Attributes:
        problems: Those that are open.
        least: The least bound of those that are proved.
        attacking: Seconds that an attack takes, or more.
    """

    def __init__(self, model: keras.Model, problems: list[Problem], settings: Settings):
        self.model, self.problems, self.settings = model, problems, settings
        self.begin = time.monotonic()
        self.first: float | None = None
        self.least, self.domains = math.inf, 0
        self.attacking = 2.0
        self.notes: list[str] = []

    def run(self, split_only: bool) -> Outcome:
        if not self.problems:
            return self._outcome("holds", math.inf, "")
        few = _are_few(self.problems)
        found = self._attacked(few)
        if found is not None:
            return found
        if not few and not split_only and self.settings.recorder is None:
            found = self._bounded()
            if found is not None:
                return found
        return self._split(few)

    def _attacked(self, few: bool) -> Outcome | None:
        """Random points, then gradient steps."""
        referee, seed = Referee(self.model, self.problems), self.settings.seed
        stages = [
            lambda: attacking.drawn(self.problems, _DRAWN, seed),
            lambda: attacking.attack(self.model, self.problems, _STEPS, _STARTS, seed),
        ]
        # Where inputs are split, bounds come first: they are known sooner than an attack is
        # compiled, and tell where to attack.
        for search_points in stages[:1] if few else stages:
            if self._late():
                break
            begin = time.monotonic()
            counterexample = referee.judge(*search_points())
            if counterexample is not None:
                return self._violated(counterexample, referee, "attack")
            self.attacking = max(self.attacking, time.monotonic() - begin)
        self.notes += referee.notes
        return None

    def _bounded(self) -> Outcome | None:
        """Bounds of whole boxes, by the method and by optimised slopes; keeps what is open."""
        best, margins = -math.inf, np.zeros((0, 0))
        method: methods.Method | None = self.settings.method
        while method is not None:
            if self._late():
                text = "The time is up before all bounds are known. Try a longer time_limit."
                reason = Reason("time", text)
                return self._outcome("unknown", min(best, self.least), method.name, reason)
            margins, values = whole.bounds(self.model, self.problems, method)
            self._note_first()
            self.domains += len(values)
            proved = values > 0
            self.least = min([self.least, *values[proved]])
            self.problems = [p for p, done in zip(self.problems, proved, strict=True) if not done]
            margins = margins[~proved]
            if not self.problems:
                return self._outcome("holds", self.least, method.name)
            best, method = float(values[~proved].min()), method.tighter()
        left = [whole.narrowed(*pair) for pair in zip(self.problems, margins, strict=True)]
        self.problems = [problem for problem, _ in left]
        self.least = min([self.least, *(bound for _, bound in left)])
        return None

    def _split(self, few: bool) -> Outcome:
        splitter = self._splitter(few)
        if splitter is None:
            free = max(map(free_inputs, self.problems))
            why = "float_safe" if self.settings.method.float_safe else "a network without a ReLU"
            text = (
                f"Bounds of the whole region do not decide, and {free} numbers of the input vary: "
                f"inputs are split up to {_FEW_INPUTS} of them, and units are not for {why}. Try a "
                "tighter method, such as tfcert.methods.AlphaCrown(optimize_intermediate=True), or "
                "a smaller region."
            )
            return self._outcome("unknown", -math.inf, "", Reason("splitting", text))
        referee = Referee(self.model, self.problems)
        limits = Limits(self.settings.deadline, self.settings.max_memory)
        found: Found = search(
            *(splitter, self.problems, referee, limits),
            log=self._log,
            attack=self._attack_around,
            verbose=self.settings.verbose,
            beside=self._turns(),
        )
        self.domains += found.domains
        if found.counterexample is not None:
            return self._violated(found.counterexample, referee, splitter.name)
        self.notes += referee.notes
        bound = min(self.least, found.bound)
        return self._outcome(
            "holds" if found.holds else "unknown", bound, splitter.name, found.reason
        )

    def _splitter(self, few: bool) -> Splitter | None:
        settings = self.settings
        if not few:
            # The multipliers of units have no analysis of rounding.
            if settings.method.float_safe or not self._layout.unit_count:
                return None
            problems = [problem.with_slack(settings.slack) for problem in self.problems]
            if settings.recorder is not None:  # A proof refutes case by case.
                problems = [problem.in_clauses(MOST_WAYS) for problem in problems]
            return UnitSplitter(
                self.model,
                problems,
                recorder=settings.recorder,
                cases=settings.cases,
                deadline=settings.deadline,
            )
        record = None
        if settings.recorder is not None:
            record = BoxRecord(settings.recorder, self.problems, settings.cases)
        return BoxSplitter(self.model, self.problems, settings.method, settings.batch_size, record)

    @property
    def _layout(self) -> Layout:
        recorded = self.settings.recorder is not None
        network = network_of(self.model) if recorded else splittable(self.model)
        return Layout(network, points=not recorded)

    def _turns(self) -> attacking.Turns:
        seed = self.settings.seed + 1
        return attacking.Turns(self.model, self.problems, seed, self.attacking)

    def _attack_around(self, points: Any, owner: Any) -> Any:
        return attacking.around(self.model, self.problems, points, owner, _STEPS)

    def _log(self, progress: Progress) -> None:
        self._note_first()
        if self.settings.log is not None:
            self.settings.log(progress)

    def _note_first(self) -> None:
        if self.first is None:
            self.first = time.monotonic() - self.begin

    def _late(self) -> bool:
        return time.monotonic() >= self.settings.deadline

    def _violated(self, found: Counterexample, referee: Referee, method: str) -> Outcome:
        self.notes += referee.notes
        return dataclasses.replace(
            self._outcome("violated", referee.value(found), method), found=found
        )

    def _outcome(
        self, verdict: Any, bound: float, method: str, reason: Reason | None = None
    ) -> Outcome:
        return Outcome(
            verdict=verdict,
            bound=float(bound),
            domains=self.domains,
            seconds=time.monotonic() - self.begin,
            method=method,
            reason="" if reason is None else reason.text,
            limit="" if reason is None else reason.kind,
            first_bound=self.first,
            notes=tuple(dict.fromkeys(self.notes)),
        )


def _are_few(problems: Sequence[Problem]) -> bool:
    """Whether inputs are split, rather than units."""
    return max(map(free_inputs, problems)) <= _FEW_INPUTS
