"""Classifiers, exports and a comparison with the library, for the tests of exports.

Needs TensorFlow's backend.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfcert
from tfcert import LpBall, export

REGION = LpBall(0.03, clip=(0.0, 1.0))
OUTPUTS = {"label", "scores", "margin", "certified"}


def make_model(seed=3, classes=4):
    """A small convolutional network with all kinds of common layers."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(classes),
        ]
    )
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = generator.normal(size=variable.shape) * 0.4
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value)
    bias = model.layers[-1].bias  # All classes shall win somewhere.
    bias.assign(bias - np.mean(model(inputs(50), training=False), axis=0))
    return model


def make_small():
    """Two dense layers: quick to trace."""
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(7, activation="relu"), layers.Dense(4)]
    )
    generator = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(generator.normal(size=variable.shape))
    return model


def inputs(size=9, shape=(6, 6, 1)):
    return np.random.default_rng(5).random((size, *shape)).astype("float32")


def load(path):
    return tf.saved_model.load(str(path)).signatures


def library(model, x, label, region, method):
    """The library's margin about given labels."""
    margins = np.asarray(tfcert.bound_margins(model, x, label, region, method))
    return np.where(np.arange(margins.shape[1]) == label[:, None], np.inf, margins).min(axis=-1)


def check(found, model, x, region, method):
    """Compares with the library; returns the verdicts."""
    found = {name: value.numpy() for name, value in found.items()}
    scores = np.asarray(model(x, training=False))
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["label"], found["scores"].argmax(-1))
    wanted = library(model, x, found["label"], region, method)
    np.testing.assert_allclose(found["margin"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["certified"], found["margin"] > 0)
    size = np.maximum(1.0, np.abs(scores).max(-1))
    clear = np.abs(wanted) > export.ROUNDING_TOLERANCE * size
    np.testing.assert_array_equal(found["certified"][clear], (wanted > 0)[clear])
    return found["certified"]


def exported(folder):
    """A model, where it was exported to within the folder, and what was loaded from there."""
    model = make_model()
    path = folder / "models" / "1"
    assert tfcert.export_certified(model, path, REGION) == path
    return model, path, load(path)
