"""Dense layers in int8: bounds hold for the integers that are executed."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import soundness
from tfcert import graph
from tfcert.rules import quantized
from tfcert.rules.interval import Interval

EPS = 0.05


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def models(seed=0, activation="relu", units=(16, 12), scale=1.0):
    """A model, and its copy in int8."""
    random = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(count, activation=activation) for count in units],
            layers.Dense(3),
        ]
    )
    for variable in model.weights:
        variable.assign(scale * random.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.quantize("int8")
    return model, copy


def inputs(count=5, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 6)).astype("float32")


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_outputs_of_the_executed_model_lie_within_bounds(activation, method):
    for seed in range(2):
        _, model = models(seed, activation, units=(8, 6))
        x, region = inputs(seed=seed), tfcert.LpBall(EPS)
        lower, upper = (np.asarray(end) for end in tfcert.bound(model, x, region, method))
        points = np.concatenate(
            [region.sample(x, 200, seed), region.sample(x, 200, seed, corners=True)], axis=1
        )
        outputs = np.asarray(model(points.reshape(-1, 6))).reshape(5, 400, 3)
        assert (outputs >= lower[:, None] - 1e-6).all()
        assert (outputs <= upper[:, None] + 1e-6).all()


@pytest.mark.parametrize("seed", range(4))
def test_attacked_points_lie_within_bounds(seed):
    _, model = models(seed)
    x, region = inputs(seed=seed), tfcert.LpBall(EPS)
    lower, upper = (np.asarray(end) for end in tfcert.bound(model, x, region, "crown"))
    for place in range(3):
        for sign, end in ((1.0, lower), (-1.0, -upper)):
            rows = sign * np.eye(3)[[place]]
            asked = tfcert.properties.Linear(rows, 100.0)
            found = tfcert.attacks.PGD(region, steps=20, loss="margin")(model, x, asked)
            assert (sign * np.asarray(model(found))[:, place] >= end[:, place] - 1e-6).all()


def test_the_radius_of_rounding_is_needed_and_small():
    plain, model = models(units=(64, 64))
    x = inputs(200)
    outputs = np.asarray(model(x))
    lower, upper = (np.asarray(end) for end in tfcert.bound(model, x, tfcert.LpBall(0.0), "crown"))
    assert (lower <= outputs).all() and (outputs <= upper).all()
    # The integers give other outputs than the matrices that they stand for.
    kernels = [
        np.asarray(keras.ops.cast(whole, "float32")) / np.asarray(scale)
        for whole, scale in map(graph.int8_parts, model.layers)
    ]
    value = x
    for kernel, layer in zip(kernels, model.layers, strict=True):
        value = np.asarray(layer.activation(value @ kernel + np.asarray(layer.bias)))
    assert np.abs(value - outputs).max() > 1e-3
    wide = tfcert.bound(plain, x, tfcert.LpBall(0.1), "crown")
    own = tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    share = np.mean(own.upper - own.lower) / np.mean(wide.upper - wide.lower)
    assert 1.0 < share < 1.5


def test_a_row_is_rounded_as_the_layer_rounds_it():
    random = np.random.default_rng(3)
    x = random.normal(size=(50, 9)).astype("float32") * random.uniform(0, 2, (50, 1)) ** 4
    x[0], x[1, 1:] = 0.0, 0.0
    x = x.astype("float32")
    primitive = quantized.RowQuantized(127, 1e-7)
    rounded, scale = keras.quantizers.AbsMaxQuantizer()(keras.ops.convert_to_tensor(x), axis=-1)
    expected = np.asarray(keras.ops.cast(rounded, "float32")) / np.asarray(scale)
    found = np.asarray(primitive.apply(None, keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    tensor = keras.ops.convert_to_tensor(x)
    reach = np.asarray(primitive._reach(Interval.from_ends(tensor, tensor)))
    assert (np.abs(expected - x) <= reach + 1e-12).all()
    assert (np.abs(expected - x).max(axis=1)[2:] > 0.4 * reach.max(axis=1)[2:]).mean() > 0.9


def test_certificates_of_integers():
    _, model = models(scale=2.0)
    x = inputs(20)
    y = np.asarray(model(x)).argmax(axis=1)
    region = tfcert.LpBall(0.02)
    result = tfcert.certify(model, x, y, region, method=["ibp", "crown"], self_check=1.0)
    assert result.verdict.tolist().count("verified") > 5
    points = np.asarray(region.sample(x, 300, 0))
    classes = np.asarray(model(points.reshape(-1, 6))).reshape(20, 300, 3).argmax(axis=-1)
    assert (classes == y[:, None])[result.verdict == "verified"].all()


def test_weights_alone_are_exact():
    model, _ = models()
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=config)
    assert all(graph.input_quantizer(layer) is None for layer in model.layers)
    x = inputs()
    lower, upper = tfcert.bound(model, x, tfcert.LpBall(0.0), "crown")
    np.testing.assert_allclose(np.asarray(lower), np.asarray(model(x)), atol=1e-5)
    np.testing.assert_allclose(np.asarray(upper), np.asarray(model(x)), atol=1e-5)


# One reduced axis; two at once; one before others; one axis that input, kernel and output share.
EINSUMS = {
    "abc,cd->abd": (3, 5),
    "abc,bcd->ad": (5,),
    "abc,bde->acde": (4, 2, 3),
    "abc,bcd->abd": (3, 5),
}


def einsum(equation, seed=0, **options):
    keras.utils.set_random_seed(seed)
    layer = layers.EinsumDense(equation, EINSUMS[equation], **options)
    model = keras.Sequential([keras.Input((3, 4)), layer, layers.Flatten(), layers.Dense(2)])
    # Kernels of one row each that differ in size, so that a scale at the wrong axis is seen.
    kernel = layer.get_weights()[0]
    sizes = [
        np.linspace(0.3, 2.0, size).reshape(-1, *[1] * i)
        for i, size in enumerate(kernel.shape[::-1])
    ]
    layer.set_weights(
        [kernel * np.prod(np.broadcast_arrays(*sizes), axis=0), *layer.get_weights()[1:]]
    )
    model.quantize("int8")
    return model


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("equation", EINSUMS)
def test_einsums_of_integers(equation, method):
    model = einsum(equation, activation="relu", bias_axes=equation[-1])
    x = np.random.default_rng(0).uniform(-1, 1, (4, 3, 4)).astype("float32")
    x *= np.array([0.1, 1.0, 3.0]).reshape(3, 1).astype("float32")  # Rows of different steps.
    for eps in (0.0, EPS):
        region = tfcert.LpBall(eps)
        lower, upper = (np.asarray(end) for end in tfcert.bound(model, x, region, method))
        points = np.asarray(region.sample(x, 200, 0, corners=True))
        outputs = np.asarray(model(points.reshape(-1, 3, 4))).reshape(4, 200, 2)
        assert (outputs >= lower[:, None] - 1e-5).all()
        assert (outputs <= upper[:, None] + 1e-5).all()


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsums_are_rounded_by_the_rows_that_they_sum(equation):
    model = einsum(equation)
    layer, x = model.layers[0], np.random.default_rng(0).normal(size=(6, 3, 4)).astype("float32")
    x *= np.random.default_rng(1).uniform(0, 2, size=(6, 3, 4)).astype("float32") ** 3
    assert layer.quantization_mode == "int8"
    primitive = quantized.RowQuantized(127, 1e-7, graph.rounded_axes(layer))
    whole, scale = graph.int8_parts(layer)
    kernel = np.asarray(keras.ops.cast(whole, "float32")) / np.asarray(scale)
    rounded = primitive.apply(None, keras.ops.convert_to_tensor(x))
    found = np.asarray(keras.ops.einsum(equation, rounded, kernel))
    np.testing.assert_allclose(found, np.asarray(layer(x)), atol=1e-4)
    tensor = keras.ops.convert_to_tensor(x)
    reach = np.asarray(primitive._reach(Interval.from_ends(tensor, tensor)))
    assert (np.abs(np.asarray(rounded) - x) <= reach + 1e-12).all()
    # The step is that of the row: half as much is too little.
    assert (np.abs(np.asarray(rounded) - x) > 0.5 * reach).any()


def test_attention_of_integers():
    keras.utils.set_random_seed(0)
    x = keras.Input((3, 4))
    y = layers.MultiHeadAttention(num_heads=2, key_dim=3)(x, x)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)))
    model.quantize("int8")
    modes = {part.quantization_mode for part in model.layers[1]._flatten_layers() if part.weights}
    assert "int8" in modes
    points, region = inputs_of_text(), tfcert.LpBall(0.02)
    for method in ("ibp", "crown"):
        lower, upper = (np.asarray(end) for end in tfcert.bound(model, points, region, method))
        drawn = np.asarray(region.sample(points, 100, 0, corners=True))
        outputs = np.asarray(model(drawn.reshape(-1, 3, 4))).reshape(3, 100, 2)
        assert (outputs >= lower[:, None] - 1e-5).all()
        assert (outputs <= upper[:, None] + 1e-5).all()


def inputs_of_text():
    return np.random.default_rng(2).normal(size=(3, 3, 4)).astype("float32")


def test_says_what_is_not_covered():
    model, _ = models()
    model.quantize("float8")
    with pytest.raises(NotImplementedError, match="float8.*int8"):
        tfcert.bound(model, inputs(), tfcert.LpBall(EPS))
    model = einsum("abc,cd->abd")
    with pytest.raises(NotImplementedError, match="float_safe"):
        tfcert.bound(
            *(model, inputs_of_text(), tfcert.LpBall(EPS), tfcert.methods.Crown(float_safe=True))
        )
    _, model = models()
    with pytest.raises(NotImplementedError, match="float_safe"):
        tfcert.bound(model, inputs(), tfcert.LpBall(EPS), tfcert.methods.Crown(float_safe=True))
