"""Random networks of distances for the tests of their rules, and inputs for them."""

import math

import keras
import numpy as np
from keras import layers

from tests import rule_cases, soundness
from tfcert.layers import LInfDistance, LInfDistanceConv2D, MeanShift


def distance_network(seed, p=math.inf, hybrid=False, dtype=None):
    """A random network of distances; a hybrid goes on with dense layers."""
    rng = np.random.default_rng(seed)
    dtype = dtype or soundness.dtypes()[0]

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    with rule_cases.dtype_of_new_layers(dtype):
        entry = x = keras.Input(pick((6,), (9,), (3, 3, 1), (4, 3, 2)))
        if rng.integers(2):
            variance = rng.uniform(0.05, 2.0, size=x.shape[-1])
            x = layers.Normalization(mean=rng.normal(size=x.shape[-1]), variance=variance)(x)
        if len(x.shape) == 4:
            filters, groups = 2 * int(rng.integers(1, 3)), pick(1, x.shape[-1])
            padding, strides = pick("same", "valid"), pick(1, 2)
            x = LInfDistanceConv2D(filters, 2, strides, padding, groups=groups, p=p)(x)
            x = MeanShift()(x)
            x = layers.Flatten()(x)
        for _ in range(int(rng.integers(0, 3))):
            x = MeanShift()(LInfDistance(int(rng.integers(3, 7)), p=p)(x))
        x = LInfDistance(pick(3, 5), p=p, use_bias=True)(x)
        if hybrid:
            x = layers.Dense(5, activation=pick("relu", "tanh"))(MeanShift()(x))
            x = layers.Dense(4, activation="relu")(x)
            x = layers.Dense(3)(x)
        else:
            x = layers.Rescaling(-1.0)(x)
        model = keras.Model(entry, x)
    return rule_cases.randomise(model, seed, float(rng.uniform(0.5, 2.0)))


def inputs_of(model, seed, batch=2):
    """Inputs from 0 to 1 in the model's type."""
    rng = np.random.default_rng(seed + 1)
    shape = (batch, *model.input_shape[1:])
    return rng.uniform(0.0, 1.0, size=shape).astype(model.inputs[0].dtype)
