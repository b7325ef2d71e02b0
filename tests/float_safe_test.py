"""float_safe bounds hold for what float32 hardware makes of a network, however it adds up."""

import os
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import executions, rule_cases, soundness
from tfcert import backend, methods, relaxations
from tfcert.network import Network, network_of
from tfcert.rules import linear, nonlinear, normalization, primitives, rounding

U = 2.0**-24
IBP = methods.IBP(float_safe=True)
CROWN = methods.Crown(float_safe=True)


@pytest.fixture(scope="module", autouse=True)
def _float64():
    try:
        backend.check_float64("float_safe")
    except ValueError as reason:
        pytest.skip(str(reason))


def dense(kernel, bias=None, **options):
    """A Dense layer with given weights."""
    kernel = np.asarray(kernel, "float32")
    layer = layers.Dense(kernel.shape[1], use_bias=bias is not None, **options)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] if bias is None else [kernel, np.asarray(bias, "float32")])
    return layer


def ends(model, x, region, method):
    """Bounds as arrays."""
    with soundness.eagerly():
        bounds = tfcert.bound(model, x, region, method)
    return soundness.flat(bounds.lower)[0], soundness.flat(bounds.upper)[0]


def margins_of(model, x, y, region, method):
    """Margin bounds as an array."""
    with soundness.eagerly():
        return np.asarray(tfcert.bound_margins(model, x, np.array(y), region, method))


def points_of(region, x, count=4):
    """Inputs of a region in float64, ``(batch * points, *shape)``: x, corners, and any others."""
    x = np.asarray(x, "float64")
    drawn = [np.asarray(x)[:, None]]
    for corners in (False, True):
        drawn.append(soundness.flat(region.sample(x, count, 0, corners=corners))[0])
    points = np.concatenate(drawn, axis=1)
    return points.reshape(-1, *x.shape[1:]), points.shape[1]


def check_executions(model, x, region, *, count=12, seed=0, chosen=(IBP, CROWN)):
    """Raises where an execution leaves the bounds; returns the largest share of them it uses."""
    points, each = points_of(region, x)
    bounds = [ends(model, x, region, method) for method in chosen]
    runs = executions.executions(count, seed)
    values = [run.run(model, points) for run in runs]
    values.append(np.asarray(ops.convert_to_numpy(model(points.astype("float32"))), "float64"))
    runs.append("Keras")
    share = 0.0
    for low, high in bounds:
        for run, value in zip(runs, values, strict=True):
            value = value.reshape(-1, each, *value.shape[1:])
            inside = (low[:, None] <= value) & (value <= high[:, None])
            # Where values overflow, nothing may be claimed.
            open_ended = (low[:, None] == -np.inf) & (high[:, None] == np.inf)
            assert (inside | open_ended).all(), f"{run} leaves the bounds"
            with np.errstate(invalid="ignore", divide="ignore"):
                middle, radius = (low + high) / 2, (high - low) / 2
                away = np.abs(value - middle[:, None]) / radius[:, None]
            share = max(share, np.nanmax(np.where(np.isfinite(away), away, 0.0)))
    return share


def in_double(model):
    """The same network in float64."""

    def converted(config):
        if isinstance(config, dict):
            return {key: converted(value) for key, value in config.items()}
        if isinstance(config, list | tuple):
            return type(config)(converted(value) for value in config)
        return "float64" if config == "float32" else config

    double = type(model).from_config(converted(model.get_config()))
    double.set_weights(model.get_weights())
    return double


# Networks.


def _finish(inputs, x):
    return keras.Model(inputs, x)


