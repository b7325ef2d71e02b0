"""Whether a model still computes what it did: its layers and their attributes."""

from __future__ import annotations

import operator
from typing import Any

import keras

from tfcert.graph.walk import layers_of, wants_walk

__all__ = ["Settings"]

_PLAIN = (bool, int, float, str, tuple, type(None))


class Settings:
    """What decides, besides the variables, what a model computes: its layers and their attributes.

    Attributes can be replaced at any time: ``layer.activation = None``, ``layer.adapt(data)``,
    ``layer.enable_lora(4)``.
    """

    def __init__(self, model: keras.Model):
        self._layers = [_LayerSettings(layer) for layer in _parts(model)]

    def hold(self, model: keras.Model) -> bool:
        """Whether nothing was replaced since. Every call for bounds asks, so it has to be fast."""
        layers = _parts(model)
        return len(layers) == len(self._layers) and all(
            known.hold(layer) for known, layer in zip(self._layers, layers, strict=True)
        )


def _parts(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model, and the model itself where its own code decides, too."""
    return layers_of(model) if wants_walk(model) else [model, *layers_of(model)]


class _LayerSettings:
    """The attributes of one layer."""

    def __init__(self, layer: keras.layers.Layer):
        self._layer, self._policy = layer, layer.dtype_policy
        self._names = _public(layer)
        self._size = len(vars(layer))
        self._values = [*map(vars(layer).get, self._names)]

    def hold(self, layer: keras.layers.Layer) -> bool:
        if layer is not self._layer or layer.dtype_policy is not self._policy:
            return False
        attributes = vars(layer)
        if len(attributes) != self._size:  # Private ones come and go.
            if _public(layer) != self._names:
                return False
            self._size = len(attributes)
        values = [*map(attributes.get, self._names)]
        return all(map(operator.is_, values, self._values)) or all(map(_same, values, self._values))


def _public(layer: keras.layers.Layer) -> list[str]:
    return [name for name in vars(layer) if not name.startswith("_")]


def _same(first: Any, second: Any) -> bool:
    """Objects are compared by identity: tensors have no equality."""
    if first is second:
        return True
    return type(first) is type(second) and isinstance(first, _PLAIN) and first == second
