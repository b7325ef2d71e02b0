"""LiteRT networks of integers: bounds hold for what TensorFlow's interpreter computes."""

import re

import keras
import numpy as np
import pytest

import tfcert
from tests import soundness, support
from tfcert.interchange import litert_files, litert_operators, litert_values
from tfcert.layers import Requantize

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow converts its own models alone", allow_module_level=True)

import tensorflow as tf

from tests import litert_support

EPS = litert_support.EPS


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("litert")


@pytest.fixture(scope="module")
def dense(folder):
    return litert_support.convert(litert_support.dense(), folder / "dense.tflite")


@pytest.fixture(scope="module")
def images(folder):
    return litert_support.convert(litert_support.images(), folder / "images.tflite")


@pytest.fixture(scope="module", params=list(litert_support.OTHERS))
def other(request, folder):
    model, ends = litert_support.OTHERS[request.param]()
    return litert_support.convert(model, folder / f"{request.param}.tflite", ends)


def test_dense_layers_compute_what_is_executed(dense):
    litert_support.check_outputs(dense)
    litert_support.check_bounds(dense, ("ibp", "crown-ibp", "crown", "alpha-crown"), places=1)


def test_images_compute_what_is_executed(images):
    litert_support.check_outputs(images)
    litert_support.check_bounds(images)


@pytest.mark.parametrize("kernels", litert_support.KERNELS)
def test_each_operator_stays_within_its_radius(images, kernels):
    litert_support.check_radii(images, kernels)


