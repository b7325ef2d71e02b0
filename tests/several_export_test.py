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
    other = loaded.signatures["certify"](**{**request, "pixels": tf.constant(pixels)})
    assert np.isnan(other["margin"].numpy()[0]) and not other["certified"].numpy()[0]
    np.testing.assert_allclose(other["margin"].numpy()[1:], answer["margin"][1:], atol=1e-6)
    facts = json.loads(loaded.signatures["facts"]()["facts"].numpy())
    assert facts["inputs"]["kind"] == {"shape": [1], "dtype": "int32"}
    assert set(facts["region"]["regions"]) == set(types)


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
