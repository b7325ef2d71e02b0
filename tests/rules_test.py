"""Tests of the rules: every layer, activation and operation, alone and inside networks."""

import numpy as np
import pytest
from keras import ops

import tfcert
from tests import rule_cases, soundness
from tfcert import network
from tfcert.rules import primitives, registry

PLACED = [(name, place) for name, case in rule_cases.CASES.items() for place in case.places]
each_case = pytest.mark.parametrize(
    ("name", "place"), PLACED, ids=[f"{name}-{place}" for name, place in PLACED]
)


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def model_and_inputs(name, place, seed=0):
    """The model of a case, and inputs, in the most precise type that Keras can run it in."""
    case, reason = rule_cases.CASES[name], None
    for dtype in soundness.dtypes()[case.coarse :]:
        model = rule_cases.build(case, place, dtype, seed)
        rng = np.random.default_rng(seed + 1)
        x = rng.normal(size=(2, *model.input_shape[1:])).astype(dtype)
        try:
            model(x, training=False)
        except Exception as error:  # The backend's own classes of exceptions.
            reason = str(error).replace("\n", " ")[:200]
        else:
            return model, x
    pytest.skip(f"Keras cannot run this model here: {reason}")


@each_case
def test_outputs_lie_within_bounds(name, place):
    model, x = model_and_inputs(name, place)
    case = rule_cases.CASES[name]
    exact = case.affine and place == rule_cases.ALONE
    region = tfcert.LpBall(case.radius if place == rule_cases.ALONE else 0.4)
    # The attack finds the extreme points of an affine function in one step.
    reached = soundness.Reached(model, x, region, attacks=1000 if exact else 4)
    methods = ["ibp", "crown"]
    if place == rule_cases.MAP:
        methods.append(tfcert.methods.AlphaCrown(iterations=1, optimize_intermediate=True))
    for method in methods:
        bounds = tfcert.bound(model, x, region, method)
        reached.check(bounds, f"{method}")
        if exact and method == "crown":
            reached.check_attained(bounds, f"{method}")
    if place == rule_cases.ALONE:
        soundness.check_point(model, x, "crown", name)


def test_every_rule_has_a_case(monkeypatch):
    used = set()

    def recorded(key, rule):
        def record(*args, **kwargs):
            used.add(key)
            return rule(*args, **kwargs)

        return record

    rules = registry.registered()
    monkeypatch.setattr(registry, "_RULES", {k: recorded(k, rule) for k, rule in rules.items()})
    for case in rule_cases.CASES.values():
        network.Network(rule_cases.build(case, case.places[0], "float32"))
    # Casts have a rule that only explains why there is none.
    missing = set(rules) - used - {"keras.ops.Cast"}
    assert not missing, f"rules without a case: {sorted(map(str, missing))}"


@pytest.mark.parametrize("name", rule_cases.CASES)
def test_affine_steps_backward_are_the_transposes_of_the_forward_ones(name):
    # <a, f(x)> = <f^T a, x> + <a, f(0)> for every affine step of the network of a case.
    model, _ = model_and_inputs(name, rule_cases.CASES[name].places[-1])
    net, rng = network.network_of(model), np.random.default_rng(0)
    tolerance = soundness.TOLERANCE[net.dtype]
    for node in net.nodes:
        primitive = node.primitive
        if not isinstance(primitive, primitives.Affine):
            continue
        p = primitive.parameters(net.dtype)
        values = [rng.normal(size=(3, *s.shape)).astype(net.dtype) for s in node.inputs]
        rows = rng.normal(size=(3, *node.shape)).astype(net.dtype)
        shapes = [source.shape for source in node.inputs] + [node.shape]
        output = soundness.flat(primitive.apply(p, *map(ops.convert_to_tensor, values)))[0]
        pulled = soundness.flat(primitive.transpose(p, ops.convert_to_tensor(rows), shapes))
        bias = primitive.bias(p)
        forward = output if bias is None else output - soundness.flat(bias)[0]
        size = tuple(range(1, rows.ndim))
        left = np.sum(rows * forward, axis=size)
        right = sum(
            np.sum(a * x, axis=tuple(range(1, x.ndim))) for a, x in zip(pulled, values, strict=True)
        )
        assert np.abs(left - right).max() <= 10 * tolerance * soundness.magnitude(left), node


MAPS = [name for name, case in rule_cases.CASES.items() if rule_cases.MAP in case.places]


@pytest.mark.parametrize("name", MAPS)
def test_windows_give_the_bounds_of_full_rows(name):
    model, x = model_and_inputs(name, rule_cases.MAP, seed=3)
    net, bounds = network.network_of(model), []
    # So large that many neurons are unstable, those at the edges included.
    region = tfcert.LpBall(1.2).bind(ops.convert_to_tensor(x))
    method = tfcert.methods.AlphaCrown(iterations=1, optimize_intermediate=True)
    for windowed in (True, False):
        if not windowed:
            net.spatial = dict.fromkeys(net.spatial, 0)
        bounds.append(soundness.intermediate(net, region, method))
    for with_windows, without in zip(*bounds, strict=True):
        slack = soundness.TOLERANCE[net.dtype] * soundness.magnitude(without)
        assert np.abs(with_windows - without).max() <= slack
