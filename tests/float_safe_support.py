"""Networks, their executions and their bounds for the tests of float_safe."""

import keras
import numpy as np
from keras import layers, ops

import tfcert
from tests import executions, soundness
from tfcert import methods

IBP = methods.IBP(float_safe=True)
CROWN = methods.Crown(float_safe=True)


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

    def recurrent():
        i = keras.Input((2, 3))
        x = layers.SimpleRNN(3, activation="relu", return_sequences=True)(i)
        x = layers.LSTM(2, "hard_tanh", recurrent_activation="hard_sigmoid")(x)
        return _finish(i, layers.Dense(3)(x))

    return [mlp, normalised, convolutional, residual, operators, recurrent]


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


def overflowing():
    first, second = dense(1e30 * np.eye(4)), dense(1e30 * np.eye(4))
    return keras.Sequential([keras.Input((4,)), first, second]), np.ones((1, 4), "float32")
