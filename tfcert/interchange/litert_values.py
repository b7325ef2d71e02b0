"""Values and calls of integer networks, and how far a kernel may be off.

A value is a number of steps from 0: the stored integer minus the zero point. Sums of products of
such numbers are exact in kernels and in the model. What ends an operation is a new scale, by a
factor M that kernels know as a fixed-point or float32 number, a rounding, and a clip.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert.interchange.litert_files import Grid, Operator, Stored
from tfcert.layers import Requantize

__all__ = ["Call", "SLACK", "Value", "rounding_radius"]

# What the factors of kernels may add to a rounding, in steps. A fixed-point factor has 31 bits. A
# factor in float32 comes from three roundings, and meets two more: 5 * 2^-24 of at most 256 steps,
# since larger results are clipped.
SLACK = 2.0**-10

_RANGES = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1, 1)}


def rounding_radius(factor: float) -> float:
    """Returns how far a kernel's ``round(factor * sum)`` may lie from ``factor * sum``, in steps.

    Kernels round once, or twice: first the product with a fixed-point factor in [1/2, 1), to a
    whole number or down to one, and then what remains to divide by a power of 2. One unit of the
    first rounding is ``2^-e <= 2 factor`` steps, and at most half a step.
    """
    return 0.5 + min(0.5, 2.0 * factor) + SLACK


class Value(NamedTuple):
    """A tensor of Keras with a batch axis.

    Attributes:
        tensor: The steps from 0, or floats.
        grid: The numbers that steps stand for; None for floats.
    """

    tensor: Any
    grid: Grid | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes without the batch axis."""
        return tuple(self.tensor.shape[1:])


