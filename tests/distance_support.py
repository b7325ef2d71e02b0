"""Random networks of distances for the tests of their rules, inputs for them, short kernels."""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tests import rule_cases, soundness
from tfcert import backend
from tfcert.layers import (
    LInfDistance,
    LInfDistanceConv2D,
    MeanShift,
    interval_kernels,
    point_kernels,
)

_KERNELS = {
    point_kernels: ("_forward", "_first_attaining", "_gradient_for_x", "_gradient_for_w"),
    interval_kernels: ("_forward", "_backward"),
}


@functools.cache
def _short_kernels() -> dict[tuple, Callable[..., Any]]:
    """Kernels that are traced apart from the others, and once."""
    return {
        (module, name): backend.compiled(inspect.unwrap(getattr(module, name)))
        for module, names in _KERNELS.items()
        for name in names
    }


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Kernels whose loops take 4 rows a turn in place of 16, which XLA compiles much sooner.

    For tests of what is built on the kernels: they compute the same, and a network of a test is
    too small to be slower for it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_kernels, "BLOCK", 4)
        for (module, name), kernel in _short_kernels().items():
            patch.setattr(module, name, kernel)
        yield


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