def small_networks():
    """Builders of networks with all layers that float_safe covers."""

    def mlp():
        i = keras.Input((7,))
        x = layers.Dense(9, activation="relu")(i)
        x = layers.Dense(8)(x)
        x = layers.LeakyReLU(0.3)(x)
        return _finish(i, layers.Dense(4)(x))

    def normalised():
        i = keras.Input((5,))
        mean, variance = np.float32([1, -20, 300, 0.1, 7]), np.float32([1e-3, 2, 30, 4, 50])
        x = layers.Normalization(mean=mean, variance=variance)(i)
        x = layers.Dense(6)(x)
        x = layers.BatchNormalization()(x)
        x = layers.PReLU()(x)
        x = layers.Normalization(mean=mean.mean(), variance=variance.mean(), invert=True)(x)
        return _finish(i, layers.Dense(3)(x))

    def convolutional():
        i = keras.Input((6, 6, 2))
        x = layers.Rescaling(1 / 127.5, -1.0)(i)
        x = layers.Conv2D(3, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(6.0)(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Conv2D(4, 2, activation="relu")(x)
        return _finish(i, layers.Dense(3)(layers.Flatten()(x)))

    def residual():
        i = keras.Input((4, 4, 2))
        x = layers.Conv2D(4, 3, padding="same", groups=2)(i)
        y = layers.DepthwiseConv2D(3, padding="same")(layers.ReLU()(x))
        y = layers.BatchNormalization(scale=False)(y)
        x = layers.Add()([x, y, layers.Conv2D(4, 1)(i)])
        x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2DTranspose(3, 2, strides=2)(x)
        x = ops.clip(x, -0.3, 0.7)
        x = layers.Average()([x, layers.UpSampling2D(4)(layers.AveragePooling2D(4)(x))])
        x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Flatten()(x)])
        return _finish(i, layers.Dense(3)(x))

    def operators():
        i = keras.Input((6,))
        x = layers.EinsumDense("ab,bcd->acd", (2, 3), bias_axes="d")(i)
        x = layers.Flatten()(x) / 3.0
        y = layers.Dense(6, activation="hard_sigmoid")(0.1 * x - 0.3)
        x = layers.Multiply()([x, y])
        x = layers.Maximum()([x, layers.Subtract()([y, x])])
        x = layers.Minimum()([abs(x), y])
        return _finish(i, layers.Dense(3)(x))

    return [mlp, normalised, convolutional, residual, operators]


def draw_weights(model, rng, scale=1.0):
    """Weights of a usual size, times ``scale``."""
    for variable in model.weights:
        value = rng.normal(size=variable.shape) / np.sqrt(max(np.prod(variable.shape[:-1]), 1))
        if "variance" in variable.path:
            value = rng.uniform(0.01, 3.0, size=variable.shape)
        elif scale < 1 or "bias" not in variable.path:
            value = value * scale
        variable.assign(value.astype("float32"))


def draw(builder, seed, scale=1.0, size=1.0):
    rng = np.random.default_rng(seed)
    model = builder()
    draw_weights(model, rng, scale)
    x = (size * rng.normal(size=(2, *model.input_shape[1:]))).astype("float32")
    return model, x


NETWORKS = {builder.__name__: builder for builder in small_networks()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [0.0, 0.03])
def test_every_execution_lies_within_the_bounds(name, eps):
    for seed in range(2):
        model, x = draw(NETWORKS[name], seed)
        check_executions(model, x, tfcert.LpBall(eps), seed=seed)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e6, 1e20])
def test_at_tiny_and_huge_scales(name, scale):
    model, x = draw(NETWORKS[name], 3, scale)
    check_executions(model, x, tfcert.LpBall(0.01), seed=1, count=6)
    x = np.float32(x / max(scale, 1e-30))
    check_executions(model, x, tfcert.LpBall(0.01 / scale), seed=2, count=6)


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_of_other_norms(norm):
    model, x = draw(NETWORKS["convolutional"], 5)
    region = tfcert.LpBall(0.5, norm=norm, clip=(-5.0, 5.0))
    check_executions(model, x, region, chosen=(IBP, CROWN, methods.CrownIBP(float_safe=True)))


def test_alpha_crown():
    model, x = draw(NETWORKS["convolutional"], 6)
    method = methods.AlphaCrown(iterations=2, optimize_intermediate=True, float_safe=True)
    check_executions(model, x, tfcert.LpBall(0.05), chosen=(method,))


# One sharp case per term of the analysis: executions that need it.


