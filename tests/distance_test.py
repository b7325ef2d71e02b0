"""Layers of distances: values and gradients against NumPy in float64, and Keras's rules."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from tfcert import backend
from tfcert.layers import LInfDistance, LInfDistanceConv2D, kernels

EXPONENTS = (1.0, 2.0, 3.7, 8.0, 20.2, 100.0, 531.3, 1000.0, math.inf)
SHAPES = ((5, 37, 11), (16, 32, 16), (1, 1, 3))


def random_case(batch, inputs, units, seed=0):
    random = np.random.default_rng(seed)
    shapes = (batch, inputs), (inputs, units), (batch, units)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def expected_values(x, w, p):
    sizes = np.abs(x.astype("float64")[:, :, None] - w.astype("float64")[None])
    largest = sizes.max(axis=1)
    if p == math.inf:
        return largest
    return largest * np.sum((sizes / largest[:, None]) ** p, axis=1) ** (1.0 / p)


def expected_gradients(x, w, g, p):
    """Of ``sum(g * distances)``."""
    x, w, g = (array.astype("float64") for array in (x, w, g))
    differences = x[:, :, None] - w[None]
    if p == math.inf:
        first = np.abs(differences).argmax(axis=1)[:, None]
        terms = np.zeros_like(differences)
        np.put_along_axis(terms, first, np.sign(np.take_along_axis(differences, first, 1)), 1)
    else:
        norm = expected_values(x, w, p)[:, None]
        terms = np.sign(differences) * (np.abs(differences) / norm) ** (p - 1.0)
    terms = terms * g[:, None]
    return terms.sum(axis=2), -terms.sum(axis=0)


def gradients(x, w, g, p):
    found = backend.vector_jacobian(
        lambda x, w: kernels.distances(x, w, p), [ops.convert_to_tensor(v) for v in (x, w)], g
    )
    return [ops.convert_to_numpy(v) for v in found]


def close(found, expected, tolerance):
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, p):
    x, w, g = random_case(*shape)
    close(ops.convert_to_numpy(kernels.distances(x, w, p)), expected_values(x, w, p), 1e-6)
    # A power's relative error is that of its base times p.
    tolerance = 1e-6 if p == math.inf else 1e-5 + 1e-6 * p
    for found, expected in zip(gradients(x, w, g, p), expected_gradients(x, w, g, p), strict=True):
        close(found, expected, tolerance)


@pytest.mark.parametrize("p", EXPONENTS)
def test_safe_at_zeros_ties_and_any_scale(p):
    w = np.array([[0.0, 1.0, -3.0], [0.0, 1.0, 3.0], [0.0, 1.0, -3.0]], "float32")
    for scale in (1.0, 1e-12, 1e12):
        x = np.array([[0, 0, 0], [1, 1, 1], [-3, 3, -3], [0.5, -0.5, 0.5]], "float32")
        found = ops.convert_to_numpy(kernels.distances(scale * x, scale * w, p))
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.nan_to_num(expected_values(scale * x, scale * w, p))
        close(found, expected, 1e-5)
        for found in gradients(scale * x, scale * w, np.ones((4, 3), "float32"), p):
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 4.0 + 1e-5
    # At x = w nothing pulls; at a tie the gradient is a convex combination.
    one = np.ones((1, 3), "float32")
    assert not np.any(gradients(one, one.T, np.ones((1, 1), "float32"), p)[0])
    tie = gradients(np.zeros((1, 3), "float32"), one.T, np.ones((1, 1), "float32"), p)[0]
    assert (tie <= 0).all()
    q = 1.0 if p == math.inf else p / (p - 1.0) if p > 1 else math.inf
    assert np.linalg.norm(tie[0], ord=q) == pytest.approx(1.0, rel=1e-4)


def test_layer_computes_distances_plus_bias():
    layer = LInfDistance(4, use_bias=True, bias_initializer="ones")
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    found = ops.convert_to_numpy(layer(x))
    assert tuple(layer.kernel.shape) == (5, 4)
    close(found, 1.0 + expected_values(x, ops.convert_to_numpy(layer.kernel), math.inf), 1e-6)
    layer.p.assign(9.5)
    found = ops.convert_to_numpy(layer(x))
    close(found, 1.0 + expected_values(x, ops.convert_to_numpy(layer.kernel), 9.5), 1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same"},
        {"strides": 2, "padding": "same"},
        {"strides": (1, 3), "dilation_rate": 1},
        {"dilation_rate": 2, "padding": "same"},
        {"groups": 2, "strides": 2},
    ],
)
def test_convolution_takes_the_patches_of_keras(options):
    """One unit at a time, distances from 0 at p = 1 are sums of absolute values: a convolution."""
    layer = LInfDistanceConv2D(4, (3, 2), p=1.0, kernel_initializer="zeros", **options)
    plain = keras.layers.Conv2D(4, (3, 2), kernel_initializer="ones", use_bias=False, **options)
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype("float32")
    found, expected = layer(x), plain(np.abs(x))
    assert tuple(found.shape) == tuple(expected.shape) == layer.compute_output_shape(x.shape)
    close(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), 1e-6)
    assert tuple(layer.kernel.shape) == tuple(plain.kernel.shape)
