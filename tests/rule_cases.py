"""Small models for every rule: each layer, activation and operation alone, and inside networks.

A case says how a value is continued by what is under test. It is placed

- *alone*: input -> rule -> output,
- in a *chain*: input -> dense -> rule -> dense, relu -> dense, where rows of single neurons pass
  backward through it,
- in a *map*: input -> convolution -> rule -> convolution, relu -> dense, where these rows are
  windows of a feature map.

Inputs have few dimensions, so that the corners of a box can all be visited.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from tests import (
    rule_cases_attention,
    rule_cases_convolutions,
    rule_cases_layers,
    rule_cases_operations,
    rule_cases_recurrent,
)
from tests.rule_cases_support import ALONE, CHAIN, MAP, Case, Cases

__all__ = ["ALONE", "CASES", "CHAIN", "MAP", "Case", "build", "dtype_of_new_layers", "randomise"]

CASES = Cases()
for _family in (
    rule_cases_attention,
    rule_cases_convolutions,
    rule_cases_layers,
    rule_cases_operations,
    rule_cases_recurrent,
):
    for _name, _case in _family.CASES.items():
        CASES.put(_name, _case)


# Building.


@contextlib.contextmanager
def dtype_of_new_layers(dtype: str) -> Iterator[None]:
    """Makes layers and inputs of a type, and leaves the settings as they were."""
    policy, kind = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(kind)
        keras.config.set_dtype_policy(policy)


def randomise(model: keras.Model, seed: int = 0, scale: float = 1.0) -> keras.Model:
    """Gives every weight a random value of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        shape, name = tuple(variable.shape), variable.name
        if name == "p":  # The exponent of a distance.
            continue
        if "variance" in name:
            value = rng.uniform(0.3, 2.0, shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) * scale / math.sqrt(max(math.prod(shape[:-1]), 1))
        else:
            value = rng.normal(size=shape) * 0.5 * scale
        variable.assign(value)
    return model


_CONVOLUTIONS = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}


def build(case: Case, place: str, dtype: str, seed: int = 0) -> keras.Model:
    """The model of a case in one of its places, with random weights."""
    with dtype_of_new_layers(dtype):
        if place == ALONE:
            entry = keras.Input(case.shape)
            return randomise(keras.Model(entry, case.apply(entry)), seed)
        if place == CHAIN:
            entry = keras.Input((5,))
            x = layers.Dense(math.prod(case.shape))(entry)
            x = layers.Reshape(case.shape)(x) if len(case.shape) > 1 else x
        else:
            entry = keras.Input((*case.shape[:-1], 1))
            x = _CONVOLUTIONS[len(case.shape)](case.shape[-1], 2, padding="same")(entry)
        x = case.apply(x)
        if isinstance(x, (list, tuple)):
            x = layers.Concatenate()([layers.Flatten()(t) for t in keras.tree.flatten(x)])
        if place == MAP and len(x.shape) in (3, 4, 5):
            x = _CONVOLUTIONS[len(x.shape) - 1](2, 2, padding="same", activation="relu")(x)
        x = layers.Flatten()(x)
        x = layers.Dense(4, activation="relu")(x)
        return randomise(keras.Model(entry, layers.Dense(3)(x)), seed)
