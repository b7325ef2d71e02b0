"""Hashes of everything that decides the results of a run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.regions import Region

__all__ = ["of_arrays", "of_model", "of_region", "of_settings"]


# Where a configuration of Keras holds the names of layers.
_NAMING = ("name", "keras_history", "input_layers", "output_layers")


def of_arrays(*arrays: Any) -> str:
    """The hash of arrays: their types, shapes and numbers."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def of_model(model: keras.Model) -> str:
    """The hash of a model: its structure and weights, without the names of its layers.

    Names that Keras gives count up in a process, and a model that is built again has others.
    """
    layers = [model, *graph.layers_of(model)]
    names = {layer.name: f"#{number}" for number, layer in enumerate(layers)}

    def anonymous(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {str(name): anonymous(entry, str(name)) for name, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [anonymous(entry, key) for entry in value]
        # Elsewhere the same word is something else, such as an activation.
        return names.get(value, value) if isinstance(value, str) and key in _NAMING else value

    config = json.dumps(anonymous(model.get_config()), sort_keys=True, default=str)
    weights = [ops.convert_to_numpy(ops.convert_to_tensor(weight)) for weight in model.weights]
    return hashlib.sha256(f"{config} {of_arrays(*weights)}".encode()).hexdigest()


def of_region(region: Region) -> str:
    """The hash of a region with all its numbers, also those of single samples."""
    digest = hashlib.sha256(f"{type(region).__name__} {region.norm}".encode())
    for name, value in region._fields().items():
        for part in value if isinstance(value, tuple) else (value,):
            if part is None or isinstance(part, str):
                digest.update(f"{name} {part};".encode())
            else:
                digest.update(f"{name} {of_arrays(ops.convert_to_numpy(part))};".encode())
    return digest.hexdigest()


def of_settings(settings: dict[str, Any]) -> str:
    """The hash of settings that JSON can hold."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
