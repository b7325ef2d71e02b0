"""Exports of certified classifiers: verdicts, any batch, any client, and what is refused."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import random_models, support
from tfcert import LpBall, methods

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from tfcert import export, saved_model

REGION = LpBall(0.03, clip=(0.0, 1.0))
OUTPUTS = {"label", "scores", "margin", "certified"}


def make_model(seed=3, classes=4):
    """A small convolutional network with all kinds of common layers."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(classes),
        ]
    )
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = generator.normal(size=variable.shape) * 0.4
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value)
    bias = model.layers[-1].bias  # All classes shall win somewhere.
    bias.assign(bias - np.mean(model(inputs(50), training=False), axis=0))
    return model


def make_small():
    """Two dense layers: quick to trace."""
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(7, activation="relu"), layers.Dense(4)]
    )
    generator = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(generator.normal(size=variable.shape))
    return model


def inputs(size=9, shape=(6, 6, 1)):
    return np.random.default_rng(5).random((size, *shape)).astype("float32")


def load(path):
    return tf.saved_model.load(str(path)).signatures


def library(model, x, label, region, method):
    """The library's margin about given labels."""
    margins = np.asarray(tfcert.bound_margins(model, x, label, region, method))
    return np.where(np.arange(margins.shape[1]) == label[:, None], np.inf, margins).min(axis=-1)


