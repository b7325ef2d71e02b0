"""What must hold of the rule behind a case, as checks that raise an AssertionError."""

from __future__ import annotations

import unittest
from typing import Any

import keras
import numpy as np
from keras import ops

import tfcert
from tests import rule_cases, soundness
from tfcert import network
from tfcert.bounds import propagation
from tfcert.rules import primitives

__all__ = [
    "check_bounds",
    "check_exact_inside",
    "check_transposes",
    "check_windows",
    "model_and_inputs",
]


def model_and_inputs(name: str, place: str, seed: int = 0) -> tuple[keras.Model, np.ndarray]:
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
    raise unittest.SkipTest(f"Keras cannot run this model here: {reason}")


def check_bounds(name: str, place: str, methods: Any = None, region: Any = None) -> None:
    """Outputs lie within bounds; those of an affine rule alone are reached."""
    model, x = model_and_inputs(name, place)
    case, methods = rule_cases.CASES[name], methods or ("ibp", "crown")
    alone = place == rule_cases.ALONE
    exact = case.affine and alone and region is None
    # The inputs again, each in a region that holds nothing else: no call of their own for those.
    with_points = alone and region is None and "crown" in methods
    if with_points:
        sizes = np.repeat([case.radius, 0.0], len(x))
        x, region = np.concatenate([x, x]), tfcert.LpBall(case.radius).with_eps(sizes)
    region = region or tfcert.LpBall(case.radius if alone else 0.4)
    # The attack finds the extreme points of an affine function in one step.
    reached = soundness.Reached(model, x, region, attacks=1000 if exact else 4)
    for method in methods:
        bounds = tfcert.bound(model, x, region, method)
        reached.check(bounds, f"{method}")
        if exact and method == "crown":
            reached.check_attained(bounds, f"{method}")
        if with_points and method == "crown":
            reached.check_points(bounds, sizes == 0, name)
    if alone and not with_points:
        soundness.check_point(model, x, "crown", name)


def check_exact_inside(name: str) -> None:
    """CROWN bounds the input of a ReLU behind an affine rule as tightly as an output."""
    model, x = model_and_inputs(name, rule_cases.ALONE)
    with rule_cases.dtype_of_new_layers(str(x.dtype)):
        outputs = [keras.layers.ReLU()(t) for t in model.outputs]
        behind = keras.Model(model.inputs, outputs)
        before = keras.Model(model.inputs, model.outputs)
    for region in (tfcert.LpBall(0.5), tfcert.LpBall(0.8, norm=2)):
        exact = soundness.flat(tfcert.bound(before, x, region, "crown"))
        found = soundness.flat(tfcert.bound(behind, x, region, "crown"))
        for value, end in zip(found, exact, strict=True):
            slack = soundness.TOLERANCE[str(x.dtype)] * soundness.magnitude(end)
            away = np.abs(value - np.maximum(end, 0.0)).max()
            assert away <= slack, f"a bound before a ReLU is {away:.3g} from the exact one"


def check_transposes(name: str) -> None:
    """``<a, f(x)> = <f^T a, x> + <a, f(0)>`` for every affine step of the network of a case."""
    model, _ = model_and_inputs(name, rule_cases.CASES[name].places[-1])
    net, rng = network.network_of(model), np.random.default_rng(0)
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
        left = _inner(rows, forward)
        right = sum(_inner(a, x) for a, x in zip(pulled, values, strict=True))
        slack = 10 * soundness.TOLERANCE[net.dtype] * soundness.magnitude(left)
        assert np.abs(left - right).max() <= slack, f"{node} is not pulled back by its transpose"


def _inner(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sum(first * second, axis=tuple(range(1, first.ndim)))


def check_windows(name: str) -> None:
    """Rows that are windows of a feature map give the bounds of rows that cover all of it."""
    model, x = model_and_inputs(name, rule_cases.MAP, seed=3)
    net, ends = network.network_of(model), []
    # So large that many neurons are unstable, those at the edges included.
    region = tfcert.LpBall(1.2)
    bound_region = region.bind(ops.convert_to_tensor(x))
    method = tfcert.methods.AlphaCrown(iterations=1, optimize_intermediate=True)
    for windowed in (True, False):
        if not windowed:
            net.spatial = dict.fromkeys(net.spatial, 0)
        evaluation = propagation.evaluate(net, region, bound_region, method)
        intervals = (evaluation.intervals[node].bounds for node in net.nodes)
        ends.append([end for bounds in intervals for end in soundness.flat(bounds)])
    for with_windows, without in zip(*ends, strict=True):
        slack = soundness.TOLERANCE[net.dtype] * soundness.magnitude(without)
        away = np.abs(with_windows - without).max()
        assert away <= slack, f"windows change a bound by {away:.3g}"
