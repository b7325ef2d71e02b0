"""Small classifiers and inputs for the tests of certification."""

import functools

import keras
import numpy as np
from keras import ops

import tfcert
from tfcert import datasets

REGION = tfcert.LpBall(0.05, clip=(0.0, 1.0))


def digits(count=60, start=0):
    """Test images of the digits."""
    _, (x, y) = datasets.load("digits")
    return x[start : start + count], y[start : start + count]


def nearest_mean(softmax=False, name="digits"):
    """Scores by the distance to the mean image of every class, through a layer of ReLUs.

    Right on most digits; no training, so no time.
    """
    (x, y), _ = datasets.load("digits")
    means = np.stack([x[y == label].mean(axis=0).ravel() for label in range(10)])
    hidden = keras.layers.Dense(20, activation="relu")
    last = keras.layers.Dense(10, activation="softmax" if softmax else None)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), hidden, last], name=name
    )
    # relu(z) and relu(-z), whose difference is z.
    scores, shift = 2 * means.T, -(means**2).sum(axis=1)
    hidden.set_weights([np.hstack([scores, -scores]), np.hstack([shift, -shift])])
    last.set_weights([np.vstack([np.eye(10), -np.eye(10)]), np.zeros(10)])
    return model


def line(weights=(1.0, -1.0), bias=0.0, outputs=2, activation=None):
    """Scores (z, 0), or the single output z, with z = weights x + bias: all can be worked out."""
    layer = keras.layers.Dense(outputs, activation=activation)
    model = keras.Sequential([keras.Input((len(weights),)), layer])
    kernel = np.zeros((len(weights), outputs), "float32")
    kernel[:, 0] = weights
    shift = np.zeros(outputs, "float32")
    shift[0] = bias
    layer.set_weights([kernel, shift])
    return model


@functools.cache
def trained():
    """A small network that needs all methods: at eps 0.05 each verifies inputs of its own.

    Shared by the tests: do not change its weights.
    """
    (x, y), _ = datasets.load("digits")
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(24, activation="relu") for _ in range(2)]
    front = [keras.Input((8, 8, 1)), keras.layers.AveragePooling2D(2), keras.layers.Flatten()]
    model = keras.Sequential([*front, *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    return model


def classes(model, x):
    """What a model predicts."""
    return np.argmax(ops.convert_to_numpy(model(x)), axis=-1)


def certify(*args, **changed):
    """``tfcert.certify`` without its self-check, which many tests have no use for."""
    return tfcert.certify(*args, **{"self_check": 0.0, **changed})
