"""float_safe: every term of the analysis is needed, and all of them are enough."""

from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tests.float_safe_support import check_executions, dense, overflowing
from tfcert.rules import linear, nonlinear, normalization, primitives, rounding


@pytest.fixture(scope="module", autouse=True)
def _float64():
    soundness.needs_float64()


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