@pytest.mark.slow
def test_other_operators_compute_what_is_executed(other):
    # XNNPACK's factors of 8 bits in single operators carry on to all that follows.
    coarse = other.stem in ("leaky", "joined")
    litert_support.check_outputs(other, **({"equal": 0.3, "most": 3} if coarse else {}))
    for kernels in litert_support.KERNELS:
        litert_support.check_radii(other, kernels)
    litert_support.check_bounds(other, places=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("build", [litert_support.dense, litert_support.images])
def test_random_networks(folder, build, seed):
    path = litert_support.convert(build(seed), folder / f"{build.__name__}{seed}.tflite")
    litert_support.check_bounds(path, eps=0.05, places=3)


# Errors planted in the reading.


def test_a_missing_radius_is_found(dense, monkeypatch):
    litert_support.check_bounds(dense, ["crown"], eps=1e-4)
    clip = tfcert.relaxations.clip
    monkeypatch.setattr(tfcert.relaxations, "Staircase", lambda limits, *_: clip(*limits))
    with pytest.raises(AssertionError):
        litert_support.check_bounds(dense, ["crown"], eps=1e-4)


def test_half_a_step_is_not_enough(images, monkeypatch):
    # The reference kernels round sums twice, and cut means off.
    x = litert_support.inputs(litert_support.load(images), 200)
    off = {}
    for kind, _, found in litert_support.rounded(images, x, "reference"):
        off[kind] = max(found, off.get(kind, 0.0))
    assert off["DEPTHWISE_CONV_2D"] > 0.5 + litert_values.SLACK
    assert off["MEAN"] > 0.7
    monkeypatch.setattr(litert_operators, "rounding_radius", lambda factor: 0.5)
    with pytest.raises(AssertionError, match="CONV_2D"):
        litert_support.check_radii(images, "reference")


def test_a_missing_clip_is_found(dense, monkeypatch):
    limits = litert_values.Call.limits
    monkeypatch.setattr(
        litert_values.Call, "limits", lambda call: (limits(call)[0], 10 * limits(call)[1])
    )
    with pytest.raises(AssertionError):
        litert_support.check_outputs(dense)


def test_a_wrong_zero_point_is_found(dense, monkeypatch):
    grid = litert_files.Stored.grid

    def wrong(stored):
        found = grid(stored)
        return found and litert_files.Grid(found.scale, min(found.zero_point + 1, 127))

    monkeypatch.setattr(litert_files.Stored, "grid", wrong)
    with pytest.raises(AssertionError):
        litert_support.check_outputs(dense)


def test_scales_of_other_channels_are_found(dense, monkeypatch):
    kernel = litert_values.Call.kernel

    def wrong(call, axis):
        weights, scales = kernel(call, axis)
        return weights, scales[::-1]

    monkeypatch.setattr(litert_values.Call, "kernel", wrong)
    with pytest.raises(AssertionError):
        litert_support.check_outputs(dense)


# What else the model is good for.


@pytest.mark.slow
def test_certificates_hold_for_both_kernels(dense):
    model = litert_support.load(dense)
    x = litert_support.inputs(model, 20)
    y = litert_support.outputs(dense, x).argmax(axis=1)
    region = tfcert.LpBall(EPS)
    result = tfcert.certify(model, x, y, region, method=["ibp", "crown"], self_check=1.0)
    assert (result.verdict == "verified").sum() > 5
    points = np.asarray(region.sample(x, 100, 0)).reshape(-1, 6)
    for kernels in litert_support.KERNELS:
        classes = litert_support.outputs(dense, points, kernels).argmax(axis=1).reshape(20, 100)
        assert (classes == y[:, None])[result.verdict == "verified"].all()


@pytest.mark.parametrize("radius", [None, 1.0])
def test_bounds_hold_for_every_kernel_within_the_radius(images, monkeypatch, radius):
    model = litert_support.load(images, radius=radius)
    x, region = litert_support.inputs(model, 3), tfcert.LpBall(EPS)
    bounds = [tfcert.bound(model, x, region, method) for method in ("ibp", "crown")]
    points = np.asarray(region.sample(x, 100, 0)).reshape(-1, *x.shape[1:])
    random = np.random.default_rng(0)
    choose: list = [None]

    def rounded(layer, value):
        curve = tfcert.relaxations.Staircase(layer.limits, layer.radius)
        least, largest = map(np.asarray, curve.interval(value, value))
        return keras.ops.convert_to_tensor(choose[0](least, largest).astype("float32"))

    monkeypatch.setattr(Requantize, "rounded", rounded)
    found = []
    for choose[0] in (
        lambda least, largest: least,
        lambda least, largest: largest,
        lambda least, largest: np.where(random.random(least.shape) < 0.5, least, largest),
        lambda least, largest: least + np.round(random.random(least.shape) * (largest - least)),
    ):
        found.append(np.asarray(model(points)).reshape(3, 100, -1))
    found = np.concatenate(found, axis=1)
    for lower, upper in bounds:
        assert (found >= np.asarray(lower)[:, None] - 1e-5).all()
        assert (found <= np.asarray(upper)[:, None] + 1e-5).all()
    # The ways to round differ by several steps, so that the bounds are put to the test.
    assert np.ptp(found[:, ::100], axis=1).max() > 2 * litert_support.step(images)


def test_verify_and_float_safe(dense):
    model = litert_support.load(dense)
    x = litert_support.inputs(model, 8)
    y = litert_support.outputs(dense, x).argmax(axis=1)
    region = tfcert.LpBall(0.004)
    margins = np.asarray(tfcert.bound_margins(model, x, y, region)) + 1e9 * np.eye(3)[y]
    sure = int(margins.min(axis=1).argmax())
    asked = tfcert.properties.ClassStays(y[sure : sure + 1])
    assert tfcert.verify(model, asked, x[sure : sure + 1], region, time_limit=20).verdict == "holds"
    with pytest.raises(NotImplementedError, match="requantize.*float_safe"):
        tfcert.bound(model, x, region, tfcert.methods.Crown(float_safe=True))


@pytest.mark.slow
def test_exports(dense, tmp_path):
    model = litert_support.load(dense)
    x = litert_support.inputs(model, 20)
    region = tfcert.LpBall(0.01)
    tfcert.export_certified(model, str(tmp_path / "export"), region, method="crown-ibp")
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    found = served(x=tf.constant(x))
    y = litert_support.outputs(dense, x).argmax(axis=1)
    np.testing.assert_array_equal(found["label"], y)
    margins = np.asarray(tfcert.bound_margins(model, x, y, region, "crown-ibp"))
    margins = np.where(np.eye(3)[y], np.inf, margins)
    assert 0 < found["certified"].numpy().sum() < 20
    np.testing.assert_allclose(found["margin"], margins.min(axis=1), atol=1e-5)


def test_double_precision_and_a_radius_of_ones_own(dense, tmp_path):
    x = litert_support.inputs(litert_support.load(dense), 5)
    region = tfcert.LpBall(EPS)
    single, double, wide = (
        tfcert.bound(litert_support.load(dense, **options), x, region)
        for options in ({}, {"dtype": "float64"}, {"radius": 1.0})
    )
    assert np.asarray(double.lower).dtype == np.float64
    np.testing.assert_allclose(single.lower, double.lower, atol=1.01 * litert_support.step(dense))
    widths = [np.mean(np.asarray(b.upper) - np.asarray(b.lower)) for b in (single, wide)]
    assert widths[0] < widths[1]
    model = litert_support.load(dense)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(x), again(x))


