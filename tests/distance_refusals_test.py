"""Networks of distances: rounding, and what is refused instead of bounded."""

import math

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import float_safe_support, rule_cases, soundness, support
from tests.distance_support import distance_network, inputs_of
from tfcert import lipschitz, methods
from tfcert.layers import set_exponent


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


SAFE = [methods.IBP(float_safe=True), methods.Crown(float_safe=True)]


@pytest.mark.parametrize("seed", support.slow_except((1).__eq__, range(2)))
@pytest.mark.parametrize("hybrid", [False, True])
def test_executions_stay_inside_of_float_safe_bounds(seed, hybrid):
    soundness.needs_float64()
    model = distance_network(seed, hybrid=False, dtype="float32")
    if hybrid:
        head = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(3)])
        model = keras.Model(model.inputs[0], head(model.outputs[0]))
        rule_cases.randomise(head, seed)
    x = inputs_of(model, seed)
    chosen = SAFE if hybrid else [*SAFE, methods.Lipschitz(float_safe=True)]
    for eps in (0.0, 1e-6, 0.1):
        region = tfcert.LpBall(eps)
        float_safe_support.check_executions(model, x, region, count=6, seed=seed, chosen=chosen)


@pytest.mark.slow
def test_rounding_is_covered_and_not_by_chance():
    soundness.needs_float64()
    model = distance_network(2, dtype="float32")
    x = 1000.0 + inputs_of(model, 2)
    share = float_safe_support.check_executions(
        model, x, tfcert.LpBall(0.0), count=12, chosen=[methods.Lipschitz(float_safe=True)]
    )
    assert share > 0.1


def _calls(model):
    x = inputs_of(model, 0)
    region = tfcert.LpBall(0.1)
    y = np.zeros(len(x), "int32")
    return {
        "bound": lambda: tfcert.bound(model, x, region, "lipschitz"),
        "margins": lambda: tfcert.bound_margins(model, x, y, region, "lipschitz"),
        "factor": lambda: lipschitz.factor(model),
        "radius": lambda: lipschitz.radius(model, x),
        "float_safe": lambda: tfcert.bound(model, x, region, methods.IBP(float_safe=True)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("call", ["bound", "margins", "factor", "radius", "float_safe"])
def test_refused_at_a_finite_p_and_only_there(call):
    if call == "float_safe":
        soundness.needs_float64()
    model = distance_network(5, dtype="float32")
    name = next(layer.name for layer in model.layers if hasattr(layer, "p"))
    calls = _calls(model)
    calls[call]()
    set_exponent(model, 8.0)
    with pytest.raises(NotImplementedError, match=rf"Layer '{name}'.* p = inf .*Received: p=8"):
        calls[call]()
    set_exponent(model, math.inf)
    calls[call]()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["bound", "factor", "radius"])
def test_hybrids_have_no_margin_rule(call):
    model = distance_network(6, hybrid=True, dtype="float32")
    name = next(layer.name for layer in model.layers if isinstance(layer, layers.Dense))
    with pytest.raises(NotImplementedError, match=f"Layer '{name}': declares no l-inf Lipschitz"):
        _calls(model)[call]()


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.function")
def test_compiled_code_certifies_nothing_at_a_finite_p():
    import tensorflow as tf

    model = distance_network(7, dtype="float32")
    x = inputs_of(model, 7)
    with soundness.eagerly():
        expected = np.asarray(lipschitz.radius(model, x))
    tf.config.run_functions_eagerly(False)
    try:
        compiled = tf.function(lambda t: lipschitz.radius(model, t), autograph=False)
        np.testing.assert_allclose(compiled(x), expected, rtol=1e-5)
        assert expected.max() > 0
        set_exponent(model, 100.0)
        assert (np.asarray(compiled(x)) == 0).all()
    finally:
        tf.config.run_functions_eagerly(True)
