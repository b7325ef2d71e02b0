"""Copies of models that compute in bfloat16: what changes in them, and what must not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tfcert import smoothing

SHAPE = (8, 8, 1)
CLASSES = 4


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def nested():
    """A model in a model, whose inner one returns the scores, and an operation between layers."""
    inner_start = keras.Input((16,))
    inner = keras.Model(inner_start, layers.Dense(CLASSES)(layers.Dense(16, "relu")(inner_start)))
    start = keras.Input(SHAPE)
    x = layers.Flatten()(start)
    x = ops.add(layers.Dense(16)(x), layers.Dense(16, "tanh")(x))
    return keras.Model(start, inner(x))


def with_softmax():
    """Scores that pass a layer without weights, whose input must not be rounded."""
    return keras.Sequential([keras.Input(SHAPE), *sequential().layers, layers.Softmax()])


def inputs(count):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype("float32")


def _flat(model):
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


@pytest.mark.parametrize("build", [sequential, nested, with_softmax])
def test_hidden_layers_compute_in_bfloat16(build):
    keras.utils.set_random_seed(0)
    model = build()
    copy = smoothing.in_bfloat16(model)
    with_weights = [layer for layer in _flat(copy) if layer.weights]
    last = [layer for layer in with_weights if getattr(layer, "units", None) == CLASSES]
    assert [layer.compute_dtype for layer in last] == ["float32"]
    hidden = [layer for layer in with_weights if layer not in last]
    assert {layer.compute_dtype for layer in hidden} == {"bfloat16"}
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    assert {layer.compute_dtype for layer in _flat(model)} == {"float32"}
    assert keras.backend.standardize_dtype(copy(inputs(1)).dtype) == "float32"


@pytest.mark.parametrize("build", [sequential, nested])
def test_scores_differ_by_rounding(build):
    keras.utils.set_random_seed(0)
    model = build()
    x = inputs(50)
    exact = ops.convert_to_numpy(model(x))
    rounded = ops.convert_to_numpy(smoothing.in_bfloat16(model)(x))
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    # Not in float32 any more, and within a few of the 2^-8 to which bfloat16 rounds.
    assert 1e-5 < error < 10 * 2.0**-8


def test_later_training_leaves_the_copy_alone():
    keras.utils.set_random_seed(0)
    model = sequential()
    copy = smoothing.in_bfloat16(model)
    before = ops.convert_to_numpy(copy(inputs(2)))
    model.set_weights([2 * weight for weight in model.get_weights()])
    np.testing.assert_array_equal(ops.convert_to_numpy(copy(inputs(2))), before)


@pytest.mark.slow
def test_radii_are_close():
    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = sequential()
    model = keras.Sequential([*model.layers[:-1], layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    noise = np.random.default_rng(0).normal(scale=0.25, size=x.shape)
    model.fit((x + noise).astype("float32"), y, epochs=5, verbose=0)
    exact = smoothing.SmoothedClassifier(model, sigma=0.25)
    fast = smoothing.SmoothedClassifier(smoothing.in_bfloat16(model), sigma=0.25)
    first, second = (
        smoothed.certify(x_test[:30], n=2000, seed=3).radius for smoothed in (exact, fast)
    )
    assert first.max() > 0.3
    # The noise is the same, and drawn and added in float32: only votes near a boundary change.
    np.testing.assert_allclose(second, first, atol=0.03)


def test_refuses_what_it_cannot_copy():
    class Own(keras.Model):
        def call(self, x):
            return x

    for model in (Own(), "model", keras.Sequential([layers.Dense(3)])):
        with pytest.raises(ValueError, match="built Sequential or functional"):
            smoothing.in_bfloat16(model)