def test_the_scale_of_a_bias_means_nothing(dense, tmp_path):
    # Kernels add the integers of a bias to sums, whatever scale the file gives them.
    def change(model):
        for tensor in model.subgraphs[0].tensors:
            if tensor.type == schema().TensorType.INT32:
                tensor.quantization.scale = [1.001 * s for s in tensor.quantization.scale]

    path = rewritten(dense, tmp_path, change)
    x = litert_support.inputs(litert_support.load(dense), 20)
    np.testing.assert_array_equal(litert_support.outputs(path, x), litert_support.outputs(dense, x))
    np.testing.assert_array_equal(litert_support.load(path)(x), litert_support.load(dense)(x))


def schema():
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def rewritten(path, folder, change):
    """A copy of a file with changed tables."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    change(model)
    copy = folder / "changed.tflite"
    copy.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return copy


def test_the_page_lists_the_operators():
    text = (support.ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")
    listed = text[text.index("## Networks of integers") : text.index("- **Refused.**")]
    names = set(re.findall(r"`([A-Z0-9_]+)`", listed))
    assert names == {*litert_operators.OPERATORS, *litert_operators.FOLDED}


# Errors.


def test_says_which_operator_is_not_supported(dense, tmp_path):
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(dense))
    for code in model.operatorCodes:
        if code.builtinCode == schema().BuiltinOperator.FULLY_CONNECTED:
            code.builtinCode = schema().BuiltinOperator.HARD_SWISH
    path = tmp_path / "other.tflite"
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    with pytest.raises(NotImplementedError, match=r"other.tflite: HARD_SWISH \(operator 1\)"):
        litert_support.load(path)


def _floats(model):
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema().TensorType.INT8 and tensor.shape[0] == 1:
            tensor.type = schema().TensorType.FLOAT32


def _two_inputs(model):
    graph = model.subgraphs[0]
    graph.inputs = [graph.inputs[0], graph.inputs[0]]


def _without_order(model):
    model.subgraphs[0].operators = model.subgraphs[0].operators[::-1]


def _fused_tanh(model):
    model.subgraphs[0].operators[1].builtinOptions.fusedActivationFunction = 4


def _large_bias(model):
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema().TensorType.INT32:
            bias = np.full(tensor.shape, 2**31 - 1, "<i4")
            model.buffers[tensor.buffer].data = bias.view("uint8")


def _shifted_weights(model):
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema().TensorType.INT8 and tensor.shape[0] > 1:
            tensor.quantization.zeroPoint = [1 for _ in tensor.quantization.zeroPoint]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_floats, NotImplementedError, "QUANTIZE.*must be quantised"),
        (_two_inputs, NotImplementedError, "one input. Received: 2 inputs"),
        (_without_order, ValueError, "needs tensor .* nothing has computed"),
        (_fused_tanh, NotImplementedError, "fused activation TANH"),
        (_large_bias, NotImplementedError, "sums may reach 214.* overflow in int32"),
        (_shifted_weights, NotImplementedError, r"zero points \[1\]. Only int8"),
    ],
)
def test_says_what_is_wrong_with_a_file(dense, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        litert_support.load(rewritten(dense, tmp_path, change))


def test_refuses_what_is_no_network(dense, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match="must be a LiteRT network"):
        litert_support.load(path)
    content = dense.read_bytes()
    for seed in range(20):
        random = np.random.default_rng(seed)
        broken = bytearray(content)
        for place in random.integers(8, len(content), 30):
            broken[place] = random.integers(256)
        path.write_bytes(bytes(broken))
        try:
            litert_support.load(path)
        except (ValueError, NotImplementedError) as problem:
            assert "broken.tflite" in str(problem)


def test_refuses_bad_arguments(dense):
    with pytest.raises(ValueError, match="dtype.*Received: dtype=\"?'float16"):
        litert_support.load(dense, dtype="float16")
    with pytest.raises(ValueError, match="radius.*Received: radius=0.3"):
        litert_support.load(dense, radius=0.3)
    for bad in ({"multiplier": 0.0}, {"limits": (1.5, 3)}, {"limits": (3, 1)}, {"radius": 0.4}):
        with pytest.raises(ValueError, match="Received: "):
            Requantize(**bad)