def cancelling_normalisation():
    """``x s + (beta - mean s)`` where the bracket is next to nothing, and its rounding is not."""
    layer = layers.BatchNormalization(epsilon=0.1)
    model = keras.Sequential([keras.Input((8,)), layer])
    rng = np.random.default_rng(0)
    mean, variance = rng.uniform(1e5, 2e5, 8), rng.uniform(1, 2, 8)
    scale = 1.0 / np.sqrt(np.float32(variance) + np.float64(np.float32(0.1)))
    layer.set_weights([np.ones(8), mean * scale, mean, variance])
    return model, rng.normal(size=(3, 8)).astype("float32")


def plain_normalisation():
    """Nothing but the scale, whose rsqrt is worth several roundings."""
    layer = layers.BatchNormalization(center=False)
    model = keras.Sequential([keras.Input((8,)), layer])
    variance = np.random.default_rng(0).uniform(1, 2, 8)
    layer.set_weights([np.ones(8), np.zeros(8), variance])
    return model, np.ones((1, 8), "float32")


def cancelling_input_normalisation():
    layer = layers.Normalization(mean=np.full(4, 1e6 / 3), variance=np.full(4, 0.3))
    return keras.Sequential([keras.Input((4,)), layer]), 0.0 * _ones(4)


def large_bias():
    return keras.Sequential([keras.Input((2,)), dense(np.eye(2), [1e6, -1e6])]), _ones(2)


def long_sum():
    """All roundings of a sum fall on a term that comes first."""
    return keras.Sequential([keras.Input((300,)), dense(np.ones((300, 2)))]), _first(300)


def long_transposed_sum():
    layer = layers.Conv1DTranspose(1, 1, use_bias=False)
    model = keras.Sequential([keras.Input((2, 300)), layer])
    layer.set_weights([np.ones((1, 1, 300))])
    return model, np.stack([_first(300), _first(300)], axis=1)


def many_inputs():
    i = keras.Input((4,))
    return keras.Model(i, layers.Add()([i] * 40)), _ones(4)


def pooled():
    i = keras.Input((8, 8, 1))
    return keras.Model(i, layers.AveragePooling2D(8)(i)), np.ones((1, 8, 8, 1), "float32")


def leaky():
    return keras.Sequential([keras.Input((4,)), layers.LeakyReLU(0.3)]), -_ones(4)


def clipped():
    i = keras.Input((4,))
    return keras.Model(i, ops.clip(i, -0.1, 0.1)), 5.0 * _ones(4)


def hard_sigmoid():
    i = keras.Input((4,))
    return keras.Model(i, layers.Activation("hard_sigmoid")(i)), 0.7 * _ones(4)


def product():
    i = keras.Input((4,))
    return keras.Model(i, layers.Multiply()([i, layers.ReLU()(i)])), 0.7 * _ones(4)


def rescaled():
    i = keras.Input((4,))
    return keras.Model(i, layers.Rescaling(0.1, 0.1)(i)), 0.7 * _ones(4)


def constants():
    i = keras.Input((4,))
    return keras.Model(i, ops.maximum(i, np.array([0.1, 0.3, 0.7, 0.9]))), 0.0 * _ones(4)


def flushed_result():
    first, second = dense(np.full((100, 4), 1e-30)), dense(1e36 * np.eye(4))
    return keras.Sequential([keras.Input((100,)), first, second]), np.float32(1e-8) * _ones(100)


def flushed_weight():
    first, second = dense(1e-39 * np.eye(4)), dense(1e20 * np.eye(4))
    return keras.Sequential([keras.Input((4,)), first, second]), 1e20 * _ones(4)


def overflowing():
    first, second = dense(1e30 * np.eye(4)), dense(1e30 * np.eye(4))
    return keras.Sequential([keras.Input((4,)), first, second]), _ones(4)


def _ones(size):
    return np.ones((1, size), "float32")


def _first(size):
    return np.eye(1, size, dtype="float32")


def _without(error):
    return lambda self, p, unit, *magnitudes: error


_GAMMA = rounding.gamma

