"""ONNX operators that reduce or rearrange: as Keras layers and operations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert.interchange.onnx_values import Call, Value, ordered

__all__ = ["SHAPES"]

Operator = Callable[[Call], Value]

SHAPES: dict[str, Operator] = {}


def _operator(name: str) -> Callable[[Operator], Operator]:
    def decorate(function: Operator) -> Operator:
        SHAPES[name] = function
        return function

    return decorate


def _reduce(call: Call, function: Callable[..., Any]) -> Value:
    value = ordered(call.value())
    axes, keep = call.numbers("axes", 1), bool(call.setting("keepdims", 1))
    call.expect(noop_with_empty_axes=0)
    wanted = {value.axis(axis) for axis in axes or range(value.rank)}
    if 0 in wanted and not keep:
        raise NotImplementedError("the result would have no batch axis.")
    # Over the batch axis, of size one, there is nothing to reduce.
    return Value(function(value.tensor, axis=tuple(sorted(wanted - {0})), keepdims=keep))


for _name, _function in {
    "ReduceMean": ops.mean,
    "ReduceSum": ops.sum,
    "ReduceMax": ops.max,
}.items():
    SHAPES[_name] = functools.partial(_reduce, function=_function)


def _reshaped(call: Call, shape: tuple[int, ...]) -> Value:
    value = ordered(call.value())
    if shape == value.shape:
        return call.value()
    flat = len(shape) == 1
    return Value((keras.layers.Flatten() if flat else keras.layers.Reshape(shape))(value.tensor))


@_operator("Flatten")
def _flatten(call: Call) -> Value:
    value = call.value()
    axis = call.setting("axis", 1)
    axis = axis + value.rank if axis < 0 else axis
    if axis == 0 or math.prod(value.shape[: axis - 1]) != 1:
        raise NotImplementedError(f"with axis={axis} the result would have no batch axis.")
    return _reshaped(call, (math.prod(value.shape),))


@_operator("Reshape")
def _reshape(call: Call) -> Value:
    sizes, old = call.numbers("shape", 1), (1, *call.value().shape)
    if not sizes:
        raise ValueError("it lacks the new shape.")
    if not call.setting("allowzero", 0):
        sizes = [old[i] if size == 0 else size for i, size in enumerate(sizes)]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(old) // known if known else 0
    if math.prod(sizes) != math.prod(old) or min(sizes) < 1:
        raise ValueError(f"{old} cannot be given the shape {sizes}.")
    if sizes[0] != 1 or len(sizes) < 2:
        raise NotImplementedError(f"the result, of shape {sizes}, would have no batch axis.")
    return _reshaped(call, tuple(sizes[1:]))


@_operator("Squeeze")
def _squeeze(call: Call) -> Value:
    value, axes = call.value(), call.numbers("axes", 1)
    old = (1, *value.shape)
    gone = {i for i in range(value.rank) if old[i] == 1} if axes is None else set()
    gone |= {axis % value.rank for axis in axes or ()}
    if 0 in gone or any(old[i] != 1 for i in gone) or len(gone) == value.rank - 1:
        raise NotImplementedError(f"axes {sorted(gone)} of the shape {old} cannot be left out.")
    return _reshaped(call, tuple(size for i, size in enumerate(old) if i and i not in gone))


@_operator("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    value, axes = call.value(), call.numbers("axes", 1) or []
    rank = value.rank + len(axes)
    new = {axis % rank for axis in axes}
    if 0 in new:
        raise NotImplementedError("a new axis in front of the batch axis is not supported.")
    left = iter((1, *value.shape))
    return _reshaped(call, tuple(1 if i in new else next(left) for i in range(rank))[1:])


@_operator("Transpose")
def _transpose(call: Call) -> Value:
    value = ordered(call.value())
    order = call.setting("perm") or list(range(value.rank))[::-1]
    if order[0] != 0:
        raise NotImplementedError(f"the batch axis must stay the first. Received: perm={order}.")
    return Value(keras.layers.Permute(order[1:])(value.tensor))


@_operator("Concat")
def _concat(call: Call) -> Value:
    values = [call.value(i) for i in range(len(call.operands))]
    if len({value.last for value in values}) > 1:
        values = [ordered(value) for value in values]
    axis = values[0].axis(call.setting("axis"))
    if axis == 0:
        raise NotImplementedError("the batch axis cannot be lengthened.")
    tensors = [value.tensor for value in values]
    return Value(keras.layers.Concatenate(axis)(tensors), values[0].last)


@_operator("Slice")
def _slice(call: Call) -> Value:
    value = call.value()
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    index = [slice(None)] * value.rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place, size = value.axis(axis), (1, *value.shape)[axis % value.rank]
        if step < 1:
            raise NotImplementedError(f"steps must be positive. Received: steps={steps}.")
        part = slice(*slice(start, end).indices(size)[:2], step)
        if len(range(*part.indices(size))) == 0 or (place == 0 and part.start != 0):
            raise ValueError(f"nothing is left of axis {axis}.")
        if place:
            index[place] = part
    return Value(value.tensor[tuple(index)], value.last)


@_operator("Pad")
def _pad(call: Call) -> Value:
    call.expect(mode="constant")
    value = call.value()
    widths, fill = call.numbers("pads", 1), call.optional(2)
    number = call.setting("value", 0.0) if fill is None else float(fill.reshape(-1)[0])
    axes = call.numbers("axes", 3) or list(range(value.rank))
    if number != 0 or widths is None or min(widths) < 0 or len(widths) != 2 * len(axes):
        raise NotImplementedError(
            f"only padding with zeros is supported. Received: pads={widths}, value={number}."
        )
    pairs: list[tuple[int, ...]] = [(0, 0)] * value.rank
    for axis, *pair in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        pairs[value.axis(axis)] = tuple(pair)
    if pairs[0] != (0, 0):
        raise NotImplementedError("the batch axis cannot be padded.")
    return Value(ops.pad(value.tensor, pairs), value.last)
