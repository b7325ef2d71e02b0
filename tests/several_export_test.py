"""Tests of exported certificates of models with several inputs."""

import json

import keras
import numpy as np
import pytest

import tfcert
from tests.several_training_test import BALL, REGION, SAMPLES, _model
from tests.several_training_test import X as INPUTS

tf = pytest.importorskip("tensorflow", reason="exports are SavedModels of TensorFlow")


def test_each_input_is_served_by_its_name(tmp_path):
    model = _model()
    y = np.asarray(model(INPUTS)).argmax(axis=1)
    path = tfcert.export_certified(model, tmp_path / "1", REGION, "crown-ibp")
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    types = {"kind": "int32", "level": "float64", "pixels": "float32"}
    request = {name: tf.constant(INPUTS[name].astype(kind)) for name, kind in types.items()}
    answer = {name: value.numpy() for name, value in serve(**request).items()}
    least = np.asarray(tfcert.least_margins(model, INPUTS, y, REGION, "crown-ibp"))
    np.testing.assert_allclose(answer["margin"], least, atol=1e-5)
    np.testing.assert_array_equal(answer["label"], y)
    np.testing.assert_allclose(answer["scores"], np.asarray(model(INPUTS)), atol=1e-5)
    assert answer["certified"].sum() > 0 and answer["certified"].shape == (SAMPLES,)
    # An input outside of its clip range has no certificate; the others keep theirs.
    pixels = np.where(np.arange(SAMPLES)[:, None] == 0, 2.0, INPUTS["pixels"]).astype("float32")
    request |= {"pixels": tf.constant(pixels), "eps_pixels": tf.constant([0.05], "float64")}
    other = loaded.signatures["certify"](**request)
    assert np.isnan(other["margin"].numpy()[0]) and not other["certified"].numpy()[0]
    np.testing.assert_allclose(other["margin"].numpy()[1:], answer["margin"][1:], atol=1e-6)
    facts = json.loads(loaded.signatures["facts"]()["facts"].numpy())
    assert facts["inputs"]["kind"] == {"shape": [1], "dtype": "int32"}
    assert set(facts["region"]["regions"]) == set(types)


def test_radii_of_inputs_are_served_by_their_names(tmp_path):
    parts = {name: keras.Input((2,), name=name) for name in ("near", "far", "box", "still")}
    model = keras.Model(parts, keras.layers.Dense(2)(keras.layers.Concatenate()([*parts.values()])))
    random = np.random.default_rng(0)
    x = {name: random.uniform(size=(3, 2)).astype("float32") for name in parts}
    # The order of the dictionary is not that of the model's inputs.
    regions = {
        "still": "fixed",
        "far": tfcert.LpBall(0.2),
        "box": tfcert.Box(0.0, 1.0),
        "near": tfcert.LpBall(0.1, clip=(0.0, 1.0)),
    }
    path = tfcert.export_certified(model, tmp_path / "1", regions, "ibp")
    certify = tf.saved_model.load(path).signatures["certify"]
    near, far = np.array([0.3, 0.0, np.nan]), 0.02
    given = {name: tf.constant(part) for name, part in x.items()}
    radii = {"eps_near": tf.constant(near, "float64"), "eps_far": tf.constant([far], "float64")}
    answer = certify(**given, **radii)
    for i in range(2):
        one = {name: part[i : i + 1] for name, part in x.items()}
        own = {**regions, "near": regions["near"].with_eps(near[i]), "far": tfcert.LpBall(far)}
        label = np.asarray(model(one)).argmax(axis=1)
        least = np.asarray(tfcert.least_margins(model, one, label, own, "ibp"))
        np.testing.assert_allclose(answer["margin"][i], least[0], atol=1e-5)
    assert np.isnan(answer["margin"][2]) and not answer["certified"][2]
    with pytest.raises(TypeError, match="eps_far"):
        certify(**given, eps_near=radii["eps_near"])


def test_lists_of_inputs_have_radii_by_the_names_of_the_inputs(tmp_path):
    parts = [keras.Input((1,), name="a"), keras.Input((1,), name="b")]
    model = keras.Model(parts, keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
    model.set_weights([np.array([[1.0], [10.0]]), np.zeros(1)])
    asked = tfcert.properties.OutputRange(upper=1.0)
    regions = ["fixed", tfcert.LpBall(0.5)]
    path = tfcert.export_certified(model, tmp_path / "1", regions, "ibp", property=asked)
    certify = tf.saved_model.load(path).signatures["certify"]
    x, sizes = tf.zeros((2, 1)), tf.constant([0.05, 0.2], "float64")
    answer = certify(a=x, b=x, eps_b=sizes)
    np.testing.assert_allclose(answer["margin"], [0.5, -1.0], atol=1e-5)
    assert answer["certified"].numpy().tolist() == [True, False]


def test_no_input_is_called_like_a_radius(tmp_path):
    parts = [keras.Input((1,), name="a"), keras.Input((1,), name="eps_a")]
    model = keras.Model(parts, keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))
    with pytest.raises(ValueError, match=r"none like a radius.*inputs named \['eps_a'\]"):
        tfcert.export_certified(model, tmp_path / "1", [BALL, "fixed"])


def test_names_of_inputs_are_names_of_arguments(tmp_path):
    parts = [keras.Input((2,), name="size (cm)"), keras.Input((2,), name="age")]
    model = keras.Model(parts, keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))
    with pytest.raises(ValueError, match=r"Received: inputs named \['size \(cm\)'\]"):
        tfcert.export_certified(model, tmp_path / "1", [BALL, "fixed"])
    assert not (tmp_path / "1").exists()


def test_a_region_for_each_input_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="`region` must be a dictionary"):
        tfcert.export_certified(_model(), tmp_path / "1", BALL)
    sizes = BALL.with_eps(np.full(3, 0.01))
    with pytest.raises(ValueError, match="must be the same for all inputs"):
        tfcert.export_certified(_model(), tmp_path / "1", {**REGION, "pixels": sizes})
