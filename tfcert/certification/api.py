"""``certify``: checks, the log, the stages, and the result."""

from __future__ import annotations

import contextlib
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcert import attacks, backend, logs
from tfcert.bounds import methods
from tfcert.certification import arguments, cascade, checking, identity, progress, recording, stages
from tfcert.certification.findings import Findings, Problem
from tfcert.certification.results import Certificates
from tfcert.certification.subject import Subject
from tfcert.naming import trained_with
from tfcert.regions import Region

__all__ = ["certify"]

# Inputs in a batch, by how much memory and time the methods take. Larger batches help a GPU.
_SIZES = {"ibp": 256, "crown-ibp": 128, "fast-lin": 32, "crown": 32, "alpha-crown": 16}
_ATTACK_SIZE, _PREDICT_SIZE, _GPU_FACTOR = 128, 256, 4
_CHECK_STEPS, _CHECK_RESTARTS = 100, 2


def certify(
    model: keras.Model,
    x: Any,
    y: Any,
    region: Region,
    method: Any = "auto",
    log: str | os.PathLike[str] | None = None,
    *,
    attack: attacks.PGD | str | None = "auto",
    float_safe: bool = False,
    max_eps: float | None = None,
    eps_steps: int = 10,
    time_limit: float | None = None,
    time_limit_per_input: float | None = None,
    self_check: float = 0.05,
    batch_size: int | None = None,
    index: Any = 0,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    verbose: int = 0,
) -> Certificates:
    """The verdict on every input: verified, falsified, misclassified or unknown.

    Effort goes where it is needed: the model's class; for those that are right an attack; then the
    methods, each on what the ones before left open. An input is verified when all lower bounds of
    its margins are above 0, strictly.

    Args:
        model: A built model with one output of shape ``(batch, classes)``, logits or behind a
            softmax; or ``(batch, 1)`` for two classes.
        x: Inputs, ``(batch, *input_shape)``; computed with in the model's float type.
        y: Integer labels, ``(batch,)``.
        region: ``LpBall`` or ``Box``, the same for all inputs or with sizes or limits per sample.
        method: "auto": IBP, CROWN-IBP, CROWN and alpha-CROWN in this order. Or one method or a
            list of them, names or objects of ``tfcert.methods``.
        log: A file that gets one line per input as soon as its verdict is there. A run that was
            stopped, even killed, goes on where it stood when it is called with the same arguments;
            other arguments, another model or other data are refused. See ``tfcert.logs``.
        attack: Looks for counterexamples first: an object of ``tfcert.attacks`` (its region does
            not count), "auto" for ``PGD`` with 40 steps from x, or None.
        float_safe: Whether certificates hold for the model as executed in float32, see
            ``tfcert.methods.Method``.
        max_eps: Search each input's largest verified eps up to this, too; for an ``LpBall`` with
            one number as its size. It is at least every eps of the region.
        eps_steps: Halvings of that search.
        time_limit: Seconds for the whole run; what is open then is unknown. Running batches and
            the self-check are finished.
        time_limit_per_input: Seconds for each input, of every batch an equal share. An input is
            not given to a method that would take it beyond.
        self_check: The share of inputs whose certificates are attacked by APGD before they are
            given, chosen by the seed and the index.
        batch_size: Inputs in a batch, for all stages; None: chosen for each method.
        index: The number of the first input in its data set, or one number per input: what the
            log calls idx.
        seed: Decides which inputs are checked, and the random starts of attacks.
        facts: More facts of the run for the log's side file, such as the data set's name. They
            do not decide whether a run is the same.
        verbose: 0: silent; 1: a progress bar with counts and the time left.

    Returns:
        ``Certificates``: arrays ``verdict``, ``margin``, ``method``, ``seconds``,
        ``counterexamples``, ``verified_accuracy``, ``summary()``, ``per_class()``.

    Raises:
        ValueError: An argument is wrong, or bounds of an input are NaN; what is in the log stays.
        UnsoundCertificateError: The self-check broke a certificate.

    Example:

    >>> region = tfcert.LpBall(0.02, clip=(0.0, 1.0))
    >>> result = tfcert.certify(model, x, y, region, log="run.tsv")
    >>> result.verdict[:3], result.verified_accuracy
    >>> print(result.summary())
    """
    chain = arguments.chain(method, float_safe)
    subject = Subject(model, chain[0].float_safe)
    problem = arguments.problem(subject, x, y, region, index)
    limits = {"time_limit": time_limit, "time_limit_per_input": time_limit_per_input}
    arguments.check_numbers(limits, self_check, batch_size, seed, verbose)
    arguments.check_search(problem, max_eps, eps_steps)
    attack = arguments.attack_of(attack, region)
    _say_if_looser(model, chain)
    settings = {
        "region": repr(region),
        "method": [repr(one) for one in chain],
        "attack": repr(attack.with_region(region)) if attack else None,
        "max_eps": max_eps,
        "eps_steps": eps_steps if max_eps is not None else None,
        **limits,
        "self_check": self_check,
        "batch_size": batch_size,
        "seed": seed,
    }
    run = {
        **(facts or {}),
        "hashes": {
            "model": identity.of_model(model),
            "data": identity.of_arrays(problem.x, problem.y, problem.index),
            "region": identity.of_region(region),
            "settings": identity.of_settings(settings),
        },
        "inputs": len(problem.x),
        "settings": settings,
    }
    findings = Findings.none(len(problem.x))
    with contextlib.ExitStack() as stack:
        writer = None
        if log is not None:
            more = ["radius"] if max_eps is not None else []
            writer = stack.enter_context(
                logs.Writer(log, "certify", run, recording.session(), more)
            )
        done = recording.restore(writer, problem, findings)
        wanted = checking.chosen(problem.index, self_check, seed)
        rounding: list[dict[str, Any]] = list(writer.facts.get("rounding", [])) if writer else []

        def record(broken: dict[str, Any]) -> None:
            rounding.append(broken)
            if writer:
                writer.note("rounding", rounding)
            warnings.warn(
                f"Input {broken['idx']}: rounding in float32 breaks its certificate, which holds "
                "in float64. Use float_safe=True.",
                stacklevel=3,
            )

        sizes = _Sizes(batch_size, len(problem.x))
        order: list[stages.Stage] = [stages.Predict(problem, findings, sizes.of(_PREDICT_SIZE))]
        if attack:
            order.append(stages.Attack(problem, findings, sizes.of(_ATTACK_SIZE), attack, seed))
        for one in chain:
            size = sizes.of(_SIZES.get(methods.name_of(one), _SIZES["crown"]))
            order.append(stages.Bounds(problem, findings, size, one))
        deciding = len(order)
        if max_eps is not None:
            size = order[-1].size
            order.append(
                stages.LargestEps(problem, findings, size, chain, float(max_eps), eps_steps)
            )
        check = checking.SelfCheck(
            problem,
            findings,
            sizes.of(_ATTACK_SIZE),
            wanted=wanted,
            float_safe=chain[0].float_safe,
            attack=attacks.APGD(
                region, _CHECK_STEPS, restarts=_CHECK_RESTARTS, loss="margin", early_stop=False
            ),
            seed=seed,
            folder=None if log is None else pathlib.Path(f"{os.fspath(log)}.unsound"),
            record=record,
        )
        order.append(check)
        left = np.setdiff1d(np.arange(len(problem.x)), done)
        bar = progress.Progress(len(problem.x), len(done), findings.counts, verbose)

        def finish(places: list[int]) -> None:
            if writer:
                recording.write(writer, problem, findings, places)
            bar.add(len(places))

        limit = cascade.Limits(time_limit_per_input, time_limit, float(findings.seconds.sum()))
        cascade.run(order, deciding, left.tolist(), findings, limit, finish)
        bar.close()
    checked = int(sum(map(check.wants, range(len(problem.x))))) + len(rounding)
    return _result(problem, findings, max_eps is not None, checked, rounding)


class _Sizes:
    """How many inputs a batch holds."""

    def __init__(self, asked: int | None, inputs: int):
        self._asked, self._inputs = asked, inputs
        self._factor = _GPU_FACTOR if backend.prefers_xla() else 1

    def of(self, usual: int) -> int:
        return min(self._asked or usual * self._factor, self._inputs)


def _say_if_looser(model: keras.Model, chain: list[methods.Method]) -> None:
    """Warns where the model was trained with a tighter bound than any that is asked for."""
    known, order = trained_with(model), ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown")
    if known not in order:
        return
    ranks = [order.index(methods.name_of(one)) for one in chain if methods.name_of(one) in order]
    if len(ranks) == len(chain) and max(ranks) < order.index(known):
        warnings.warn(
            f"The model was trained with {known} bounds. "
            f"{', '.join(map(methods.name_of, chain))} is looser, and will verify fewer inputs "
            f'than the model allows. Use method="{known}" or "auto".',
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
