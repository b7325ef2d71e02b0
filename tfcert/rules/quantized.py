"""Layers of integers: what is rounded depends on the input, and by how much is bounded.

Keras's ``model.quantize("int8")`` stores a kernel as integers with a scale for each output, and
quantises the input of a layer while it runs: row by row, with a scale that follows from the largest
entry of the row. A row of an ``EinsumDense`` holds the entries that one output sums. The products
are sums of integers, which are exact. So a layer is its float neighbour, applied to an input that
is off by at most half a step.

Networks whose scales are fixed numbers round in ``layers.Requantize``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcert import graph, layers, relaxations
from tfcert.rules import building
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Kernel, Matrix
from tfcert.rules.linear_maps import Linear
from tfcert.rules.nonlinear import signs, total
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["int8_dense", "int8_einsum"]

_NO_ANALYSIS = (
    "multiplies integers, for which float_safe has no rounding analysis. Use float_safe=False."
)
# Half a step, and what the float32 product that is rounded, of up to 127, may be off itself: four
# roundings of 2^-24 of 127 steps are less than 1e-4 steps.
_HALF = 0.5 + 1e-4


class RowQuantized(Nonlinear):
    """``round(x s) / s`` with the scale ``s = levels / (max |x| + epsilon)`` of each row.

    An entry moves by at most half a step, ``1 / (2 s)``, and by at most its own size, since what is
    smaller than half a step becomes 0. The step is largest where the largest entry is.

    Args:
        levels: The largest integer.
        epsilon: Keeps the scale finite.
        axes: The axes of a row, counted from the last one.
    """

    takes_more_axes = True

    def __init__(self, levels: float, epsilon: float, axes: tuple[int, ...] = (-1,)):
        self.levels, self.epsilon, self.axes = float(levels), float(epsilon), axes

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        x = values[0]
        scale = self.levels / (ops.max(ops.abs(x), axis=self.axes, keepdims=True) + self.epsilon)
        return ops.round(x * scale) / scale

    def _reach(self, x: Interval) -> Tensor:
        """How far entries move at most."""
        size = ops.maximum(ops.abs(x.lower), ops.abs(x.upper))
        largest = ops.max(size, axis=self.axes, keepdims=True) + self.epsilon
        return ops.minimum(_HALF / self.levels * largest, size)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x, reach = intervals[0], self._reach(intervals[0])
        lower, upper = x.lower - reach, x.upper + reach
        # Rounding keeps the sign.
        lower = ops.where(x.lower >= 0, ops.maximum(lower, 0.0), lower)
        upper = ops.where(x.upper <= 0, ops.minimum(upper, 0.0), upper)
        return Interval.from_ends(lower, upper)

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [intervals[0].upper > intervals[0].lower]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        return (self._reach(intervals[0]),)

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        positive, negative = signs(rows.coefficients)
        reach = frame.take(relaxation[0], rows)
        return [rows], total(negative - positive, reach)


class _Int8(Kernel):
    """Takes the kernel from the integers and the scales of a layer, whenever weights are read."""

    layer: Any
    kernel: Any

    def parameters(self, dtype: str) -> dict[str, Tensor]:
        whole, scale = graph.int8_parts(self.layer)
        self.kernel = ops.cast(whole, dtype) / ops.cast(scale, dtype)
        return super().parameters(dtype)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        raise NotImplementedError(_NO_ANALYSIS)


class _Int8Matrix(_Int8, Matrix):
    """The matrix that the integers and the scales of a layer stand for."""

    def __init__(self, layer: Any):
        super().__init__(None, layer.bias, fan_in=int(layer.kernel.shape[0]))
        self.layer = layer


class _Int8Kernel(_Int8):
    """The kernel of an einsum that the integers and the scales of a layer stand for."""

    def __init__(self, layer: Any, linear: Linear, fan_in: int):
        super().__init__(linear, None, layer.bias, fan_in=fan_in)
        self.layer = layer


def int8_dense(layer: Any, x: Node) -> Node:
    """A Dense layer of the mode "int8", before its activation."""
    return apply(_Int8Matrix(layer), _rounded(layer, x, (-1,)))


def int8_einsum(layer: Any, x: Node, linear: Linear, fan_in: int) -> Node:
    """An EinsumDense layer of the mode "int8", before its activation.

    Args:
        layer: The layer.
        x: Its input.
        linear: Its einsum.
        fan_in: The number of terms that one output sums.
    """
    axes = graph.rounded_axes(layer)
    return apply(_Int8Kernel(layer, linear, fan_in), _rounded(layer, x, axes))


def _rounded(layer: Any, x: Node, axes: tuple[int, ...]) -> Node:
    """The input of a layer as the layer rounds it, with one step for all entries of some axes."""
    if getattr(layer, "lora_enabled", False):
        raise NotImplementedError(
            "adds its LoRA update in float to integer products; merge the update before quantizing."
        )
    quantizer = graph.input_quantizer(layer)
    return x if quantizer is None else apply(RowQuantized(*quantizer, axes), x)


def _requantize(layer: Any, x: Node) -> Node:
    if layer.multiplier != 1:
        x = building.scale(x, np.asarray(layer.multiplier))
    return building.curve(relaxations.Staircase(layer.limits, layer.radius, layer.rounded), x)


register_rule(layers.Requantize, _requantize)