class Call:
    """One operator with its operands.

    Args:
        operator: The operator.
        operands: ``Value``s, ``Stored`` constants, and None for what is left out.
        output: The result as the file describes it.
        dtype: The float type of the model.
        radius: How far other kernels than LiteRT's may be off, in steps; or None.
    """

    def __init__(
        self,
        operator: Operator,
        operands: list[Any],
        output: Stored,
        dtype: str,
        radius: float | None,
    ):
        self.operator, self.operands, self.output = operator, operands, output
        self.dtype, self._radius = dtype, radius

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the file."""
        return self.operator.options.get(name, default)

    def value(self, index: int = 0) -> Value:
        """An operand of integers that depends on the network's input."""
        operand = self.operands[index]
        if not isinstance(operand, Value):
            raise NotImplementedError(f"operand {index} must not be a constant.")
        if operand.grid is None:
            raise NotImplementedError(
                "it computes with floats, and only QUANTIZE takes floats. Convert the model with a "
                "representative_dataset and OpsSet.TFLITE_BUILTINS_INT8, which makes all operators "
                "integer."
            )
        return operand

    def grid(self, index: int = 0) -> Grid:
        """The numbers of an operand of integers, which may be a constant."""
        operand = self.operands[index]
        grid = operand.grid() if isinstance(operand, Stored) else self.value(index).grid
        if grid is None:
            raise NotImplementedError(f"operand {index} must be quantised.")
        return grid

    def target(self) -> Grid:
        """The numbers of the result."""
        grid = self.output.grid()
        if grid is None:
            raise NotImplementedError("its result must be quantised.")
        return grid

    def constant(self, index: int) -> Stored:
        """An operand that is a constant."""
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, Stored) or operand.array is None:
            raise NotImplementedError(f"operand {index} must be a constant.")
        return operand

    def integers(self, index: int) -> list[int]:
        """A constant of integers, such as axes or a shape."""
        array = self.constant(index).array
        assert array is not None
        if array.dtype.kind != "i":
            raise NotImplementedError(f"operand {index} must hold integers.")
        return [int(number) for number in array.reshape(-1)]

    def kernel(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights, operand 1, and their scales: one, or one for each entry of the axis."""
        stored = self.constant(1)
        count = stored.shape[axis]
        if stored.kind != "INT8" or stored.zero_points.any():
            raise NotImplementedError(
                f"its weights are of type {stored.kind.lower()} with the zero points "
                f"{sorted(set(stored.zero_points.tolist()))}. Only int8 with the zero point 0 is "
                "supported."
            )
        fits = stored.scales.size == 1 or (stored.scales.size == count and stored.axis == axis)
        if not fits or not ((stored.scales > 0) & np.isfinite(stored.scales)).all():
            raise ValueError(
                f"its weights need one positive scale, or one for each of {count} outputs."
            )
        assert stored.array is not None
        return stored.array.astype("int64"), stored.scales

    def bias(self, count: int) -> np.ndarray:
        """What is added to sums, operand 2: integers in units of the product of both scales."""
        if len(self.operands) < 3 or self.operands[2] is None:
            return np.zeros(count, "int64")
        stored = self.constant(2)
        if stored.kind != "INT32" or stored.shape != (count,):
            raise NotImplementedError(
                f"its bias is of type {stored.kind.lower()} and shape {stored.shape}. Only int32 "
                f"and ({count},) are supported."
            )
        assert stored.array is not None
        return stored.array.astype("int64")

    def limits(self) -> tuple[int, int]:
        """The least and the largest result in steps from 0, as type and activation allow."""
        grid = self.target()
        kind = self.activation()
        if kind not in _RANGES:
            raise NotImplementedError(f"the fused activation {kind} is not supported.")
        low, high = grid.limits
        below, above = (
            None if end is None else _nearest(np.float32(end) / np.float32(grid.scale))
            for end in _RANGES[kind]
        )
        low = low if below is None else max(low, below)
        return low, high if above is None else min(high, above)

    def activation(self) -> str:
        """The name of the activation that the operator applies itself."""
        names = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
        own = {"RELU": "RELU", "RELU6": "RELU6", "RELU_N1_TO_1": "RELU_N1_TO_1"}
        return own.get(self.operator.kind) or names[self.option("fusedActivationFunction", 0)]

    def rescaled(self, tensor: Any, factor: Any, radius: float, lost: float = 0.0) -> Value:
        """The result ``clip(round(factor * tensor))``.

        Args:
            tensor: What is rounded, before the new scale.
            factor: A number, or one for each channel.
            radius: How far LiteRT's kernels may be off, in steps.
            lost: How far the tensor itself is off, in steps.
        """
        factor = np.asarray(factor, "float64")
        layer = Requantize(
            float(factor.reshape(())) if factor.size == 1 else factor.tolist(),
            self.limits(),
            radius=lost + (radius if self._radius is None else self._radius + SLACK),
            zero_point=self.target().zero_point,
        )
        return Value(layer(tensor), self.target())

    def clipped(self, tensor: Any) -> Value:
        """The result of an operator that keeps its operand's numbers, but for an activation."""
        grid = self.target()
        if self.limits() != grid.limits:
            tensor = ops.clip(tensor, *map(float, self.limits()))
        return Value(tensor, grid)

    def expect_same_grid(self, *indices: int) -> None:
        """Refuses operands with other scales than the result's."""
        for index in indices:
            if self.grid(index) != self.target():
                raise NotImplementedError(
                    f"operand {index} has another scale or zero point than the result."
                )

    def check_sums(self, kernel: np.ndarray, bias: np.ndarray, factor: np.ndarray) -> float:
        """Refuses sums that may leave int32, and returns what a float type may cost, in steps.

        Args:
            kernel: The weights, with one column for each output.
            bias: The bias.
            factor: The new scale.
        """
        largest = np.abs(kernel).sum(axis=0) * self.grid().largest + np.abs(bias)
        # A factor of 1 or more shifts the sum to the left before it is multiplied.
        if (largest * np.maximum(1.0, 2.0 * factor)).max() >= 2**31:
            raise NotImplementedError(
                f"its sums may reach {int(largest.max())} and overflow in int32, where kernels "
                "differ."
            )
        lost = np.abs(bias.astype(self.dtype).astype("float64") - bias)
        return float((lost * factor).max())


def _nearest(number: np.float32) -> int:
    """The nearest whole number; halves away from 0."""
    return int(np.sign(number) * np.floor(np.abs(number) + np.float32(0.5)))


def weighted(layer: keras.layers.Layer, tensor: Any, *weights: np.ndarray) -> Any:
    """Calls a layer and gives it its weights."""
    result = layer(tensor)
    layer.set_weights(list(weights))
    layer.trainable = False
    return result
