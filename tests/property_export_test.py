"""Exports that answer with a property's verdict, or with the interval of the outputs."""

import json

import keras
import numpy as np
import pytest

import tfcert
from tests import support
from tests import training_support as ts
from tfcert.properties import ClassStays, Linear, Near, OutputRange, Targeted

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf

REGION = tfcert.LpBall(0.05, clip=(0.0, 1.0))
X = np.random.default_rng(0).uniform(size=(7, 5)).astype("float32")
ROWS, OFFSETS = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.25]], [0.1, 0.7, 0.7]
ASKED = {
    "range": OutputRange([-0.75, -np.inf], [np.inf, 0.8]),
    "linear": Linear(ROWS, OFFSETS),
    "interval": "interval",
}
NAMES = {"outputs", "lower", "upper", "margin", "certified"}


def model_of():
    return ts.mlp(seed=3, classes=2)


def served(path):
    return tf.saved_model.load(str(path)).signatures


def check(found, model, asked, region, method):
    """Compares with the library."""
    found = {name: np.asarray(value) for name, value in found.items()}
    np.testing.assert_allclose(found["outputs"], np.array(model(X)), rtol=1e-5, atol=1e-6)
    lower, upper = (np.asarray(end) for end in tfcert.bound(model, X, region, method))
    np.testing.assert_allclose(found["lower"], lower, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["upper"], upper, rtol=1e-5, atol=1e-5)
    if asked == "interval":
        assert set(found) == NAMES - {"margin", "certified"}
        return
    assert set(found) == NAMES
    margins = np.asarray(tfcert.bound_margins(model, X, asked, region, method)).min(axis=1)
    np.testing.assert_allclose(found["margin"], margins, rtol=1e-4, atol=1e-5)
    assert (found["certified"] == (found["margin"] > 0)).all()


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", ASKED)
def test_answers_as_the_library_does(name, method, tmp_path):
    model = model_of()
    path = tfcert.export_certified(model, tmp_path / "1", REGION, method, property=ASKED[name])
    signatures = served(path)
    found = signatures["serving_default"](x=tf.constant(X))
    check(found, model, ASKED[name], REGION, method)
    if name != "interval":
        assert 0 < found["certified"].numpy().sum() < len(X)
    eps = 0.01
    sized = signatures["certify"](x=tf.constant(X), eps=tf.constant([eps], "float64"))
    check(sized, model, ASKED[name], REGION.with_eps(eps), method)
    facts = json.loads((path / "assets" / "certificate.json").read_text(encoding="utf-8"))
    assert facts["outputs"] == 2 and "classes" not in facts
    if name == "interval":
        assert facts["property"] == "interval"
    else:
        again = keras.saving.deserialize_keras_object(facts["property"])
        assert repr(again) == repr(ASKED[name])


def test_no_point_of_the_region_leaves_the_interval(tmp_path):
    model = model_of()
    tfcert.export_certified(model, tmp_path / "1", REGION, property=ASKED["linear"])
    found = served(tmp_path / "1")["serving_default"](x=tf.constant(X))
    points = np.asarray(REGION.sample(X, 200, 3))
    outputs = np.array(model(points.reshape(-1, 5))).reshape(7, 200, 2)
    assert (outputs >= found["lower"].numpy()[:, None] - 1e-6).all()
    assert (outputs <= found["upper"].numpy()[:, None] + 1e-6).all()
    values = (outputs @ np.array(ROWS).T + OFFSETS).min(axis=(1, 2))
    assert (values >= found["margin"].numpy() - 1e-6).all()
    assert (values[found["certified"].numpy()] > 0).all()


def test_a_regression_behind_a_sigmoid_and_what_is_no_input(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation="sigmoid")])
    tfcert.export_certified(model, tmp_path / "1", REGION, property=OutputRange(0.0, 1.5))
    x = X.copy()
    x[0, 2], x[1, 0] = np.nan, 2.0
    found = served(tmp_path / "1")["serving_default"](x=tf.constant(x))
    assert found["certified"].numpy().tolist() == [False, False] + [True] * 5
    assert (
        np.isnan(found["lower"].numpy()[:2]).all() and np.isnan(found["margin"].numpy()[:2]).all()
    )
    np.testing.assert_allclose(found["outputs"].numpy()[2:], np.array(model(x[2:])), rtol=1e-5)


def test_float_safe_answers(tmp_path):
    model, method = model_of(), tfcert.methods.Crown(float_safe=True)
    asked = ASKED["linear"]
    tfcert.export_certified(model, tmp_path / "1", REGION, method, property=asked)
    found = served(tmp_path / "1")["serving_default"](x=tf.constant(X))
    check(found, model, asked, REGION, method)


_ALONE = """
import numpy as np, sys, tensorflow as tf
x = np.load(sys.argv[2])
found = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](x=tf.constant(x))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


@pytest.mark.slow
def test_runs_where_only_tensorflow_is(tmp_path):
    model = model_of()
    tfcert.export_certified(model, tmp_path / "1", REGION, "crown", property=ASKED["range"])
    np.save(tmp_path / "x.npy", X)
    support.run_alone(_ALONE, tmp_path / "1", tmp_path / "x.npy", tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        check(dict(found), model, ASKED["range"], REGION, "crown")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("range", '"interval", or None'),
        (ClassStays(1), "must not name classes"),
        (Targeted(1, 0), "must not name classes"),
        (Near(0.5), "have no targets"),
        (Near(0.5, [[1.0, 1.0], [2.0, 2.0]]), "`y` must hold one entry"),
        (Linear([[1.0]]), "`rows` must have one column"),
    ],
)
def test_says_what_is_wrong(asked, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tfcert.export_certified(model_of(), tmp_path / "1", REGION, property=asked)
