"""Rules of layers with a kernel: dense layers and all convolutions."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcert import backend, graph
from tfcert.rules import building
from tfcert.rules.linear import Kernel, Matrix, summed_terms
from tfcert.rules.linear_maps import Convolution, Linear
from tfcert.rules.primitives import Node
from tfcert.rules.quantized import int8_dense, int8_einsum
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.windows import Sliding
from tfcert.types import Tensor

__all__: list[str] = []


def _finish(layer: Any, node: Node) -> Node:
    return building.activation(layer.activation, node)


def _plain_kernel(layer: Any) -> None:
    """Refuses layers whose stored kernel is not the one that they multiply by."""
    if getattr(layer, "quantization_mode", None) is not None:
        raise NotImplementedError(
            f"its weights are quantized ({layer.quantization_mode}). Bounds would be those of "
            "another network; use the model before quantization, or int8, whose Dense and "
            "EinsumDense layers are bounded."
        )


def _dense(layer: Any, x: Node) -> Node:
    if getattr(layer, "quantization_mode", None) == "int8":
        return _finish(layer, int8_dense(layer, x))
    _plain_kernel(layer)
    # layer.kernel, not layer._kernel: it includes a LoRA update where one is enabled.
    fan_in = int(layer.kernel.shape[0])
    return _finish(layer, apply(_LayerMatrix(layer, fan_in), x))


def _no_update(layer: Any) -> None:
    """Refuses kernels that an execution adds up from others, each time with its own rounding."""
    if getattr(layer, "lora_enabled", False):
        raise NotImplementedError(
            "adds its LoRA update to the kernel in every run, for which float_safe has no rounding "
            "analysis. Write layer.kernel into a layer without LoRA."
        )


class _LayerMatrix(Matrix):
    """A matrix that is read from its layer at every evaluation (LoRA adds to the stored one)."""

    def __init__(self, layer: Any, fan_in: int):
        super().__init__(None, layer.bias, fan_in=fan_in)
        self.layer = layer

    def parameters(self, dtype: str) -> dict[str, Tensor]:
        self.kernel = self.layer.kernel
        return super().parameters(dtype)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        _no_update(self.layer)
        return super().rounding(p, unit, *magnitudes)


class _LayerKernel(Kernel):
    """A kernel that is read from its layer at every evaluation."""

    def __init__(self, layer: Any, linear: Any, *, fan_in: int, windowed: Any = None):
        super().__init__(linear, None, layer.bias, fan_in=fan_in, windowed=windowed)
        self.layer = layer

    def parameters(self, dtype: str) -> dict[str, Tensor]:
        self.kernel = self.layer.kernel
        return super().parameters(dtype)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        _no_update(self.layer)
        return super().rounding(p, unit, *magnitudes)


def _einsum_dense(layer: Any, x: Node) -> Node:
    whole = getattr(layer, "quantization_mode", None) == "int8"
    if not whole:
        _plain_kernel(layer)
    left, output = layer.equation.replace(" ", "").split("->")
    inputs, weights = left.split(",")
    if inputs[0] != output[0] or inputs[0] in weights.replace(".", ""):
        raise NotImplementedError(f"its equation {layer.equation!r} moves or sums the batch axis.")
    kernel = graph.int8_parts(layer)[0] if whole else layer.kernel
    fan_in = summed_terms(layer.equation, (1, *x.shape), kernel.shape)

    def linear(value: Tensor, kernel: Tensor) -> Tensor:
        return ops.einsum(layer.equation, value, kernel)

    if whole:
        result = int8_einsum(layer, x, Linear(linear), fan_in)
    else:
        result = apply(_LayerKernel(layer, Linear(linear), fan_in=fan_in), x)
    if layer.bias is not None:
        building.check_sum(result.shape, layer.bias.shape)
    return _finish(layer, result)


def _before(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: str
) -> tuple[int, ...]:
    """Zeros that padding puts before the first entry of each spatial axis."""
    if padding == "valid":
        return (0,) * len(size)
    if padding == "causal":
        return tuple(k - 1 for k in kernel)
    pads = []
    for n, k, s in zip(size, kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append(total // 2)
    return tuple(pads)


def _conv(layer: Any, x: Node) -> Node:
    _plain_kernel(layer)
    if layer.data_format == "channels_first":
        return _channels_first(layer, x, _conv)
    dilated = tuple(
        (k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    )

    full = int(layer.kernel.shape[-2]) == x.shape[-1]  # Else: several groups of channels.
    stepping = max(layer.strides) > 1 and dilated == tuple(layer.kernel_size)
    before = _before(x.shape[:-1], dilated, layer.strides, layer.padding)
    linear = Convolution(
        tuple(layer.strides),
        layer.padding,
        tuple(layer.dilation_rate),
        before,
        in_phases=full and stepping and backend.phases_pay(x.shape[-1]),
    )
    sliding = Sliding(
        linear.unpadded(),
        dilated,
        tuple(layer.strides),
        before,
        full=full,
        taps=math.prod(layer.kernel_size),
    )
    fan_in = math.prod(int(s) for s in layer.kernel.shape[:-1])
    primitive = _LayerKernel(layer, linear, fan_in=fan_in, windowed=sliding)
    return _finish(layer, apply(primitive, x))


def _depthwise_node(layer: Any, x: Node, kernel: Any, bias: Any) -> Node:
    dilated = tuple(
        (k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    )

    def linear(value: Tensor, weights: Tensor, padding: str = layer.padding) -> Tensor:
        return ops.depthwise_conv(
            value,
            weights,
            strides=tuple(layer.strides),
            padding=padding,
            dilation_rate=layer.dilation_rate,
            data_format="channels_last",
        )

    sliding = Sliding(
        Linear(lambda value, weights: linear(value, weights, "valid")),
        dilated,
        layer.strides,
        _before(x.shape[:-1], dilated, layer.strides, layer.padding),
    )
    fan_in = math.prod(layer.kernel_size)
    return apply(Kernel(Linear(linear), kernel, bias, fan_in=fan_in, windowed=sliding), x)


def _depthwise(layer: Any, x: Node) -> Node:
    if layer.data_format == "channels_first":
        return _channels_first(layer, x, _depthwise)
    return _finish(layer, _depthwise_node(layer, x, layer.kernel, layer.bias))


def _separable(layer: Any, x: Node) -> Node:
    if layer.data_format == "channels_first":
        return _channels_first(layer, x, _separable)
    middle = _depthwise_node(layer, x, layer.depthwise_kernel, None)
    rank = len(layer.kernel_size)
    ones = (1,) * rank
    linear = Convolution(ones, "valid", ones, (0,) * rank)
    sliding = Sliding(linear, ones, ones, (0,) * rank, full=True, taps=1)
    fan_in = int(layer.pointwise_kernel.shape[-2])
    primitive = Kernel(linear, layer.pointwise_kernel, layer.bias, fan_in=fan_in, windowed=sliding)
    return _finish(layer, apply(primitive, middle))


def _conv_transpose(layer: Any, x: Node) -> Node:
    if layer.data_format == "channels_first":
        return _channels_first(layer, x, _conv_transpose)

    def linear(value: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv_transpose(
            value,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
            data_format="channels_last",
        )

    fan_in = math.prod(layer.kernel_size) * int(layer.kernel.shape[-1])
    return _finish(layer, apply(Kernel(Linear(linear), layer.kernel, layer.bias, fan_in=fan_in), x))


def _channels_first(layer: Any, x: Node, rule: Any) -> Node:
    """The rule on a transposed value: convolutions on a CPU want channels last anyway."""
    rank = len(x.shape) - 1
    last = [0, *range(2, rank + 2), 1]
    first = [0, rank + 1, *range(1, rank + 1)]
    moved = building.rearrange(lambda t: ops.transpose(t, last), x)
    activation = layer.activation

    class _AsLast:
        """The layer with its maps laid out the other way."""

        data_format = "channels_last"

        def __getattr__(self, name: str) -> Any:
            return None if name == "activation" else getattr(layer, name)

    result = rule(_AsLast(), moved)
    back = building.rearrange(lambda t: ops.transpose(t, first), result)
    if layer.use_bias:
        building.check_sum(back.shape, (back.shape[0],) + (1,) * rank)
    return building.activation(activation, back)


register_rule(keras.layers.Dense, _dense)
register_rule(keras.layers.EinsumDense, _einsum_dense)
for _kind in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    register_rule(_kind, _conv)
for _kind in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    register_rule(_kind, _depthwise)
for _kind in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
    register_rule(_kind, _separable)
for _kind in (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
):
    register_rule(_kind, _conv_transpose)
