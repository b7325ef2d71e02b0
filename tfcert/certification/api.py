"""``certify``: checks, the log, the stages, and the result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfcert import attacks, backend, logs, provenance
from tfcert.bounds import methods
from tfcert.certification import cascade, checking, recording, request, stages
from tfcert.certification.complete import Complete
from tfcert.certification.findings import Findings, Problem
from tfcert.certification.results import Certificates
from tfcert.certification.stages import Stage
from tfcert.certification.subject import Subject
from tfcert.derivatives import resolved
from tfcert.entering import Inputs, Regions, enter
from tfcert.naming import trained_with
from tfcert.network import checked_model
from tfcert.properties import Monotone, OutputProperty
from tfcert.runs import progress
from tfcert.types import ArrayLike, MethodName, PathLike

__all__ = ["certify"]

# What stands for one method, or for several of them.
MethodLike = MethodName | Literal["auto", "complete"] | methods.Method

# Inputs in a batch, by how much memory and time the methods take. Larger batches help a GPU.
_SIZES = {
    "lipschitz": 256,
    "ibp": 256,
    "crown-ibp": 128,
    "fast-lin": 32,
    "crown": 32,
    "alpha-crown": 16,
}
_ATTACK_SIZE, _PREDICT_SIZE, _GPU_FACTOR = 128, 256, 4


def certify(
    model: keras.Model,
    x: Inputs,
    y: ArrayLike | OutputProperty | Monotone,
    region: Regions,
    method: MethodLike | Sequence[MethodLike] = "auto",
    log: PathLike | None = None,
    *,
    attack: attacks.Attack | Literal["auto"] | None = "auto",
    float_safe: bool = False,
    max_eps: float | None = None,
    eps_steps: int = 10,
    time_limit: float | None = None,
    time_limit_per_input: float | None = None,
    self_check: float = 0.05,
    batch_size: int | None = None,
    index: ArrayLike = 0,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    verbose: progress.Verbose = "auto",
) -> Certificates:
    """Decides for every input whether it is verified, falsified, misclassified or unknown.

    First the model classifies the inputs. Then an attack runs on the inputs that are classified
    right. Then the methods run, each on the inputs that earlier steps left open. An input is
    verified if all lower bounds of its margins are above 0, strictly.

    Args:
        model: A built model with one output of shape ``(batch, classes)``, logits or behind a
            softmax; or ``(batch, 1)`` for two classes.
        x: Inputs, ``(batch, *input_shape)``; computed with in the model's float type. Of a model
            with several inputs a dictionary or a list of them.
        y: Integer labels, ``(batch,)`` or ``(batch, 1)``, or one-hot ones; or another property of
            the outputs, an object of ``tfcert.properties``. "misclassified" then says that the
            input itself breaks it.
        region: ``LpBall`` or ``Box``, the same for all inputs or with sizes or limits per sample;
            ``tfcert.regions.WordSubstitutions`` for models that begin with an ``Embedding``, whose
            counterexamples are words. Of several inputs a dictionary or a list with
            a region, or "fixed", for each.
        method: "auto": IBP, CROWN-IBP, CROWN and alpha-CROWN in this order. Or one method or a
            list of them, names or objects of ``tfcert.methods``. "complete", alone or as the last
            of a list: what the methods leave open is split and bounded until it is decided, as by
            ``tfcert.verify``, or the input's time is up.
        log: A file that gets one line per input as soon as its verdict is there. A run that was
            stopped, even killed, goes on where it stood when it is called with the same arguments;
            other arguments, another model or other data are refused. See ``tfcert.logs``.
        attack: Looks for counterexamples first: an object of ``tfcert.attacks`` (its region does
            not count), "auto" for ``PGD`` with 40 steps from x, or None.
        float_safe: Whether certificates hold for the model as executed in float32, see
            ``tfcert.methods.Method``.
        max_eps: If given, ``certify`` also searches for each input's largest verified eps, up to
            this limit. The region must be an ``LpBall`` with one number as its size, and no eps of
            the region may exceed `max_eps`.
        eps_steps: Number of halvings in the search for the largest eps.
        time_limit: Seconds for the whole run. Inputs still open at the end are unknown. Running
            batches and the self-check are completed.
        time_limit_per_input: Seconds for each input, counted as an equal share of its batches. An
            input skips a method that would exceed the limit. For "complete" this is the only limit.
        self_check: The share of certificates that APGD attacks before they are issued, chosen by
            the seed and the index.
        batch_size: Number of inputs in a batch, for all stages. None: chosen for each method.
        index: The number of the first input in its data set, or one number per input. The log calls
            it idx.
        seed: The seed of the self-check's choice of inputs, and of the random starts of attacks.
        facts: More facts of the run for the log's side file, such as the data set's name. They
            do not decide whether a run is the same.
        verbose: 1 shows a line of progress with counts and the remaining time, 0 shows nothing,
            "auto" shows progress on a terminal and in a notebook.

    Returns:
        ``Certificates``: arrays ``verdict``, ``margin``, ``method``, ``seconds``,
        ``counterexamples``, ``verified_accuracy``, ``summary()``, ``per_class()``.

    Raises:
        ValueError: An argument is wrong, or bounds of an input are NaN. Lines already in the log
            stay.
        UnsoundCertificateError: The self-check broke a certificate.

    Example:

    >>> region = tfcert.LpBall(0.02, clip=(0.0, 1.0))
    >>> result = tfcert.certify(model, x, y, region, log="run.tsv")
    >>> result.verdict[:3], result.verified_accuracy
    >>> print(result.summary())
    """
    chain, complete = request.chain(method, float_safe)
    given = model
    model, inputs, around, apart = enter(model, x, region)
    model, y = resolved(model, y, around)
    checked_model(model, inputs)
    ranks = y.ranks if isinstance(y, OutputProperty) else True
    subject = Subject(model, chain[0].float_safe, ranks)
    for one in chain:  # Before a log is made.
        one.check(subject.network)
    problem = request.problem(subject, inputs, y, around, index)
    limits = {"time_limit": time_limit, "time_limit_per_input": time_limit_per_input}
    request.check_numbers(limits, self_check, batch_size, seed)
    progress.wanted(verbose)  # Checked before any work is done.
    request.check_search(problem, max_eps, eps_steps)
    if complete:
        request.check_complete(around)
    # NumPy's numbers are no JSON, and 3600 is the same limit as 3600.0; infinity is none.
    limits = {name: request.plain_limit(value) for name, value in limits.items()}
    self_check, seed = float(self_check), int(seed)
    batch_size = None if batch_size is None else int(batch_size)
    max_eps = None if max_eps is None else float(max_eps)
    attack = request.attack_of(attack, around)
    _say_if_looser(given, chain)
    settings = {
        "region": repr(around),
        "method": [*map(repr, chain), *(["complete"] if complete else [])],
        "attack": repr(attack.with_region(around)) if attack else None,
        "max_eps": max_eps,
        "eps_steps": eps_steps if max_eps is not None else None,
        **limits,
        "self_check": self_check,
        "batch_size": batch_size,
        "seed": seed,
    }
    findings = Findings.none(len(problem.x))
    with contextlib.ExitStack() as stack:
        writer = None
        if log is not None:
            run = recording.run_of(model, problem, settings, facts or {})
            more = ["radius"] if max_eps is not None else []
            writer = logs.Writer(log, "certify", run, provenance.session(), more)
            stack.enter_context(writer)
        recorder = recording.Recorder(writer, problem, findings)
        limit = cascade.Limits(
            limits["time_limit_per_input"], limits["time_limit"], float(findings.seconds.sum())
        )
        plan = _Plan(problem, findings, batch_size, seed)
        plan.decide(attack, chain, max_eps is not None, limit.left if complete else None)
        if max_eps is not None:
            plan.search(chain, max_eps, eps_steps)
        check = plan.check(self_check, chain[0].float_safe, log, recorder.broke)
        bar = progress.Progress(len(problem.x), len(recorder.done), findings.counts, verbose)

        def finish(places: list[int]) -> None:
            recorder.finish(places)
            bar.add(len(places))

        left = np.setdiff1d(np.arange(len(problem.x)), recorder.done).tolist()
        cascade.run(plan.stages, plan.deciding, left, findings, limit, finish)
        bar.close()
    rounding = recorder.rounding
    checked = sum(map(check.wants, range(len(problem.x)))) + len(rounding)
    result = _result(problem, findings, max_eps is not None, checked, rounding)
    if apart is None:
        return result
    points = {place: apart(point, place) for place, point in result.counterexamples.items()}
    return dataclasses.replace(result, counterexamples=points)


class _Plan:
    """The stages that inputs go through.

    Attributes:
        stages: In their order.
        deciding: How many of them decide on the verdict.
    """

    def __init__(self, problem: Problem, findings: Findings, batch_size: int | None, seed: int):
        self._work, self._seed = (problem, findings), seed
        self._asked, self._inputs = batch_size, len(problem.x)
        self.stages: list[Stage] = [stages.Predict(*self._work, self._size(_PREDICT_SIZE))]
        self.deciding = 1

    def decide(
        self,
        attack: attacks.Attack | None,
        chain: list[methods.Method],
        searched: bool,
        left: Callable[[float], float] | None,
    ) -> None:
        """Adds what comes to a verdict; ``left`` tells of seconds left, for branch and bound."""
        if attack:
            size = self._size(_ATTACK_SIZE)
            self.stages.append(stages.Attack(*self._work, size, attack, self._seed))
        for one in chain:
            size = self._size(_SIZES.get(methods.name_of(one), _SIZES["crown"]))
            self.stages.append(stages.Bounds(*self._work, size, one, searched))
        if left is not None:
            self.stages.append(
                Complete(*self._work, chain[-1].float_safe, left, self._seed, searched)
            )
        self.deciding = len(self.stages)

    def search(self, chain: list[methods.Method], largest: float, steps: int) -> None:
        """Adds the search for the largest eps."""
        size = self.stages[-1].size
        self.stages.append(stages.LargestEps(*self._work, size, chain, largest, steps))

    def check(
        self, share: float, float_safe: bool, log: Any, record: Callable[[dict[str, Any]], None]
    ) -> Stage:
        """Adds the self-check, the last stage, and returns it."""
        problem, _ = self._work
        self.stages.append(
            checking.SelfCheck(
                *self._work,
                self._size(_ATTACK_SIZE),
                wanted=checking.chosen(problem.index, share, self._seed),
                float_safe=float_safe,
                attack=request.hardest_attack(problem.region),
                seed=self._seed,
                folder=None if log is None else pathlib.Path(f"{os.fspath(log)}.unsound"),
                record=record,
            )
        )
        return self.stages[-1]

    def _size(self, usual: int) -> int:
        """How many inputs a batch holds."""
        factor = _GPU_FACTOR if backend.prefers_xla() else 1
        return min(self._asked or usual * factor, self._inputs)


def _say_if_looser(model: keras.Model, chain: list[methods.Method]) -> None:
    """Warns where the model was trained with a tighter bound than any that is asked for."""
    known, order = (
        trained_with(model),
        ("lipschitz", "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown"),
    )
    if known not in order:
        return
    ranks = [order.index(methods.name_of(one)) for one in chain if methods.name_of(one) in order]
    if len(ranks) == len(chain) and max(ranks) < order.index(known):
        warnings.warn(
            f"The model was trained with {known} bounds. "
            f"{', '.join(map(methods.name_of, chain))} is looser, and will verify fewer inputs "
            f'than possible. Use method="{known}" or "auto".',
            stacklevel=3,
        )


def _result(
    problem: Problem,
    findings: Findings,
    searched: bool,
    checked: int,
    rounding: list[dict[str, Any]],
) -> Certificates:
    return Certificates(
        verdict=findings.verdict.astype(str),
        margin=findings.margin,
        method=findings.method.astype(str),
        seconds=findings.seconds,
        predict=findings.predict,
        label=problem.y,
        index=problem.index,
        counterexamples=dict(sorted(findings.points.items())),
        radius=findings.radius if searched else None,
        checked=checked,
        rounding=rounding,
    )
