"""Tests of the rules: every layer, activation and operation, alone and inside networks."""

import functools
from unittest import mock

import pytest

import tfcert
from tests import rule_cases, rule_checks, soundness, support
from tfcert import network
from tfcert.rules import registry

PLACED = [(name, place) for name, case in rule_cases.CASES.items() for place in case.places]
MAPS = [name for name, case in rule_cases.CASES.items() if rule_cases.MAP in case.places]
AFFINE = [
    name
    for name, case in rule_cases.CASES.items()
    if case.affine and rule_cases.ALONE in case.places
]
# Variants of a case begin with its name, as "dense_bare". So do these, which have their own rules.
_NO_VARIANTS = {
    "activation_tanh_shrink",
    "average_pooling1d",
    "average_pooling2d",
    "average_pooling3d",
    "conv3d_transpose",
    "ops_divide_function",
    "ops_log_sigmoid",
    "ops_log_softmax",
    "ops_relu_activation",
    "ops_tanh_shrink",
}
MAIN = [
    name
    for name in rule_cases.CASES
    if name in _NO_VARIANTS or not any(name.startswith(f"{n}_") for n in rule_cases.CASES)
]
_QUICK = {(name, rule_cases.CASES[name].places[0]) for name in MAIN}


@pytest.fixture(scope="module", autouse=True)
def _eager():
    # The tests of a case follow one another (see conftest.py), and share its models.
    shared = functools.lru_cache(maxsize=4)(rule_checks.model_and_inputs)
    with soundness.eagerly(), mock.patch.object(rule_checks, "model_and_inputs", shared):
        yield


@pytest.mark.parametrize(
    ("name", "place"),
    support.slow_except(_QUICK.__contains__, PLACED),
    ids=[f"{n}-{p}" for n, p in PLACED],
)
def test_outputs_lie_within_bounds(name, place):
    methods = ["ibp", "crown"]
    if place == rule_cases.MAP:
        methods.append(tfcert.methods.AlphaCrown(iterations=1))
    rule_checks.check_bounds(name, place, methods)


@pytest.mark.parametrize("name", support.slow_except(AFFINE[::10].__contains__, AFFINE))
def test_bounds_behind_affine_rules_are_exact(name):
    rule_checks.check_exact_inside(name)


@pytest.mark.parametrize(
    "name", support.slow_except(list(rule_cases.CASES)[::4].__contains__, rule_cases.CASES)
)
def test_affine_steps_backward_are_the_transposes_of_the_forward_ones(name):
    rule_checks.check_transposes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_windows_give_the_bounds_of_full_rows(name):
    rule_checks.check_windows(name)


def test_every_rule_has_a_case_that_is_no_variant(monkeypatch):
    used = set()

    def recorded(key, rule):
        def record(*args, **kwargs):
            used.add(key)
            return rule(*args, **kwargs)

        return record

    rules = registry.registered()
    monkeypatch.setattr(registry, "_RULES", {k: recorded(k, rule) for k, rule in rules.items()})
    for case in map(rule_cases.CASES.get, MAIN):
        network.Network(rule_cases.build(case, case.places[0], "float32"))
    # Casts have a rule that only explains why there is none.
    missing = set(rules) - used - {"keras.ops.Cast"}
    # Other tests of the same process register layers of their own.
    missing = {k for k in missing if isinstance(k, str) or not k.__module__.startswith("tests.")}
    assert not missing, f"rules without a case: {sorted(map(str, missing))}"
