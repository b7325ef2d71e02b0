"""Tests of models whose policy computes in float16 or bfloat16."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import soundness
from tfcert import properties

REGION = tfcert.LpBall(0.1)
X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")


def _model(policy):
    """The same weights for every policy."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((5,))
    hidden = layers.Dense(8, "relu", dtype=policy)(entry)
    hidden = layers.BatchNormalization(dtype=policy)(hidden)
    hidden = layers.Add(dtype=policy)([hidden, layers.Dense(8, "tanh", dtype=policy)(hidden)])
    return keras.Model(entry, layers.Dense(3, dtype=policy)(hidden))


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_bounds_are_those_of_the_same_weights_in_float32(policy):
    model, plain = _model(policy), _model("float32")
    for method in ("ibp", "crown"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = tfcert.bound(model, X, REGION, method)
        told = [str(one.message) for one in said if "do not cover rounding" in str(one.message)]
        assert len(told) == (method == "ibp"), "the warning comes once"
        wanted = tfcert.bound(plain, X, REGION, method)
        for ours, theirs in zip(found, wanted, strict=True):
            assert str(ours.dtype).endswith("float32") or ours.dtype == "float32"
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-6)
    # Other weights are seen: there is no copy.
    model.set_weights([2.0 * w for w in model.get_weights()])
    plain.set_weights([2.0 * w for w in plain.get_weights()])
    ours, theirs = (tfcert.bound(one, X, REGION, "ibp").lower for one in (model, plain))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*do not cover rounding")
def test_predictions_and_counterexamples_are_those_of_the_executed_model():
    model = _model("mixed_float16")
    y = np.asarray(model(X)).argmax(axis=1)
    result = tfcert.certify(model, X, y, tfcert.LpBall(0.6), "crown", self_check=0)
    np.testing.assert_array_equal(result.predict, y)
    assert (result.verdict == "falsified").any()
    for place, point in result.counterexamples.items():
        assert np.asarray(model(point[None]))[0].argmax() != y[place]
    outcome = tfcert.verify(model, properties.ClassStays(y), X, tfcert.LpBall(0.6), 30)
    assert outcome.verdict == "violated"
    assert outcome.found.outputs.dtype == np.float16
    exact = _model("float32")(outcome.counterexample[None].astype("float32"))
    np.testing.assert_allclose(outcome.found.exact, np.asarray(exact)[0], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*do not cover rounding")
def test_what_promises_more_refuses_them(tmp_path):
    model = _model("mixed_float16")
    with pytest.raises(NotImplementedError, match="float16, whose rounding float_safe does not"):
        tfcert.bound(model, X, REGION, tfcert.methods.IBP(float_safe=True))
    with pytest.raises(NotImplementedError, match="Rebuild the model in float32, copy its weights"):
        tfcert.export_certified(model, tmp_path / "1", REGION)
    with pytest.raises(ValueError, match=r"needs float32\. Rebuild .*of type float16"):
        tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(REGION))
    half = keras.Sequential([keras.Input((5,)), layers.Dense(3, dtype="float16")])
    with pytest.raises(ValueError, match="has the type float16"):
        tfcert.bound(half, X, REGION)
