"""The contents of an object, as a value that can be compared and hashed."""

from __future__ import annotations

import types
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import arguments

__all__ = ["Same", "contents"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


class Same:
    """Equal to nothing but the very same object, which it keeps, so that no other takes its id."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def contents(value: Any) -> Any:
    """A hashable value that is the same for two objects only if they hold the same.

    Arrays, tensors and containers count by what they hold at this moment. Any other object is the
    same as nothing but itself, and as that only while its attributes hold the same; a function is
    the same as itself.
    """
    return _contents(value, ())


def _contents(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, _PLAIN):
        # By text, so that -0.0 differs from 0.0, and NaN equals itself.
        return type(value), repr(value)
    if id(value) in above:  # An object that holds itself.
        return Same(value)
    above = (*above, id(value))
    if isinstance(value, dict):
        pairs = ((_contents(key, above), _contents(held, above)) for key, held in value.items())
        return type(value), tuple(pairs)
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_contents(held, above) for held in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(_contents(held, above) for held in value)
    if isinstance(value, np.ndarray):
        held = value.tolist() if value.dtype == object else value.tobytes()
        return np.ndarray, value.dtype.str, value.shape, _contents(held, above)
    if ops.is_tensor(value) or isinstance(value, keras.Variable):
        held = arguments.concrete(value)
        # A variable is itself, too: it may change while the code that reads it is kept.
        same = held is None or isinstance(value, keras.Variable)
        return type(value), Same(value) if same else None, _contents(held, above)
    if isinstance(value, types.ModuleType | type) or callable(value):
        return Same(value)
    if hasattr(value, "__dict__"):
        return Same(value), _contents(vars(value), above)
    return Same(object())  # What it holds is hidden, so it may have changed.