# What the analysis is without one of its terms, and the network that finds it out. Modules import
# the parts by name, so that they are replaced where they are used.
DROPPED = {
    "no parts of a normalisation": (
        cancelling_normalisation,
        mock.patch.object(normalization.BatchNorm, "rounding", linear.Scale.rounding),
    ),
    "no rsqrt": (
        plain_normalisation,
        mock.patch.object(normalization, "rounding_error", lambda s, n, u: 3 * u * s),
    ),
    "no mean": (
        cancelling_input_normalisation,
        mock.patch.object(normalization, "rounding_error", lambda s, n, u: 0.0 * s),
    ),
    "no bias": (
        large_bias,
        mock.patch.object(
            linear.Kernel,
            "rounding",
            lambda self, p, unit, x: _GAMMA(8, unit) * self.linear(x, p["magnitude"]),
        ),
    ),
    "half the terms": (
        long_sum,
        mock.patch.object(linear, "rounding_error", lambda s, n, u: _GAMMA(n // 2, u) * s),
    ),
    "taps alone": (
        long_transposed_sum,
        mock.patch.object(linear, "rounding_error", lambda s, n, u: _GAMMA(5, u) * s),
    ),
    "no error of sums": (
        many_inputs,
        mock.patch.object(linear.Sum, "rounding", _without(None)),
    ),
    "no error of averages": (
        pooled,
        mock.patch.object(linear.Rearrange, "rounding", _without(None)),
    ),
    "no rounded slope": (
        leaky,
        mock.patch.object(nonlinear.Elementwise, "rounding", _without(None)),
    ),
    "no rounded limits": (
        clipped,
        mock.patch.object(nonlinear.Elementwise, "rounding", _without(None)),
    ),
    "no steps of a piecewise function": (
        hard_sigmoid,
        mock.patch.object(nonlinear.Elementwise, "rounding", _without(None)),
    ),
    "no error of products": (
        product,
        mock.patch.object(nonlinear.Product, "rounding", _without(None)),
    ),
    "no error of factors": (
        rescaled,
        mock.patch.object(linear.Scale, "rounding", _without(None)),
    ),
    "no rounded constants": (
        constants,
        mock.patch.object(primitives.Constant, "rounding", _without(None)),
    ),
    "no flushed results": (
        flushed_result,
        mock.patch.object(linear, "rounding_error", lambda s, n, u: _GAMMA(n, u) * s),
    ),
    "no flushed weights": (
        flushed_weight,
        mock.patch.object(linear, "flushed", lambda n, u: 0),
    ),
    "no overflow": (
        overflowing,
        mock.patch.object(linear, "rounding_error", lambda s, n, u: _GAMMA(n, u) * s),
    ),
}


@pytest.mark.parametrize("dropped", DROPPED)
def test_every_term_is_needed_and_enough(dropped):
    build, patch = DROPPED[dropped]
    model, x = build()
    region = tfcert.LpBall(0.0)
    check_executions(model, x, region, count=24)
    with patch, pytest.raises(AssertionError, match="leaves the bounds"):
        check_executions(model, x, region, count=24)


# The network computes its scores one by one.


def test_scores_are_computed_separately():
    rng = np.random.default_rng(0)
    other = rng.normal(size=64)
    kernel = np.stack([other + 1e-6 * rng.normal(size=64), other], axis=1).astype("float32")
    model = keras.Sequential([keras.Input((64,)), dense(kernel)])
    x = rng.normal(size=(1, 64)).astype("float32")
    exact = np.longdouble(x[0]) @ np.longdouble(kernel)
    margin = float(exact[0] - exact[1])
    # What rounding would do to a network that computed the difference itself.
    folded = rounding.gamma(68, U) * float(np.abs(x[0]) @ np.abs(kernel[:, 0] - kernel[:, 1]))
    reached = []
    for run in executions.executions(60):
        scores = run.run(model, x)[0]
        reached.append(scores[0] - scores[1])
    assert margin - min(reached) > 10 * folded
    for method in (IBP, CROWN):
        lower = margins_of(model, x, [0], tfcert.LpBall(0.0), method)[0, 1]
        assert margin - 0.1 < lower <= min(reached)


# The bounds themselves are computed in float64.


def _nodes_of_cases():
    for name, case in rule_cases.CASES.items():
        for place in case.places[:1]:
            yield name, case, place


def test_nothing_is_cast_down_to_float32():
    layer = dense(np.eye(2))
    assert keras.backend.standardize_dtype(layer(np.ones((1, 2), "float64")).dtype) == "float32"
    rng, checked = np.random.default_rng(0), set()
    for name, case, place in _nodes_of_cases():
        network = Network(rule_cases.build(case, place, "float32", 0))
        for node in network.nodes:
            primitive = node.primitive
            if not node.inputs or isinstance(primitive, linear.Declared | nonlinear.Opaque):
                continue
            p = primitive.parameters("float64")
            values = [rng.uniform(0.1, 0.9, size=(2, *source.shape)) for source in node.inputs]
            rounded = [np.float64(np.float32(value)) for value in values]
            results = []
            for given in (values, rounded):
                tensors = [ops.convert_to_tensor(v, dtype="float64") for v in given]
                try:
                    results.append(primitive.apply(p, *tensors))
                except Exception as error:  # What the backend has no kernel for.
                    assert "float64" not in str(error), name
                    break
            else:
                assert keras.backend.standardize_dtype(results[0].dtype) == "float64", (name, node)
                first, second = (ops.convert_to_numpy(t) for t in results)
                if isinstance(primitive, primitives.Affine) and first.size:
                    assert (first != second).any(), f"{name}: {node} casts down"
                checked.add(type(primitive).__name__)
    assert {"_LayerMatrix", "_LayerKernel", "Scale", "Sum", "Rearrange", "BatchNorm"} <= checked


def test_bounds_are_centred_on_exact_values():
    model, x = draw(NETWORKS["mlp"], 7)
    values = np.longdouble(x)
    for layer in model.layers[1:]:
        if isinstance(layer, layers.Dense):
            kernel, bias = (np.longdouble(w) for w in layer.get_weights())
            values = values @ kernel + bias
            if layer.activation is keras.activations.relu:
                values = np.maximum(values, 0)
        else:
            slope = np.longdouble(np.float32(layer.negative_slope))
            values = np.where(values < 0, slope * values, values)
    network = network_of(model)
    region = tfcert.LpBall(0.0)
    low, high = ends(model, x, region, CROWN)
    size = np.abs(values).max()
    rounded = np.abs(np.asarray(model(x)) - values).max() / size
    centred = np.abs((low + high) / 2 - values).max() / size
    assert network.dtype == "float32" and rounded > 2.0**-27
    # No value lies so close to a kink that its error reaches over it: all is symmetric.
    assert centred < 2.0**-45


# Settings and layers that are refused.


def _small_call(method=IBP, **options):
    model = keras.Sequential([keras.Input((2,)), dense(np.eye(2), [0, 0])])
    return tfcert.bound(model, np.ones((1, 2)), tfcert.LpBall(0.1), method, **options)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="settings of TensorFlow")
def test_reduced_precision_of_tensorflow_is_refused():
    import tensorflow as tf

    with mock.patch.object(tf.config, "get_visible_devices", return_value=["GPU:0"]):
        _small_call()  # TF32 is off in the tests.
        tf.config.experimental.enable_tensor_float_32_execution(True)
        try:
            with pytest.raises(ValueError, match="TF32 enabled on a GPU"):
                _small_call()
            _small_call(methods.IBP())
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
    try:
        with pytest.raises(ValueError, match="auto_mixed_precision"):
            _small_call()
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False})


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="settings of JAX")
def test_reduced_precision_of_jax_is_refused():
    import jax

    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        with jax.default_matmul_precision("highest"):
            _small_call()
        with (
            jax.default_matmul_precision("default"),
            pytest.raises(ValueError, match="jax_default_matmul_precision"),
        ):
            _small_call()


