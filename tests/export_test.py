"""Exports of certified classifiers: their verdicts, and what rounding does to them."""

import dataclasses

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

from tests import export_support
from tests.export_support import (
    OUTPUTS,
    REGION,
    check,
    inputs,
    library,
    load,
    make_small,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_support.exported(tmp_path_factory.mktemp("export"))


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


@pytest.mark.parametrize(
    "name", support.slow_except(lambda name: name in ("ibp", "crown", "pieces"), METHODS)
)
def test_methods(name, tmp_path, monkeypatch):
    model, method = make_small(), METHODS[name]
    if name == "pieces":  # Five samples at a time.
        monkeypatch.setattr(methods.Method, "samples_at_once", lambda *_: 5)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_random_models(seed, tmp_path):
    rng = np.random.default_rng(seed)
    model = random_models.random_model(rng, "float32")
    x = random_models.random_inputs(rng, model, 6)
    region = LpBall(0.02, clip=(-1.0, 1.0))
    tfcert.export_certified(model, tmp_path / "1", region, "ibp")
    found = load(tmp_path / "1")["serving_default"](x=tf.constant(x))
    check(found, model, x, region, "ibp")


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
