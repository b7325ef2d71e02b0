"""A layer for an operation on the variables of a layer whose ``call`` was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcert.rules import registry
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["Held"]


class Held(registry.CarriesRule, keras.layers.Layer):
    """Applies an operation of ``keras.ops`` to values and to variables, which it keeps.

    A model made of such layers knows all variables that it computes with.

    Args:
        operation: The operation.
        args: Its arguments: symbolic tensors, variables, and all else.
        kwargs: Its arguments by name.

    Attributes:
        values: The symbolic tensors among the arguments, in their order.
        filled: Gives the arguments with other values in the places of these tensors.
    """

    def __init__(self, operation: keras.Operation, args: tuple, kwargs: dict):
        given = keras.tree.flatten((args, kwargs))
        places = [i for i, value in enumerate(given) if isinstance(value, keras.KerasTensor)]
        super().__init__(name=operation.name, dtype=given[places[0]].dtype, autocast=False)
        self.operation, self.values = operation, [given[i] for i in places]
        self.variables_held = [value for value in given if isinstance(value, keras.Variable)]

        def filled(values: Sequence[Any]) -> tuple[tuple, dict]:
            parts = list(given)
            for place, value in zip(places, values, strict=True):
                parts[place] = value
            return keras.tree.pack_sequence_as((args, kwargs), parts)

        self.filled = filled
        self.built = True

    def call(self, *values: Tensor) -> Tensor:
        args, kwargs = self.filled(values)
        return self.operation(*args, **kwargs)

    def nodes(self, *values: Node) -> Any:
        """Returns the layer's output from the nodes of its values."""
        args, kwargs = self.filled(values)
        return registry.lower_held(self.operation, args, kwargs)