def test_reduced_precision_of_onednn_is_refused():
    with (
        mock.patch.dict(os.environ, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}),
        pytest.raises(ValueError, match="ONEDNN_DEFAULT_FPMATH_MODE=BF16"),
    ):
        _small_call()
    with mock.patch.dict(os.environ, {"ONEDNN_DEFAULT_FPMATH_MODE": "strict"}):
        _small_call()


def test_training_statistics_and_other_types_are_refused():
    with pytest.raises(ValueError, match="float_safe covers models at inference"):
        _small_call(statistics="batch")
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(2, dtype="float64")])
    with pytest.raises(ValueError, match="float_safe covers execution in float32"):
        tfcert.bound(model, np.ones((1, 2)), tfcert.LpBall(0.1), IBP)


class _Doubled(layers.Layer):
    def call(self, x):
        return 3.0 * x - x


class _Thirds(layers.Layer):
    def call(self, x):
        return x / 3.0


def _positive(x):
    return (x + ops.abs(x)) / 2.0


tfcert.register_affine(_Doubled, radius=lambda layer, r: 2.0 * r)
tfcert.register_rule(_Thirds, lambda layer, x: tfcert.rules.scale(x, 1 / 3))
tfcert.register_activation(_positive, relaxations.CURVES["relu"])

