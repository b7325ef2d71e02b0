"""Checks of the arguments of ``certify``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from tfcert import attacks, checks, names
from tfcert.bounds import methods
from tfcert.certification.findings import Problem
from tfcert.certification.goals import Classes, Goal, Outputs
from tfcert.certification.subject import Subject
from tfcert.properties import OutputProperty
from tfcert.regions import LpBall, Region
from tfcert.regions.checking import check_region

__all__ = [
    "AUTO",
    "attack_of",
    "chain",
    "check_complete",
    "check_numbers",
    "check_search",
    "hardest_attack",
    "plain_limit",
    "problem",
]

_CHECK_STEPS, _CHECK_RESTARTS = 100, 2
# What method="auto" stands for, from the cheapest and loosest on.
AUTO = ("ibp", "crown-ibp", "crown", "alpha-crown")


def chain(method: Any, float_safe: bool) -> tuple[list[methods.Method], bool]:
    """The methods in their order, and whether branch and bound follows them."""
    several = list(method) if isinstance(method, (list, tuple)) else [method]
    if not several:
        raise ValueError("`method` must hold at least one method. Received: an empty list.")
    complete = [isinstance(one, str) and one == "complete" for one in several]
    if any(complete[:-1]):
        raise ValueError(f'"complete" must be the last `method`. Received: method={method!r}.')
    if complete[-1]:
        several = several[:-1] or ["auto"]
    singles = [name for one in several for name in (AUTO if _is_auto(one) else [one])]
    chain = [methods.get(single) for single in singles]
    if float_safe:
        chain = [dataclasses.replace(one, float_safe=True) for one in chain]
    if len({one.float_safe for one in chain}) > 1:
        raise ValueError(
            f"`method` must hold only float-safe methods, or none. Received: method={method!r}. "
            "Pass float_safe=True."
        )
    return chain, complete[-1]


def check_complete(region: Region) -> None:
    """Raises where branch and bound cannot split the region."""
    if not region.splits:
        raise NotImplementedError(
            'method="complete" splits boxes, words and one-hot groups: use a tfcert.Box, a '
            'tfcert.LpBall with norm="inf", or tfcert.regions.WordSubstitutions. '
            f"Received: region={region!r}."
        )


def _is_auto(method: Any) -> bool:
    return isinstance(method, str) and names.hyphenated(method) == "auto"


def problem(subject: Subject, x: Any, y: Any, region: Region, index: Any) -> Problem:
    """Inputs, labels, region and numbers that fit the model and each other."""
    x = np.asarray(ops.convert_to_numpy(x))
    checks.check_inputs(x, tuple(subject.network.input.shape), subject.model.name)
    checks.check_real(x)
    x = x.astype(subject.dtype)
    goal = _goal(subject, y, len(x))
    check_region(region)
    checks.check_finite(x)
    region.validate(x)
    places = np.asarray(index)
    if places.dtype.kind not in "iu" or places.shape not in ((), (len(x),)) or places.min() < 0:
        raise ValueError(
            "`index` must be the number of the first input, or one number per input "
            f"({len(x)}): non-negative integers. Received: index={index!r}."
        )
    places = places if places.shape else places + np.arange(len(x))
    if len(np.unique(places)) < len(places):
        raise ValueError("`index` must not repeat a number.")
    return Problem(subject, x, goal, region, places.astype("int64"))


def _goal(subject: Subject, y: Any, inputs: int) -> Goal:
    """What is asked: y is a property, or holds labels."""
    if isinstance(y, OutputProperty) and not y.is_class():
        return Outputs(subject, y, inputs)
    labels = y.labels(inputs) if isinstance(y, OutputProperty) else ops.convert_to_numpy(y)
    labels = checks.integer_labels(np.asarray(labels), subject.classes)
    checks.check_labels(labels, inputs, subject.classes)
    return Classes(subject, labels.astype("int64"))


def check_numbers(limits: dict[str, Any], self_check: float, batch_size: Any, seed: Any) -> None:
    """Raises unless the plain numbers are what they must be."""
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be seconds > 0, or None. Received: {name}={value}.")
    if not 0 <= self_check <= 1:
        raise ValueError(f"`self_check` must lie in [0, 1]. Received: self_check={self_check}.")
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value is None and name == "batch_size":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}.")


def plain_limit(value: Any) -> float | None:
    """A time limit as a number of Python; None for one that never ends."""
    return None if value is None or value == np.inf else float(value)


def check_search(problem: Problem, max_eps: float | None, eps_steps: int) -> None:
    """Raises unless the largest eps can be searched as is asked for."""
    if max_eps is None:
        return
    region = problem.region
    if not isinstance(region, LpBall) or np.ndim(region.with_eps(0.0).eps):
        raise ValueError(
            f"`max_eps` needs an LpBall with one number as its size. Received: region={region!r}."
        )
    largest = float(np.max(problem.eps_of(np.arange(len(problem.x)))))
    if not largest <= max_eps < np.inf:
        raise ValueError(
            f"`max_eps` must be finite and at least the region's eps, {largest:g}. "
            f"Received: max_eps={max_eps}."
        )
    if isinstance(eps_steps, bool) or not isinstance(eps_steps, int) or eps_steps < 1:
        raise ValueError(f"`eps_steps` must be an integer >= 1. Received: eps_steps={eps_steps!r}.")


def hardest_attack(region: Region) -> attacks.Attack:
    """The attack of the self-check."""
    if region.is_finite:
        return attacks.Substitutions(region, restarts=_CHECK_RESTARTS, early_stop=False)
    return attacks.APGD(
        region, _CHECK_STEPS, restarts=_CHECK_RESTARTS, loss="margin", early_stop=False
    )


def attack_of(attack: Any, region: Region) -> attacks.Attack | None:
    """The attack that stands for the argument."""
    if isinstance(attack, str) and attack == "auto" and region.is_finite:
        return attacks.Substitutions(region)
    if isinstance(attack, str) and attack == "auto":
        # Without random starts an input's verdict does not depend on who shares its batch.
        return attacks.PGD(region, steps=40, loss="margin", random_start=False)
    if attack is not None and not isinstance(attack, attacks.Attack):
        raise ValueError(
            '`attack` must be "auto", an object of tfcert.attacks, or None. '
            f"Received: attack={attack!r}."
        )
    return attack
