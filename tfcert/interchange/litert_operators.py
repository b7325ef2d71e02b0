"""LiteRT's integer operators as Keras layers that compute in steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.interchange.litert_values import SLACK, Call, Value, rounding_radius, weighted

__all__ = ["FOLDED", "OPERATORS"]

Operator = Callable[[Call], Value]

# By the operator's name.
OPERATORS: dict[str, Operator] = {}


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def decorate(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return decorate


# From floats to integers, and back.


@_operator("QUANTIZE")
def _quantize(call: Call) -> Value:
    operand = call.operands[0]
    if isinstance(operand, Value) and operand.grid is None:
        return call.rescaled(operand.tensor, 1.0 / call.target().scale, 0.5 + SLACK)
    return _rescale(call)


@_operator("DEQUANTIZE")
def _dequantize(call: Call) -> Value:
    value = call.value()
    return Value(keras.layers.Rescaling(call.grid().scale)(value.tensor), None)


# Sums of products.


def _product(call: Call, layer: keras.layers.Layer, x: Any, kernel: np.ndarray, axis: int) -> Value:
    """A layer with a kernel whose last axis, or last two, are of the outputs.

    Args:
        call: The call.
        layer: The layer, with a bias.
        x: What the layer takes.
        kernel: The layer's kernel.
        axis: The axis of the outputs in the file.
    """
    stored, scales = call.kernel(axis)
    count = stored.shape[axis]
    bias = call.bias(count)
    factor = call.grid().scale * scales / call.target().scale
    lost = call.check_sums(kernel.reshape(-1, count), bias, factor)
    tensor = weighted(layer, x, kernel.astype(call.dtype), bias.astype(call.dtype))
    return call.rescaled(tensor, factor, rounding_radius(float(factor.max())), lost)


@_operator("FULLY_CONNECTED")
def _fully_connected(call: Call) -> Value:
    value, (kernel, _) = call.value(), call.kernel(0)
    if call.option("weightsFormat", 0):
        raise NotImplementedError("its weights are shuffled.")
    units, size = kernel.shape
    x, keep = value.tensor, bool(call.option("keepNumDims", False))
    if not keep and math.prod(value.shape) == size:
        x = x if value.shape == (size,) else keras.layers.Reshape((size,))(x)
    elif not keep or value.shape[-1] != size:
        raise NotImplementedError(f"it takes values of shape {value.shape} as rows of {size}.")
    return _product(call, keras.layers.Dense(units), x, kernel.T, 0)


@_operator("CONV_2D")
def _convolution(call: Call) -> Value:
    value, (kernel, _) = call.value(), call.kernel(0)
    filters, *window, channels = kernel.shape
    layer = keras.layers.Conv2D(
        filters, window, groups=value.shape[-1] // channels, **_window(call), **_dilations(call)
    )
    return _product(call, layer, value.tensor, kernel.transpose(1, 2, 3, 0), 0)


@_operator("DEPTHWISE_CONV_2D")
def _depthwise(call: Call) -> Value:
    value, (kernel, _) = call.value(), call.kernel(3)
    _, *window, filters = kernel.shape
    channels = value.shape[-1]
    layer = keras.layers.DepthwiseConv2D(
        window, depth_multiplier=filters // channels, **_window(call), **_dilations(call)
    )
    if len(set(layer.strides)) != 1:
        raise NotImplementedError("strides that differ are not supported.")
    shape = (*window, channels, filters // channels)
    return _product(call, layer, value.tensor, kernel.reshape(shape), 3)


def _window(call: Call) -> dict[str, Any]:
    return {
        "strides": (call.option("strideH"), call.option("strideW")),
        "padding": {0: "same", 1: "valid"}[call.option("padding")],
        "data_format": "channels_last",
    }


def _dilations(call: Call) -> dict[str, Any]:
    return {"dilation_rate": (call.option("dilationHFactor", 1), call.option("dilationWFactor", 1))}


# Poolings and means.


def _pool(call: Call, kind: Any) -> Any:
    call.expect_same_grid(0)
    size = (call.option("filterHeight"), call.option("filterWidth"))
    return kind(size, **_window(call))(call.value().tensor)


@_operator("MAX_POOL_2D")
def _max_pool(call: Call) -> Value:
    return call.clipped(_pool(call, keras.layers.MaxPooling2D))


@_operator("AVERAGE_POOL_2D")
def _average_pool(call: Call) -> Value:
    # Kernels divide the sum of the integers, and round to the nearest one.
    return call.rescaled(_pool(call, keras.layers.AveragePooling2D), 1.0, 0.5 + SLACK)


@_operator("MEAN")
def _mean(call: Call) -> Value:
    value, rank = call.value(), len(call.value().shape) + 1
    axes = sorted({axis % rank for axis in call.integers(1)})
    if 0 in axes:
        raise NotImplementedError("a mean over the batch axis is not supported.")
    factor = call.grid().scale / call.target().scale
    # One kernel cuts the mean off, toward the stored 0. Another one rounds after it has added half
    # a step. A third one, for a new scale, rounds the zero point first, and then the mean.
    radius = 1.0 + SLACK
    if call.grid() != call.target():
        count = math.prod(value.shape[axis - 1] for axis in axes)
        radius = 0.5 + rounding_radius(factor / count)
    keep = bool(call.option("keepDims", False))
    return call.rescaled(ops.mean(value.tensor, axis=axes, keepdims=keep), factor, radius)


# Arithmetic.


def _operand(call: Call, index: int, factor: float) -> Any:
    """An operand times a factor: a tensor, or a constant that lines up with it."""
    operand = call.operands[index]
    if isinstance(operand, Value):
        tensor = call.value(index).tensor
        return tensor if factor == 1 else keras.layers.Rescaling(factor)(tensor)
    grid, array = call.grid(index), call.constant(index).array
    assert array is not None
    other = call.value(1 - index).shape
    shape = array.shape[1:] if array.ndim > len(other) else array.shape
    if array.size != math.prod(shape) or np.broadcast_shapes(shape, other) != other:
        raise NotImplementedError(
            f"a constant of shape {array.shape} would enlarge a value of shape {other}."
        )
    steps = (array.astype("int64") - grid.zero_point) * factor
    return steps.reshape((1,) * (len(other) + 1 - len(shape)) + shape).astype(call.dtype)


def _combined(call: Call, function: Callable[[Any, Any], Any], factors: list[float]) -> Any:
    shapes = {operand.shape for operand in call.operands if isinstance(operand, Value)}
    if len(shapes) != 1:
        raise NotImplementedError(f"values of the shapes {sorted(shapes)} are not supported.")
    return function(*(_operand(call, index, factor) for index, factor in enumerate(factors)))


def _sum(call: Call, function: Callable[[Any, Any], Any]) -> Value:
    factors = [call.grid(index).scale / call.target().scale for index in (0, 1)]
    # Kernels scale both operands first, to fixed-point numbers with 20 bits behind the point: at
    # most 255 (2^-20 + 2^-22) of the larger factor.
    radius = 0.5 + SLACK + max(factors) * 2.0**-11
    return call.rescaled(_combined(call, function, factors), 1.0, radius)


OPERATORS["ADD"] = functools.partial(_sum, function=ops.add)
OPERATORS["SUB"] = functools.partial(_sum, function=ops.subtract)


@_operator("MUL")
def _multiply(call: Call) -> Value:
    factor = call.grid(0).scale * call.grid(1).scale / call.target().scale
    product = _combined(call, ops.multiply, [1.0, 1.0])
    return call.rescaled(product, factor, rounding_radius(factor))


# Functions of every entry.

# Some kernels of single entries have factors of 8 bits behind the point: they are off by 1/512 of
# up to 255 steps, before the rounding.
_EIGHT_BITS = 1.0 + SLACK


def _rescale(call: Call) -> Value:
    """The same numbers on another grid, clipped."""
    factor = call.grid().scale / call.target().scale
    tensor = call.value().tensor
    if factor != 1:
        return call.rescaled(tensor, factor, _EIGHT_BITS)
    if call.limits()[0] <= call.grid().limits[0] and call.grid().limits[1] <= call.limits()[1]:
        return Value(tensor, call.target())
    return Value(ops.clip(tensor, *map(float, call.limits())), call.target())


for _name in ("RELU", "RELU6", "RELU_N1_TO_1"):
    OPERATORS[_name] = _rescale


@_operator("LEAKY_RELU")
def _leaky_relu(call: Call) -> Value:
    slope = float(call.option("alpha"))
    if not 0 <= slope <= 1:
        raise NotImplementedError(f"only alpha between 0 and 1 is supported. Received: {slope}.")
    layer = keras.layers.LeakyReLU(negative_slope=slope)
    factor = call.grid().scale / call.target().scale
    return call.rescaled(layer(call.value().tensor), factor, _EIGHT_BITS)


# Kernels of smooth functions look up a table of the nearest integers, or compute with 31 bits of
# fixed point: beside the rounding they are off by far less than half a step.


def _smooth(call: Call, function: Callable[[Any], Any], steps: int, zero_point: int) -> Value:
    target, factor = call.target(), call.grid().scale * float(call.option("beta", 1.0) or 1.0)
    if (target.scale, target.zero_point) != (1.0 / steps, zero_point):
        raise ValueError(
            f"its result must have the scale 1/{steps} and the zero point {zero_point}."
        )
    x = keras.layers.Rescaling(factor)(call.value().tensor)
    return call.rescaled(function(x), float(steps), 1.0)


@_operator("LOGISTIC")
def _logistic(call: Call) -> Value:
    return _smooth(call, keras.layers.Activation("sigmoid"), 256, -128)


@_operator("TANH")
def _tanh(call: Call) -> Value:
    return _smooth(call, keras.layers.Activation("tanh"), 128, 0)


@_operator("SOFTMAX")
def _softmax(call: Call) -> Value:
    classes = call.value().shape[-1]
    if classes > 1000:  # Every class may add 3e-4 steps to the sum of the others.
        raise NotImplementedError(f"a softmax of {classes} classes is not supported, but of 1000.")
    return _smooth(call, keras.layers.Softmax(), 256, -128)


# Shapes.


def _reshaped(call: Call, shape: list[int]) -> Value:
    """The value in a shape with the batch axis."""
    call.expect_same_grid(0)
    value = call.value()
    size = math.prod(value.shape)
    if -1 in shape:
        rest = math.prod(n for n in shape if n != -1)
        shape = [size // rest if n == -1 and rest else n for n in shape]
    if not shape or shape[0] != 1 or math.prod(shape) != size:
        raise NotImplementedError(
            f"it reshapes one input of shape {value.shape} to {shape}, which must begin with 1."
        )
    return Value(keras.layers.Reshape(shape[1:])(value.tensor), value.grid)


@_operator("RESHAPE")
def _reshape(call: Call) -> Value:
    given = call.option("newShape")
    return _reshaped(call, call.integers(1) if len(call.operands) > 1 else [int(n) for n in given])


@_operator("SQUEEZE")
def _squeeze(call: Call) -> Value:
    shape = [1, *call.value().shape]
    dropped = {int(axis) % len(shape) for axis in call.option("squeezeDims")}
    return _reshaped(call, [n for axis, n in enumerate(shape) if axis not in dropped])


@_operator("EXPAND_DIMS")
def _expand_dims(call: Call) -> Value:
    shape = [1, *call.value().shape]
    (axis,) = call.integers(1)
    shape.insert(axis % (len(shape) + 1), 1)
    return _reshaped(call, shape)


@_operator("PAD")
def _pad(call: Call) -> Value:
    call.expect_same_grid(0)
    before = call.integers(1)
    pairs = list(zip(before[::2], before[1::2], strict=True))
    value = call.value()
    if len(value.shape) != 3 or len(pairs) != 4 or any(pairs[0]) or any(pairs[3]):
        raise NotImplementedError("only images are padded, along height and width.")
    return Value(keras.layers.ZeroPadding2D(tuple(pairs[1:3]))(value.tensor), value.grid)


@_operator("CONCATENATION")
def _concatenation(call: Call) -> Value:
    call.expect_same_grid(*range(len(call.operands)))
    values = [call.value(index).tensor for index in range(len(call.operands))]
    axis = int(call.option("axis")) % len(values[0].shape)
    if axis == 0:
        raise NotImplementedError("joining along the batch axis is not supported.")
    return call.clipped(keras.layers.Concatenate(axis=axis)(values))


# What is computed while the network is read: shapes, for a batch of one.


def _shape(call: Call) -> np.ndarray:
    operand = call.operands[0]
    return np.array((1, *operand.shape) if isinstance(operand, Value) else operand.shape, "int64")


def _slice(call: Call) -> np.ndarray:
    array = np.array(call.integers(0))
    begin, end, stride = (call.integers(index)[0] for index in (1, 2, 3))
    if call.option("ellipsisMask") or call.option("newAxisMask"):
        raise NotImplementedError("only plain slices of shapes are supported.")
    if call.option("shrinkAxisMask"):
        return array[begin]
    start = None if call.option("beginMask") else begin
    return array[start : None if call.option("endMask") else end : stride]


def _pack(call: Call) -> np.ndarray:
    return np.array([call.integers(index)[0] for index in range(len(call.operands))])


FOLDED: dict[str, Callable[[Call], np.ndarray]] = {
    "PACK": _pack,
    "SHAPE": _shape,
    "STRIDED_SLICE": _slice,
}
