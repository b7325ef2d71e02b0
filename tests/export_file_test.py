"""Exported files: what they say, what is overwritten, and what is never written."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import support
from tfcert import LpBall, methods

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from tests import export_support
from tests.export_support import REGION, inputs, load, make_model, make_small
from tfcert import export, saved_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_support.exported(tmp_path_factory.mktemp("export"))


def test_facts(exported):
    model, path, signatures = exported
    facts = json.loads((path / "assets" / saved_model.FACTS).read_text())
    assert json.loads(signatures["facts"]()["facts"].numpy()) == facts
    assert facts["region"] == {"class": "LpBall", "eps": 0.03, "norm": "inf", "clip": [0.0, 1.0]}
    assert facts["method"]["class"] == "CrownIBP" and facts["method"]["float_safe"] is False
    assert facts["versions"]["tfcert"] == tfcert.__version__
    assert facts["rounding_tolerance"] == export.ROUNDING_TOLERANCE
    assert facts["weights_sha256"] == saved_model.common_facts(model)["weights_sha256"]
    assert facts["weights_sha256"] != saved_model.common_facts(make_model(4))["weights_sha256"]


def test_holds_no_part_that_needs_a_compiler(exported):
    _, path, _ = exported
    graph = saved_model_graph(path)
    flags = [f.attr["_XlaMustCompile"].b for f in graph.library.function]
    assert not any(flags)


def saved_model_graph(path):
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return message.meta_graphs[0].graph_def


def test_weights_that_change_later_do_not_change_the_file(tmp_path):
    model, x = make_small(), inputs(3, (5,))
    tfcert.export_certified(model, tmp_path / "1", REGION, "ibp")
    before = np.asarray(model(x))
    model.layers[-1].bias.assign_add([5.0, 0.0, 0.0, 0.0])
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    np.testing.assert_allclose(found["scores"].numpy(), before, rtol=1e-5, atol=1e-6)


def test_a_path_that_is_there_is_kept(tmp_path):
    model, path = make_small(), tmp_path / "1"
    tfcert.export_certified(model, path, REGION, "ibp")
    before = (path / "fingerprint.pb").read_bytes()
    with pytest.raises(ValueError, match="`path` already exists"):
        tfcert.export_certified(model, path, REGION, "ibp")
    assert (path / "fingerprint.pb").read_bytes() == before
    tfcert.export_certified(model, path, LpBall(0.5), "ibp", overwrite=True)
    facts = json.loads((path / "assets" / saved_model.FACTS).read_text())
    assert facts["region"]["eps"] == 0.5
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


def test_overwrites_only_what_is_an_export(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("cat")
    with pytest.raises(ValueError, match="`overwrite` replaces SavedModels only"):
        tfcert.export_certified(make_model(), tmp_path / "photos", REGION, overwrite=True)
    assert (tmp_path / "photos" / "cat.png").read_text() == "cat"


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    model, path = make_small(), tmp_path / "1"
    tfcert.export_certified(model, path, REGION, "ibp")
    before = (path / "fingerprint.pb").read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        tfcert.export_certified(model, path, REGION, "ibp", overwrite=True)
    assert (path / "fingerprint.pb").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


# What is refused.


class Unknown(layers.Layer):
    def call(self, x):
        return keras.ops.sort(x)


def _nan_model():
    model = make_model()
    model.layers[0].bias.assign([np.nan, 0, 0])
    return model


def _with(layer, classes=3):
    return keras.Sequential([keras.Input((4,)), layer, layers.Dense(classes)])


REFUSED = {
    "no model": (lambda: "model", {}, ValueError, "`model` must be a keras.Model"),
    "nan": (_nan_model, {}, ValueError, "NaN or infinite values in its weight '.*bias'"),
    "layer": (lambda: _with(Unknown(name="odd")), {}, NotImplementedError, "odd"),
    "map": (
        lambda: keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2))]),
        {},
        ValueError,
        "one output of shape",
    ),
    "finite p": (
        lambda: keras.Sequential([keras.Input((4,)), tfcert.layers.LInfDistance(3, p=8.0)]),
        {"method": "lipschitz"},
        NotImplementedError,
        "p",
    ),
    "no factor": (make_model, {"method": "lipschitz"}, NotImplementedError, "conv2d"),
    "region": (make_model, {"region": 0.1}, ValueError, "`region` must be a tfcert.LpBall"),
    "method": (make_model, {"method": "magic"}, ValueError, "`method` must be one of"),
    "per sample": (
        make_model,
        {"region": LpBall(0.1).with_eps(np.array([0.1, 0.2]))},
        ValueError,
        "`region` must be the same for all inputs",
    ),
    "batch of boxes": (
        make_model,
        {"region": tfcert.Box(np.zeros((2, 6, 6, 1)), np.ones((2, 6, 6, 1)))},
        ValueError,
        "`region` must be the same for all inputs",
    ),
    "shape": (make_model, {"region": LpBall([0.1, 0.2])}, ValueError, "`eps` must broadcast"),
    "float_safe": (
        lambda: _with(layers.Activation("tanh")),
        {"region": LpBall(0.1), "method": methods.IBP(float_safe=True)},
        NotImplementedError,
        "rounding",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name, tmp_path):
    make, changes, error, message = REFUSED[name]
    arguments = {"region": LpBall(0.1), "method": "ibp", **changes}
    with pytest.raises(error, match=message):
        tfcert.export_certified(make(), tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_trainer(tmp_path):
    trainer = tfcert.CertifiedTrainer(make_model(), tfcert.objectives.IBP(REGION))
    with pytest.raises(ValueError, match=r"pass trainer\.model"):
        tfcert.export_certified(trainer, tmp_path / "1", REGION)


def test_needs_tensorflow():
    code = (
        "import keras, tfcert\n"
        "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])\n"
        "smoothed = tfcert.smoothing.SmoothedClassifier(model, 0.5)\n"
        "for call in (\n"
        "    lambda: tfcert.export_certified(model, 'never', tfcert.LpBall(0.1)),\n"
        "    lambda: smoothed.export('never'),\n"
        "):\n"
        "    try:\n        call()\n"
        "    except NotImplementedError as error:\n        print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", support.BLOCK_TENSORFLOW + code],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    for name in ("export_certified", "SmoothedClassifier.export"):
        wanted = f"{name} writes a TensorFlow SavedModel, so it needs the TensorFlow backend"
        assert wanted in run.stdout, run.stderr