def check(found, model, x, region, method):
    """Compares with the library; returns the verdicts."""
    found = {name: value.numpy() for name, value in found.items()}
    scores = np.asarray(model(x, training=False))
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["label"], found["scores"].argmax(-1))
    wanted = library(model, x, found["label"], region, method)
    np.testing.assert_allclose(found["margin"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["certified"], found["margin"] > 0)
    size = np.maximum(1.0, np.abs(scores).max(-1))
    clear = np.abs(wanted) > export.ROUNDING_TOLERANCE * size
    np.testing.assert_array_equal(found["certified"][clear], (wanted > 0)[clear])
    return found["certified"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = make_model()
    path = tmp_path_factory.mktemp("export") / "models" / "1"
    assert tfcert.export_certified(model, path, REGION) == path
    return model, path, load(path)


# Verdicts.


@pytest.mark.parametrize("size", [1, 2, 31])
def test_verdicts_are_those_of_the_library(exported, size):
    model, _, signatures = exported
    x = inputs(size)
    found = signatures["serving_default"](x=tf.constant(x))
    assert set(found) == OUTPUTS
    certified = check(found, model, x, REGION, "crown-ibp")
    assert size < 9 or 0 < certified.sum() < size  # Both kinds, or the comparison says little.


@pytest.mark.parametrize("eps", [[0.0], [0.05], [0.01, 0.0, 0.03, 0.002, 0.1]])
def test_the_radius_is_an_input(exported, eps):
    model, _, signatures = exported
    x = inputs(5)
    found = signatures["certify"](x=tf.constant(x), eps=tf.constant(eps, "float64"))
    size = eps[0] if len(eps) == 1 else np.array(eps)
    certified = check(found, model, x, REGION.with_eps(size), "crown-ibp")
    assert eps != [0.0] or certified.all()


METHODS = {
    "ibp": methods.IBP(),
    "crown": methods.Crown(),
    "alpha": methods.AlphaCrown(iterations=2),
    "xla": methods.CrownIBP(jit_compile=True),
    "safe": methods.CrownIBP(float_safe=True),
    "pieces": methods.IBP(max_memory=1 << 20),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name, tmp_path, monkeypatch):
    model, method = make_small(), METHODS[name]
    if name == "pieces":  # Five samples at a time.
        monkeypatch.setattr(export.api, "samples_at_once", lambda *_: 5)
    tfcert.export_certified(model, tmp_path / "1", REGION, method)
    x = inputs(12, (5,))
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    assert found["margin"].dtype == ("float64" if name == "safe" else "float32")
    certified = check(found, model, x, REGION, dataclasses.replace(method, jit_compile=False))
    assert 0 < certified.sum() < 12


@pytest.mark.parametrize(
    "region",
    [
        LpBall(0.1, norm=2),
        LpBall([0.03, 0.0, 0.01, 0.02, 0.03], clip=(-0.5, [1.5] * 5)),
        tfcert.Box(np.zeros(5), np.ones(5)),
    ],
    ids=["l2", "array", "box"],
)
def test_regions(region, tmp_path):
    model, x = make_small(), inputs(7, (5,))
    tfcert.export_certified(model, tmp_path / "1", region, "ibp")
    signatures = load(tmp_path / "1")
    check(signatures["serving_default"](x=tf.constant(x)), model, x, region, "ibp")
    arguments = {"x": tf.constant(x)}
    if isinstance(region, LpBall):
        arguments["eps"], region = tf.constant([0.01], "float64"), region.with_eps(0.01)
    check(signatures["certify"](**arguments), model, x, region, "ibp")


def test_a_softmax_is_looked_behind(tmp_path):
    logits, x = make_small(), inputs(6, (5,))
    model = keras.Sequential([logits, layers.Softmax()])
    tfcert.export_certified(model, tmp_path / "1", REGION, "ibp")
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    np.testing.assert_allclose(found["scores"].numpy().sum(-1), 1.0, rtol=1e-5)
    wanted = library(logits, x, found["label"].numpy(), REGION, "ibp")
    np.testing.assert_allclose(found["margin"].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_single_probability(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.array([[2.0], [-1.0]]), np.array([0.0])])
    tfcert.export_certified(model, tmp_path / "1", LpBall(0.1), "ibp")
    x = [[0.0, 0.0], [1.0, 1.0], [-0.2, 0.0]]  # Logits 0, 1, -0.4; each moves by up to 0.3.
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    assert found["label"].numpy().tolist() == [0, 1, 0]
    np.testing.assert_allclose(found["margin"].numpy(), [-0.3, 0.7, 0.1], atol=1e-6)
    assert found["certified"].numpy().tolist() == [False, True, True]
    np.testing.assert_allclose(found["scores"].numpy()[1], 1 / (1 + np.exp(-1)), rtol=1e-6)


@pytest.mark.parametrize(("softmax", "bends"), [(False, False), (True, True)])
def test_the_margin_rule_gives_a_radius(softmax, bends, tmp_path):
    last = layers.ReLU(negative_slope=1.5) if bends else layers.Rescaling(-1.5)
    model = keras.Sequential([keras.Input((2, 2)), layers.Rescaling(2.0), layers.Flatten(), last])
    whole = keras.Sequential([model, layers.Softmax()]) if softmax else model
    tfcert.export_certified(whole, tmp_path / "1", REGION, "lipschitz")
    signatures, x = load(tmp_path / "1"), inputs(9, (2, 2))
    x[0, 0, 0] = np.nan
    found = {k: v.numpy() for k, v in signatures["serving_default"](x=tf.constant(x)).items()}
    assert set(found) == {*OUTPUTS, "radius"}
    assert found["radius"][0] == 0 and not found["certified"][0]
    label, radius = found["label"][1:], found["radius"][1:]
    np.testing.assert_allclose(radius, tfcert.lipschitz.radius(model, x[1:]), rtol=1e-5)
    wanted = library(model, x[1:], label, REGION, "lipschitz")
    np.testing.assert_allclose(found["margin"][1:], wanted, rtol=1e-4, atol=1e-5)
    assert (radius > 0).all() and 0 < found["certified"].sum() < 8
    # Just inside and just outside of the radius; a clip range makes some regions smaller.
    inner = signatures["certify"](x=tf.constant(x[1:]), eps=tf.constant(radius * 0.99, "float64"))
    assert inner["certified"].numpy().all()
    tfcert.export_certified(whole, tmp_path / "2", LpBall(0.1), "lipschitz")
    outer = load(tmp_path / "2")["certify"]
    found = outer(x=tf.constant(x[1:]), eps=tf.constant(radius * 1.01, "float64"))
    assert not found["certified"].numpy().any()


def test_distance_networks(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            tfcert.layers.LInfDistanceConv2D(3, 3),
            layers.Flatten(),
            tfcert.layers.MeanShift(),
            tfcert.layers.LInfDistance(4),
        ]
    )
    region, x = LpBall(0.002), inputs(9)
    tfcert.export_certified(model, tmp_path / "1", region, "lipschitz")
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    radius = found["radius"].numpy()
    check({k: v for k, v in found.items() if k != "radius"}, model, x, region, "lipschitz")
    np.testing.assert_allclose(radius, tfcert.lipschitz.radius(model, x), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found["certified"].numpy(), radius > 0.002)
    assert found["certified"].numpy().any()


@pytest.mark.parametrize("seed", [1, 5])
def test_random_models(seed, tmp_path):
    rng = np.random.default_rng(seed)
    model = random_models.random_model(rng, "float32")
    x = random_models.random_inputs(rng, model, 6)
    region = LpBall(0.02, clip=(-1.0, 1.0))
    tfcert.export_certified(model, tmp_path / "1", region, "ibp")
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    check(found, model, x, region, "ibp")


# Inputs from clients that may be anything.


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


def test_weights_that_change_later_do_not_change_the_file(tmp_path):
    model, x = make_small(), inputs(3, (5,))
    tfcert.export_certified(model, tmp_path / "1", REGION, "ibp")
    before = np.asarray(model(x))
    model.layers[-1].bias.assign_add([5.0, 0.0, 0.0, 0.0])
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    np.testing.assert_allclose(found["scores"].numpy(), before, rtol=1e-5, atol=1e-6)


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


def test_runs_where_only_tensorflow_is(exported, tmp_path):
    model, path, _ = exported
    x = inputs(6)
    np.save(tmp_path / "x.npy", x)
    support.run_alone(_ALONE, path, tmp_path / "x.npy", tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        for prefix in ("", "session_"):
            part = {name: tf.constant(found[prefix + name]) for name in OUTPUTS}
            check(part, model, x, REGION, "crown-ibp")


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


# The file.


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


def test_a_path_that_is_there_is_kept(tmp_path):
    model, path = make_small(), tmp_path / "1"
    tfcert.export_certified(model, path, REGION, "ibp")
    before = (path / "fingerprint.pb").read_bytes()
    with pytest.raises(ValueError, match="`path` is there already"):
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
        return x * 2


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


# Rounding.


def _broken(kernel, bias, x, label, eps):
    """Which certificates an input of the region breaks, in float64 or in some order in float32."""
    rows = np.arange(len(x))
    signs = np.sign(kernel[:, label] - kernel[:, 1 - label]).T  # Two classes.
    points = (x - eps[:, None] * signs).astype("float32")
    outside = np.abs(points.astype("float64") - x) > eps[:, None]
    points = np.where(outside, np.nextafter(points, x), points)
    assert (np.abs(points.astype("float64") - x) <= eps[:, None]).all()
    exact = points.astype("float64") @ kernel.astype("float64") + bias
    found = exact[rows, label] < exact[rows, 1 - label]
    rng = np.random.default_rng(0)
    for _ in range(30):
        order = rng.permutation(kernel.shape[0])
        products = points[:, order, None] * kernel[order]
        scores = np.cumsum(products, axis=1, dtype="float32")[:, -1] + bias
        found |= scores[rows, label] < scores[rows, 1 - label]
    return found


@pytest.mark.parametrize("safe", [False, True])
def test_certificates_at_the_boundary(safe, tmp_path):
    """The largest certified eps of each input, and the worst point of that region.

    Ordinary bounds are wrong there for some inputs, float-safe ones for none.
    """
    rng = np.random.default_rng(2)
    model = keras.Sequential([keras.Input((60,)), layers.Dense(2)])
    kernel = rng.normal(size=(60, 2)).astype("float32")
    bias = np.array([300.0, 300.0], "float32")  # Large beside the margins.
    model.set_weights([kernel, bias])
    method = methods.IBP(float_safe=safe)
    tfcert.export_certified(model, tmp_path / "1", LpBall(0.1), method)
    certify = load(tmp_path / "1")["certify"]
    x = rng.random((300, 60)).astype("float32")
    low, high = np.zeros(len(x)), np.ones(len(x))
    for _ in range(50):
        middle = (low + high) / 2
        found = certify(x=tf.constant(x), eps=tf.constant(middle))
        sure = found["certified"].numpy()
        low, high = np.where(sure, middle, low), np.where(sure, high, middle)
    found = certify(x=tf.constant(x), eps=tf.constant(low))
    kept = found["certified"].numpy()
    assert kept.mean() > 0.9
    broken = _broken(kernel, bias, x[kept], found["label"].numpy()[kept], low[kept])
    assert broken.any() != safe
