"""Distances of boxes: their ends, the gradients of these, and the memory they take."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from tests import soundness
from tfcert import backend
from tfcert.layers import interval_kernels, point_kernels

EXPONENTS = [math.inf, 1.0, 2.0, 3.5, 1000.0]


def _boxes(seed=0, batch=3, inputs=21, units=4, dtype="float64"):
    """Boxes, some of them points, and weights, some of them at ends of the boxes."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(batch, inputs)), rng.normal(size=(inputs, units))
    radius = rng.uniform(0.0, 1.0, size=x.shape) * rng.integers(0, 2, size=x.shape)
    w[::3, 0], w[1::3, 1] = x[0, ::3], x[1, 1::3] + radius[1, 1::3]
    return (x - radius).astype(dtype), (x + radius).astype(dtype), w.astype(dtype)


def _expected(lower, upper, w, p):
    """The formula, with the tensor of all terms, in float64."""
    lower, upper = (end.astype("float64")[:, :, None] for end in (lower, upper))
    low = np.maximum(np.maximum(lower - w, w - upper), 0.0)
    high = np.maximum(upper - w, w - lower)

    def norm(terms):
        most = terms.max(axis=1)
        if p == math.inf:
            return most
        scaled = terms / np.maximum(most, 1e-300)[:, None]
        return most * (scaled**p).sum(axis=1) ** (1 / p)

    return norm(low), norm(high)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("inputs", [1, 15, 16, 33])
@pytest.mark.parametrize("dtype", sorted(set(soundness.dtypes())))
def test_equals_the_formula(p, inputs, dtype):
    boxes = _boxes(inputs, inputs=inputs, dtype=dtype)
    found = interval_kernels.interval_distances(*map(ops.convert_to_tensor, boxes), p)
    tolerance = {"float32": 5e-5, "float64": 1e-10}[dtype]
    for end, expected in zip(found, _expected(*boxes, p), strict=True):
        assert keras.backend.standardize_dtype(end.dtype) == dtype
        np.testing.assert_allclose(end, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("p", EXPONENTS)
def test_corners_attain_both_ends(p):
    soundness.needs_float64()
    lower, upper, w = _boxes(7, batch=2, inputs=9, units=3)
    low, high = map(np.asarray, interval_kernels.interval_distances(lower, upper, w, p))
    for unit in range(3):
        own = w[:, unit]
        nearest = np.clip(own, lower, upper)
        farthest = np.where(own - lower > upper - own, lower, upper)
        for points, end in ((nearest, low), (farthest, high)):
            reached = np.asarray(point_kernels.distances(points, w, p))[:, unit]
            np.testing.assert_allclose(end[:, unit], reached, rtol=1e-9, atol=1e-9)


def test_a_layer_in_the_same_type_stays_inside_to_the_last_bit():
    lower, upper, w = _boxes(3, batch=5, inputs=40, units=8, dtype="float32")
    low, high = map(np.asarray, interval_kernels.interval_distances(lower, upper, w, math.inf))
    rng = np.random.default_rng(0)
    for _ in range(50):
        share = rng.choice([0.0, 1.0, rng.uniform()], size=lower.shape)
        x = np.clip((lower + share * (upper - lower)).astype("float32"), lower, upper)
        found = np.asarray(point_kernels.distances(x, w, math.inf))
        assert (low <= found).all() and (found <= high).all()


@pytest.mark.parametrize("p", [math.inf, 1.5, 2.0, 40.0])
def test_gradients_equal_finite_differences(p):
    soundness.needs_float64()
    values = list(_boxes(11, batch=2, inputs=18, units=3))
    rng = np.random.default_rng(1)
    # Away from the kinks, where a weight is an end or a box a point.
    values[0], values[2] = values[0] - 0.01, rng.normal(size=values[2].shape)
    weights = [ops.convert_to_tensor(rng.normal(size=(2, 3))) for _ in range(2)]

    def total(parts):
        ends = interval_kernels.interval_distances(*parts, p)
        value = sum(ops.sum(end * weight) for end, weight in zip(ends, weights, strict=True))
        return value, None

    tensors = [ops.convert_to_tensor(value) for value in values]
    _, _, gradients = backend.value_and_gradients(total, tensors)
    for place, gradient in enumerate(gradients):
        direction = rng.normal(size=values[place].shape)
        step, ends = 1e-6, []
        for sign in (1.0, -1.0):
            moved = list(values)
            moved[place] = values[place] + sign * step * direction
            ends.append(float(total([ops.convert_to_tensor(v) for v in moved])[0]))
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float(ops.sum(gradient * direction)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_zeros_of_either_sign_are_zeros():
    zeros = np.array([[0.0, -0.0, 0.0, -0.0]], "float32")
    weights = np.array([[0.0], [0.0], [-0.0], [-0.0]], "float32")
    for ends in ((zeros, zeros), (zeros, -zeros), (-zeros, zeros)):
        for p in EXPONENTS:
            for end in interval_kernels.interval_distances(*ends, weights, p):
                np.testing.assert_array_equal(end, 0.0)


@pytest.mark.parametrize("p", [math.inf, 1.0, 3.0, 1000.0])
def test_gradients_at_weights_inside_of_points_are_finite(p):
    x = np.zeros((2, 5), "float32")
    tensors = [ops.convert_to_tensor(x), ops.convert_to_tensor(x), ops.zeros((5, 3))]

    def total(parts):
        return sum(map(ops.sum, interval_kernels.interval_distances(*parts, p))), None

    value, _, gradients = backend.value_and_gradients(total, tensors)
    assert float(value) == 0.0
    assert all((np.asarray(gradient) == 0.0).all() for gradient in gradients)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="walks TensorFlow's graphs")
@pytest.mark.parametrize("function", ["_forward", "_backward"])
def test_the_tensor_of_all_terms_is_never_made(function):
    import tensorflow as tf

    batch, inputs, units = 64, 320, 256

    def spec(*shape):
        return tf.TensorSpec(shape, "float32")

    boxes = [spec(batch, inputs), spec(batch, inputs), spec(inputs, units), spec()]
    more = [spec(batch, units)] * 2 if function == "_backward" else []
    made = getattr(interval_kernels, function).get_concrete_function(*boxes, *more)
    graphs = [made.graph, *(made.graph._get_function(name).graph for name in _inner(made.graph))]
    assert len(graphs) > 1, "the loops are graphs of their own"
    sizes = [
        math.prod(tensor.shape) if tensor.shape.is_fully_defined() else 0
        for graph in graphs
        for operation in graph.get_operations()
        for tensor in operation.outputs
    ]
    # The largest is the input with the last block filled up, or a gradient of both ends.
    assert max(sizes) <= 3 * (inputs + point_kernels.BLOCK) * max(batch, units)


def _inner(graph):
    """Names of all functions that a graph calls, and of those that they call."""
    found = [f.signature.name for f in graph.as_graph_def().library.function]
    return [name for name in found if graph._get_function(name) is not None]
