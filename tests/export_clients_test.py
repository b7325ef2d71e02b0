"""Exports in use: inputs from clients that may be anything, and clients without tfcert."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import support
from tfcert import LpBall

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from tests import export_support
from tests.export_support import OUTPUTS, REGION, check, inputs, load, make_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_support.exported(tmp_path_factory.mktemp("export"))


def test_what_is_no_input_is_never_certified(exported):
    _, _, signatures = exported
    x = inputs(8)
    bad = {0: np.nan, 1: np.inf, 2: -np.inf, 3: 1.0001, 4: -0.0001}
    for row, value in bad.items():
        x[row, 2, 3, 0] = value
    eps = tf.zeros((1,), "float64")
    for found in (
        signatures["serving_default"](x=tf.constant(x)),
        signatures["certify"](x=tf.constant(x), eps=eps),
    ):
        assert not found["certified"].numpy()[:5].any()
        assert np.isnan(found["margin"].numpy()[:5]).all()
        assert np.isfinite(found["margin"].numpy()[5:]).all()
    assert found["certified"].numpy()[5:].all()  # The others do not suffer: eps is 0.


def test_what_is_no_radius_is_never_certified(exported):
    _, _, signatures = exported
    x, bad = inputs(6), [np.nan, np.inf, -np.inf, -1e-9, -1.0]
    found = signatures["certify"](x=tf.constant(x), eps=tf.constant([*bad, 0.0], "float64"))
    assert found["certified"].numpy().tolist() == [False] * 5 + [True]
    assert np.isnan(found["margin"].numpy()[:5]).all()
    huge = signatures["certify"](x=tf.constant(x), eps=tf.constant([1e300], "float64"))
    assert not huge["certified"].numpy().any()


def test_the_limits_themselves_are_inputs(tmp_path):
    model = make_model()
    tfcert.export_certified(model, tmp_path / "1", LpBall(0.0, clip=(0.1, 0.3)), "ibp")
    x = np.full((2, 6, 6, 1), 0.1, "float32")  # Below 0.1 by a rounding, as 0.3 is above.
    x[1] = 0.3
    served = load(tmp_path / "1")["serving_default"]
    assert served(x=tf.constant(x))["certified"].numpy().all()
    assert not served(x=tf.constant(np.nextafter(x, -1)))["certified"].numpy()[0]


def test_bounds_that_are_no_numbers_are_no_certificate(tmp_path):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2, activation="relu"), layers.Dense(3)]
    )
    # The interval of the hidden layer becomes infinite, while the scores are finite.
    model.layers[0].set_weights([np.full((2, 2), 1e38), np.zeros(2)])
    model.layers[1].set_weights([np.array([[1, 0, -1], [1, 0, -1]]) * 1e-30, np.arange(3.0)])
    tfcert.export_certified(model, tmp_path / "1", LpBall(50.0), "ibp")
    found = load(tmp_path / "1")["serving_default"](x=tf.constant([[0.1, 0.1]]))
    assert np.isfinite(found["scores"].numpy()).all()
    assert np.isnan(found["margin"].numpy()).all() and not found["certified"].numpy().any()


def test_an_empty_batch(exported):
    _, _, signatures = exported
    found = signatures["serving_default"](x=tf.constant(inputs(0)))
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {"label": (0,), "scores": (0, 4), "margin": (0,), "certified": (0,)}


def test_a_wrong_number_of_radii_is_an_error(exported):
    _, _, signatures = exported
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["certify"](x=tf.constant(inputs(3)), eps=tf.zeros((2,), "float64"))


# Clients without tfcert.

_ALONE = """
import numpy as np
import tensorflow as tf

x = np.load(sys.argv[2])
found = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](x=tf.constant(x))
results = {name: value.numpy() for name, value in found.items()}

# The loader of C++, by signature and tensor names.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1])
    signature = meta.signature_def["certify"]
    names = {name: tensor.name for name, tensor in signature.outputs.items()}
    feed = {signature.inputs["x"].name: x, signature.inputs["eps"].name: [0.03]}
    for name, value in session.run(names, feed).items():
        results["session_" + name] = value
np.savez(sys.argv[3], **results)
"""


@pytest.mark.slow
def test_runs_where_only_tensorflow_is(exported, tmp_path):
    model, path, _ = exported
    x = inputs(6)
    np.save(tmp_path / "x.npy", x)
    support.run_alone(_ALONE, path, tmp_path / "x.npy", tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        for prefix in ("", "session_"):
            part = {name: tf.constant(found[prefix + name]) for name in OUTPUTS}
            check(part, model, x, REGION, "crown-ibp")


@pytest.mark.slow
def test_the_command_line_tool_of_tensorflow(exported, tmp_path):
    _, path, signatures = exported
    tool = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    np.save(tmp_path / "x.npy", inputs(2))
    common = ["--dir", str(path), "--tag_set", "serve", "--signature_def", "serving_default"]
    command = [tool, "run", *common, "--inputs", f"x={tmp_path}/x.npy", "--outdir", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = signatures["serving_default"](x=tf.constant(inputs(2)))
    for name in OUTPUTS:
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), found[name], rtol=1e-5)
