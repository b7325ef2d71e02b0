"""Models and a check of messages, for the tests of errors."""

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

import tfcert

REGION = tfcert.LpBall(0.1)


def model_of(*stack, shape=(4,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def classifier():
    return model_of(layers.Dense(5, activation="relu"), layers.Dense(3))


def functional(apply, shape=(4,)):
    entry = keras.Input(shape)
    return keras.Model(entry, apply(entry))


def zeros(model, batch=2):
    return np.zeros((batch, *model.input_shape[1:]), "float32")


def zeros_of(*shape):
    return np.zeros((2, *shape), "float32")


class ErrorsTest(absltest.TestCase):
    def check(self, kind, text, model, x=None, region=REGION, method="crown"):
        x = zeros(model) if x is None else x
        with self.assertRaisesRegex(kind, text):
            tfcert.bound(model, x, region, method)
