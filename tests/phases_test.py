"""The transpose of a convolution in phases is that of the backend, and so are its gradients."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tfcert import backend
from tfcert.rules import kernels, linear_maps, phases


@st.composite
def convolutions(draw):
    """A convolution of one to three axes and its number of channels, with steps of up to three."""
    rank = draw(st.integers(1, 3))
    extents = [draw(st.integers(1, 5)) for _ in range(rank)]
    # One step for all axes: with (1, 3), one channel and one output per row, TensorFlow 2.21's own
    # convolution reads past its input, and 0 times what it finds there may be NaN.
    strides = (draw(st.integers(1, 3)),) * rank
    padding = draw(st.sampled_from(["valid", "same"] + ["causal"] * (rank == 1)))
    sizes = [extent + draw(st.integers(0, 6)) for extent in extents]
    channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return (*sizes, channels), (*extents, channels, filters), strides, padding


@hypothesis.given(convolutions(), st.integers(0, 99))
@hypothesis.settings(max_examples=60, deadline=None)
def test_it_is_the_transpose_and_its_gradients_are_those(convolution, seed):
    shape, kernel_shape, strides, padding = convolution
    generator = np.random.default_rng(seed)

    def linear(x, k):
        if padding == "causal":
            x = ops.pad(x, [(0, 0), (kernel_shape[0] - 1, 0), (0, 0)])
        way = "valid" if padding == "causal" else padding
        return ops.conv(x, k, strides=strides, padding=way, data_format="channels_last")

    kernel = ops.convert_to_tensor(generator.normal(size=kernel_shape).astype("float32"))
    zeros = ops.zeros((2, *shape))
    a = generator.normal(size=linear(zeros, kernel).shape).astype("float32")
    a = ops.convert_to_tensor(a)
    before = kernels._before(shape[:-1], kernel_shape[:-2], strides, padding)

    def plain(a, k):
        return backend.vector_jacobian(lambda z: linear(z, k), [zeros], a)[0]

    def in_phases(a, k):
        return phases.transpose(linear, a, k, strides, before, shape)

    np.testing.assert_allclose(in_phases(a, kernel), plain(a, kernel), rtol=1e-4, atol=1e-5)
    g = ops.convert_to_tensor(generator.normal(size=(2, *shape)).astype("float32"))
    ours = backend.vector_jacobian(in_phases, [a, kernel], g)
    theirs = backend.vector_jacobian(plain, [a, kernel], g)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_bounds_are_the_same_with_and_without(method, monkeypatch):
    def bounds(pays):
        # Of all convolutions or of none; a network is read once for each model.
        monkeypatch.setattr(backend, "phases_pay", lambda channels: pays)
        monkeypatch.setattr(linear_maps, "_FEW", 0)  # Also of few rows.
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((9, 8, 2)),
                keras.layers.Conv2D(3, (4, 3), strides=(2, 1), activation="relu", padding="same"),
                keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        seen.clear()
        x = np.random.default_rng(1).uniform(size=(3, 9, 8, 2)).astype("float32")
        return tfcert.bound(model, x, tfcert.LpBall(0.05), method=method)

    seen = []
    transpose = phases.transpose
    monkeypatch.setattr(
        phases, "transpose", lambda *arguments: seen.append(1) or transpose(*arguments)
    )
    without = bounds(False)
    assert not seen
    with_phases = bounds(True)
    assert seen
    np.testing.assert_allclose(with_phases.lower, without.lower, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(with_phases.upper, without.upper, rtol=1e-4, atol=1e-5)