_REFUSED = {
    "softmax": lambda name: layers.Softmax(name=name),
    "sigmoid": lambda name: layers.Activation("sigmoid", name=name),
    "dense tanh": lambda name: layers.Dense(2, activation="tanh", name=name),
    "layer normalization": lambda name: layers.LayerNormalization(name=name),
    "registered affine": lambda name: _Doubled(name=name),
    "registered rule": lambda name: _Thirds(name=name),
    "registered activation": lambda name: layers.Activation(_positive, name=name),
    "square": lambda name: layers.Activation(keras.activations.silu, name=name),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_what_has_no_analysis_is_refused_by_name(kind):
    model = keras.Sequential([keras.Input((2,)), _REFUSED[kind]("culprit"), layers.Dense(2)])
    x = np.ones((1, 2), "float32")
    tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    for method in (IBP, CROWN):
        with pytest.raises(NotImplementedError, match="'culprit'.*float_safe"):
            tfcert.bound(model, x, tfcert.LpBall(0.1), method)


def test_lora_is_refused_by_name():
    layer = layers.Dense(3, name="adapted")
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.enable_lora(2)
    with pytest.raises(NotImplementedError, match="'adapted'.*LoRA"):
        tfcert.bound(model, np.ones((1, 4)), tfcert.LpBall(0.1), IBP)


# What it is all for.


def wrong_in_float32():
    """``x`` survives in real arithmetic, and drowns in a bias on the way: class 0 against 0.5."""
    first = dense([[1.0, 0.0]], [2.0**25, 0.5], activation="relu")
    last = dense(np.eye(2), [-(2.0**25), 0.0])
    model = keras.Sequential([keras.Input((1,)), first, last])
    return model, np.array([[1.25]], "float32")


@pytest.mark.parametrize("method", [methods.CrownIBP, methods.Crown, methods.AlphaCrown])
def test_refuses_what_is_wrong_in_float32(method):
    model, x = wrong_in_float32()
    region = tfcert.LpBall(0.25)
    # Right for the real numbers: x >= 1 and 1 - 0.5 > 0.
    assert margins_of(model, x, [0], region, method())[0, 1] > 0.4
    for allowed in (1.0, 1.25, 1.5):
        scores = np.asarray(model(np.array([[allowed]], "float32")))
        assert region.contains(np.array([[allowed]]), x).all()
        assert scores[0, 0] - scores[0, 1] <= 0.0  # But not for what runs.
    assert margins_of(model, x, [0], region, method(float_safe=True))[0, 1] <= -0.5


def test_refuses_what_is_wrong_in_another_order():
    """A sum that comes out right in one order of summation and wrong in another."""
    kernel = [[2.0**24, 0.0], [1.0, 0.0], [-(2.0**24), 0.0]]
    model = keras.Sequential([keras.Input((3,)), dense(kernel, [0.0, 0.5])])
    x = np.ones((1, 3), "float32")
    region = tfcert.Box(np.array([1.0, 0.9, 1.0]), np.array([1.0, 1.1, 1.0]))
    reached = []
    for order in ("forward", "largest"):
        scores = executions.Execution(order=order).run(model, x)[0]
        reached.append(scores[0] - scores[1])
    assert reached == [-0.5, 0.5]
    # Right for the real numbers; in float32, ordinary bounds would go wrong just like the model.
    assert margins_of(in_double(model), x, [0], region, "crown")[0, 1] > 0.3
    assert margins_of(model, x, [0], region, CROWN)[0, 1] <= -0.5


def test_overflow_takes_only_its_own_sample():
    model = overflowing()[0]
    x = np.array([[1e-40] * 4, [1.0] * 4], "float32")
    scores = np.asarray(model(x))
    assert np.isinf(scores[1]).all()
    low, high = ends(model, x, tfcert.LpBall(0.0), CROWN)
    assert (low[1] == -np.inf).all() and (high[1] == np.inf).all()
    assert np.isfinite(low[0]).all() and (low[0] <= scores[0]).all()
    margins = margins_of(model, x, [0, 0], tfcert.LpBall(0.0), CROWN)
    assert (margins[1, 1:] == -np.inf).all()


def test_inputs_between_floats_are_covered():
    # Nearer to 1 + 2^-23 than to 1, which are neighbours in float32.
    model = keras.Sequential([keras.Input((1,)), dense([[1.0]])])
    x = np.array([[1.0 + 2.0**-24 + 2.0**-40]])
    low, high = ends(model, x, tfcert.LpBall(0.0), IBP)
    seen = float(model(x)[0, 0])
    assert seen == 1.0 + 2.0**-23 and low[0, 0] <= seen <= high[0, 0]


_RADII = {"mlp": 0.02, "normalised": 0.2, "convolutional": 5.0, "residual": 0.1}


@pytest.mark.parametrize("name", _RADII)
def test_contains_the_ordinary_bounds_and_is_hardly_looser(name):
    model, x = draw(NETWORKS[name], 8)
    region = tfcert.LpBall(_RADII[name])
    for safe, plain in ((IBP, "ibp"), (CROWN, "crown")):
        low, high = ends(model, x, region, safe)
        inner_low, inner_high = ends(in_double(model), x, region, plain)
        assert (low <= inner_low).all() and (inner_high <= high).all()
        wider = (high - low) / (inner_high - inner_low)
        assert wider.max() < 1.002


# Keras itself, at sizes at which its kernels block, vectorise and fuse.


@pytest.mark.parametrize("jit_compile", [False, True])
def test_keras_own_executions(jit_compile):
    rng = np.random.default_rng(9)
    i = keras.Input((12, 12, 8))
    x = layers.Conv2D(24, 5, strides=2)(i)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.SeparableConv2D(16, 3, padding="same")(x)
    x = layers.UpSampling2D((2, 4), interpolation="bilinear")(x)
    x = layers.AveragePooling2D(3, padding="same")(x)
    x = layers.Flatten()(x)
    model = keras.Model(i, layers.Dense(10)(x))
    draw_weights(model, rng)
    inputs = (100.0 * rng.normal(size=(3, 12, 12, 8))).astype("float32")
    low, high = ends(model, inputs, tfcert.LpBall(0.0), IBP)
    model.compile(jit_compile=jit_compile)
    for batch in (1, 3):
        scores = model.predict(inputs, batch_size=batch, verbose=0)
        assert ((low <= scores) & (scores <= high)).all()


def test_bilinear_upsampling_by_powers_of_two():
    def model_of(factor):
        layer = layers.UpSampling2D(factor, interpolation="bilinear", name="enlarged")
        return keras.Sequential([keras.Input((20, 3, 1)), layer])

    rng = np.random.default_rng(0)
    x = (10.0 ** rng.uniform(-3, 3, size=(4, 20, 3, 1))).astype("float32")
    low, high = ends(model_of((8, 2)), x, tfcert.LpBall(0.0), IBP)
    values = np.asarray(model_of((8, 2))(x))
    assert ((low <= values) & (values <= high)).all()
    # 1/3 is rounded, and where a pixel lies exactly on another, XLA mistakes its neighbour.
    with pytest.raises(NotImplementedError, match="'enlarged'.*powers of two"):
        ends(model_of(3), x, tfcert.LpBall(0.0), IBP)
