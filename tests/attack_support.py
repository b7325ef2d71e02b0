"""What the tests of attacks share: small networks, and PGD written out."""

import functools

import keras
import numpy as np
from keras import ops

from tfcert import datasets
from tfcert.attacks import losses


def array(value):
    return np.asarray(ops.convert_to_numpy(value))


def gradient(function, value):
    """The gradient of a function that gives one number."""
    if keras.backend.backend() == "jax":
        import jax

        return array(jax.grad(function)(ops.convert_to_tensor(value)))
    import tensorflow as tf

    value = tf.constant(value)
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = function(value)
    return array(tape.gradient(result, value))


def has_float64():
    return array(ops.ones((), "float64") * (1 + 2.0**-40)) != 1.0


@functools.cache
def digits():
    """A small network trained in a second, and the first 120 images that it gets right."""
    (x, y), (x_test, y_test) = datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    right = np.flatnonzero(array(model(x_test)).argmax(axis=1) == y_test)[:120]
    return model, x_test[right], y_test[right]


def behind(model, *layers):
    """The model with more layers, so that its own programs stay out of a test."""
    return keras.Sequential([keras.Input(model.input_shape[1:]), model, *layers])


def survivors(model, points, y):
    """How many points are classified correctly."""
    return int((array(model(points)).argmax(axis=1) == y).sum())


def margin(model, points, y):
    return array(losses.margin(ops.convert_to_tensor(y), model(points)))


def network(shape=(8,), classes=3, seed=0, dtype="float32"):
    """A small random network with layers that behave otherwise in training."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(16, dtype=dtype),
        keras.layers.BatchNormalization(dtype=dtype),
        keras.layers.ReLU(dtype=dtype),
        keras.layers.Dropout(0.5, dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        keras.layers.Dense(classes, dtype=dtype),
    ]
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def linear(weights):
    """The model x @ weights."""
    weights = np.asarray(weights, "float32")
    model = keras.Sequential(
        [keras.Input((len(weights),)), keras.layers.Dense(weights.shape[1], use_bias=False)]
    )
    model.set_weights([weights])
    return model


class Peak(keras.layers.Layer):
    """Scores (0, height - slope |x - top|_1, at least floor): a wrong class around one point."""

    def __init__(self, top, height, slope, floor):
        super().__init__()
        self.top, self.height, self.slope, self.floor = top, height, slope, floor

    def call(self, x):
        distance = ops.sum(ops.abs(x - self.top), axis=1, keepdims=True)
        score = ops.maximum(self.height - self.slope * distance, self.floor)
        return ops.concatenate([0.0 * score, score], axis=1)


def peak(top, height, slope=1.0, floor=-9.0):
    return keras.Sequential([keras.Input((np.size(top),)), Peak(top, height, slope, floor)])


def plain(model, start, x, y, eps, norm, steps, step, momentum=0.0, clip=(0, 1)):
    """PGD, written out: where it ends, and whether it met a misclassified point."""
    points, before, met = start, np.zeros_like(x), np.zeros(len(x), bool)
    axes = tuple(range(1, x.ndim))

    def loss(points):
        return ops.sum(ops.sparse_categorical_crossentropy(y, model(points), from_logits=True))

    for _ in range(steps):
        slope = gradient(loss, points)
        if momentum:
            slope = momentum * before + slope / np.abs(slope).mean(axis=axes, keepdims=True)
        before = slope
        if norm == "inf":
            points = np.clip(points + step * eps * np.sign(slope), x - eps, x + eps)
        else:
            length = np.sqrt((slope**2).sum(axis=axes, keepdims=True))
            points = points + step * eps * slope / np.maximum(length, 1e-30)
            length = np.sqrt(((points - x) ** 2).sum(axis=axes, keepdims=True))
            points = x + (points - x) * np.minimum(1, eps / np.maximum(length, 1e-30))
        points = np.clip(points, *clip).astype("float32")
        met |= array(model(points)).argmax(axis=1) != y
    return points, met


def plain_apgd(start, top, steps, marks, momentum):
    """APGD for one sample in [-1, 1]^n, written out: the best point for the loss -|x - top|_1.

    Algorithm 1 of arXiv 2003.01690, but for the momentum, which starts anew after each way back.
    """

    def loss(point):
        return -np.abs(point - top).sum()

    point, before, best = start, start, start
    size, rises, last = 2.0, 0, (2.0, loss(start), 0)
    for step in range(1, steps + 1):
        straight = np.clip(point - size * np.sign(point - top), -1, 1)
        share = 1.0 if step == 1 else momentum
        moved = np.clip(point + share * (straight - point) + (1 - share) * (point - before), -1, 1)
        rises += loss(moved) > loss(point)
        best = moved if loss(moved) > loss(best) else best
        before, point = point, moved
        if step in marks:
            old_size, old_best, mark = last
            last = (size, loss(best), step)
            if rises < 0.75 * (step - mark) or (size == old_size and loss(best) <= old_best):
                size, point, before = size / 2, best, best
            rises = 0
    return best
