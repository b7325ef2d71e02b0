"""What layers computed before a model is bounded: values that are known, but not how they round."""

from __future__ import annotations

from typing import Any

import keras

from tfcert import graph
from tfcert.rules import registry
from tfcert.rules.linear import Scale
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["AsComputed", "is_exact"]

# Layers and operations that copy and pick values, so that no execution rounds otherwise.
_EXACT = (
    *("Cast", "CategoryEncoding", "Concatenate", "Dropout", "Embedding", "ExpandDims", "Flatten"),
    *("GetItem", "Hashing", "Identity", "IntegerLookup", "OneHot", "Permute", "RepeatVector"),
    *("Reshape", "Squeeze", "StringLookup", "Transpose"),
)


def is_exact(operation: Any) -> bool:
    """Whether an operation gives the same numbers in every execution, on every device."""
    counts = getattr(operation, "output_mode", None) == "count"  # Sums, which may have weights.
    ours = graph.is_written_by_keras(type(operation))
    return ours and type(operation).__name__ in _EXACT and not counts


class AsComputed(registry.CarriesRule, keras.layers.Layer):
    """Passes on a value that layers computed of fixed inputs, with roundings that nobody knows.

    Args:
        source: The name of the layer that gave it.
        dtype: Its type.
    """

    def __init__(self, source: str, dtype: str):
        super().__init__(dtype=dtype, autocast=False)
        self.source, self.built = source, True

    def call(self, x: Tensor) -> Tensor:
        return x

    def nodes(self, *values: Node) -> Node:
        """The value itself."""
        (x,) = values
        return Node(_Computed(self.source), (x,), x.shape)


class _Computed(Scale):
    """The value itself, whose rounding is not known."""

    def __init__(self, source: str):
        super().__init__(lambda dtype: (None, None))
        self.source = source

    def check(self, need: str) -> None:
        if need == "rounding":
            raise NotImplementedError(
                f"{self.source!r} computes it of inputs that are fixed, and another execution may "
                "round it otherwise, which float_safe does not cover. Use float_safe=False, or "
                "give the model what that layer computes as an input."
            )
