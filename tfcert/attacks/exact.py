"""The same network in float64, to tell what rounding does at a point."""

from __future__ import annotations

from typing import Any

import keras

from tfcert import backend

__all__ = ["in_float64"]


# The types and policies of a model whose weights are float32.
_OTHERS = ("float32", "mixed_float16", "mixed_bfloat16")


def in_float64(model: keras.Model) -> keras.Model:
    """The same network with the same weights, computed in float64.

    Raises:
        ValueError: The backend has no float64, or the model cannot be rebuilt.
    """
    backend.check_float64("A check in float64")

    def converted(config: Any) -> Any:
        if isinstance(config, dict):
            return {key: converted(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return type(config)(converted(value) for value in config)
        return "float64" if config in _OTHERS else config

    twin = type(model).from_config(converted(model.get_config()))
    twin.set_weights(model.get_weights())
    return twin
