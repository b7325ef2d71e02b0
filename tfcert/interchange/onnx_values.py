"""The values and calls that operators work on while a network is read."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

__all__ = ["Call", "Value", "moved", "ordered", "weighted"]


class Value(NamedTuple):
    """A tensor with the axes as ONNX orders them, or with the channels moved to the end.

    Attributes:
        tensor: Of Keras, with a batch axis.
        last: Whether axis 1, of the channels, is moved to the end.
    """

    tensor: Any
    last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes in ONNX's order, without the batch axis."""
        sizes = tuple(self.tensor.shape[1:])
        return (sizes[-1], *sizes[:-1]) if self.last else sizes

    @property
    def rank(self) -> int:
        """The number of axes, with the batch axis."""
        return len(self.tensor.shape)

    def axis(self, axis: int) -> int:
        """Returns the tensor's axis for an axis in ONNX's order."""
        if not -self.rank <= axis < self.rank:
            raise ValueError(f"there is no axis {axis} among {self.rank} axes.")
        axis %= self.rank
        if not self.last or axis == 0:
            return axis
        return self.rank - 1 if axis == 1 else axis - 1


def ordered(value: Value) -> Value:
    """The value in ONNX's order."""
    if not value.last:
        return value
    axes = (value.rank - 1, *range(1, value.rank - 1))
    return Value(keras.layers.Permute(axes)(value.tensor))


def moved(value: Value) -> Value:
    """The value with the channels at the end."""
    if value.last:
        return value
    if value.rank < 3:
        raise NotImplementedError("it needs channels and at least one more axis.")
    return Value(keras.layers.Permute((*range(2, value.rank), 1))(value.tensor), last=True)


class Call:
    """One node of a network: its operands and its settings, of which each is asked for once.

    Args:
        operands: ``Value``s, NumPy arrays, and None for what is left out.
        settings: The node's attributes.
        opset: The version of the operators.
        dtype: The float type of the model.
        bias: What the only following node adds, for products.
    """

    def __init__(
        self,
        operands: list[Any],
        settings: dict[str, Any],
        opset: int,
        dtype: str,
        bias: np.ndarray | None = None,
    ):
        self.operands, self.opset, self.dtype, self.bias = operands, opset, dtype, bias
        self._settings = settings

    def value(self, index: int = 0) -> Value:
        """An operand that depends on the network's input."""
        operand = self.operands[index]
        if not isinstance(operand, Value):
            raise NotImplementedError(f"operand {index} must not be a constant.")
        return operand

    def constant(self, index: int) -> np.ndarray:
        """An operand that is a constant."""
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, np.ndarray):
            raise NotImplementedError(f"operand {index} must be a constant.")
        return operand

    def optional(self, index: int) -> np.ndarray | None:
        """A constant operand, None where it is left out."""
        given = index < len(self.operands) and self.operands[index] is not None
        return self.constant(index) if given else None

    def setting(self, name: str, default: Any = None) -> Any:
        """An attribute of the node, or its default."""
        value = self._settings.pop(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def expect(self, **wanted: Any) -> None:
        """Refuses other values of some attributes."""
        for name, value in wanted.items():
            found = self.setting(name, value)
            if found != value:
                raise NotImplementedError(
                    f"only {name}={value} is supported. Received: {name}={found}."
                )

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Integers that are an attribute or, in later versions, an operand."""
        if name in self._settings:
            return [int(number) for number in self.setting(name)]
        array = self.optional(index)
        return None if array is None else [int(number) for number in array.reshape(-1)]

    def check_settings(self) -> None:
        """Refuses attributes that the operator has not asked for."""
        if self._settings:
            raise NotImplementedError(f"its attributes {sorted(self._settings)} are not supported.")


def weighted(layer: keras.layers.Layer, tensor: Any, *weights: np.ndarray | None) -> Any:
    """Calls a layer and gives it its weights; None stands for those that it lacks."""
    result = layer(tensor)
    layer.set_weights([array for array in weights if array is not None])
    return result
