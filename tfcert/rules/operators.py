"""Rules of ``keras.ops`` calls on Keras tensors: ``a + b``, ``x[:, 1:]``, ``ops.maximum`` ...

Keras keeps the classes of these operations private, so they are registered by name. Arguments
that are not tensors are stored partly in the operation and partly in the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcert import relaxations
from tfcert.rules import building, merging
from tfcert.rules.linear import Kernel
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule

__all__: list[str] = []


def _operator(name: str) -> Callable[[Callable], Callable]:
    def decorate(rule: Callable) -> Callable:
        register_rule(f"keras.ops.{name}", rule)
        return rule

    return decorate


# Arithmetic.

register_rule("keras.ops.Add", lambda op, x1, x2: building.add(x1, x2))
register_rule("keras.ops.Subtract", lambda op, x1, x2: building.subtract(x1, x2))
register_rule("keras.ops.Multiply", lambda op, x1, x2: building.multiply(x1, x2))
register_rule("keras.ops.Negative", lambda op, x: building.scale(x, -1.0))
register_rule("keras.ops.Maximum", lambda op, x1, x2: _limit(x1, x2, building.maximum))
register_rule("keras.ops.Minimum", lambda op, x1, x2: _limit(x1, x2, building.minimum))


def _limit(x1: Any, x2: Any, general: Callable) -> Node:
    """``max(x, number)`` is a scalar curve; ``max`` of two nodes is not."""
    x, other = (x1, x2) if isinstance(x1, Node) else (x2, x1)
    if isinstance(other, Node) or np.size(other) != 1:
        return general([x1, x2])
    number = float(np.reshape(ops.convert_to_numpy(other), ()))
    upper = general is building.minimum
    # max(x, c) = relu(x - c) + c, min(x, c) = c - relu(c - x).
    sign = -1.0 if upper else 1.0
    moved = building.scale(x, sign, -sign * number)
    return building.scale(building.curve(relaxations.CURVES["relu"], moved), sign, number)


def _divide(op: Any, x1: Any, x2: Any) -> Node:
    if not isinstance(x2, Node):
        return building.scale(x1, 1.0 / np.asarray(ops.convert_to_numpy(x2), dtype="float64"))
    inverse = building.curve(relaxations.CURVES["reciprocal"], x2)
    return building.multiply(x1, inverse)


register_rule("keras.ops.Divide", _divide)
register_rule("keras.ops.TrueDivide", _divide)


@_operator("Power")
def _power(op: Any, x1: Any, x2: Any) -> Node:
    if isinstance(x2, Node) or np.size(x2) != 1:
        raise NotImplementedError("power has a rule for one constant exponent only.")
    exponent = float(np.reshape(ops.convert_to_numpy(x2), ()))
    if exponent == 1:
        return x1
    if exponent == 0.5:
        return building.curve(relaxations.CURVES["sqrt"], x1)
    if exponent == -1:
        return building.curve(relaxations.CURVES["reciprocal"], x1)
    if exponent != int(exponent) or exponent < 2:
        raise NotImplementedError(
            f"power has a rule for integer exponents from 2 on, 0.5 and -1. Received: {exponent}."
        )
    return building.curve(relaxations.power(int(exponent)), x1)


@_operator("Matmul")
def _matmul(op: Any, x1: Any, x2: Any) -> Node:
    if isinstance(x1, Node) and not isinstance(x2, Node) and len(np.shape(x2)) == 2:
        return building.dense(x1, x2)
    raise NotImplementedError(
        "matmul has a rule for a bounded value times a constant matrix. For a product of two "
        "bounded values use multiply and sum."
    )


@_operator("Einsum")
def _einsum(op: Any, *operands: Any) -> Node:
    nodes = [i for i, operand in enumerate(operands) if isinstance(operand, Node)]
    if len(nodes) != 1 or len(operands) != 2:
        raise NotImplementedError("einsum has a rule for one bounded value and one constant.")
    place = nodes[0]
    kernel = np.asarray(ops.convert_to_numpy(operands[1 - place]))

    def linear(x: Any, weights: Any) -> Any:
        return ops.einsum(op.subscripts, *((x, weights) if place == 0 else (weights, x)))

    return apply(Kernel(linear, kernel, fan_in=kernel.size), operands[place])


# Scalar functions.

_UNARY = {
    "Abs": "abs", "Absolute": "abs", "Exp": "exponential", "Expm1": "expm1", "Log": "log",
    "Log1p": "log1p", "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Reciprocal": "reciprocal",
    "Square": "square", "Tanh": "tanh", "Arctan": "arctan", "Erf": "erf", "Sigmoid": "sigmoid",
    "Relu": "relu", "Relu6": "relu6", "Softplus": "softplus", "Softsign": "softsign",
    "Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid",
    "LogSigmoid": "log_sigmoid", "Selu": "selu", "HardTanh": "hard_tanh",
    "TanhShrink": "tanh_shrink", "SparsePlus": "sparse_plus", "SparseSigmoid": "sparse_sigmoid",
    "Mish": "mish",
}  # fmt: skip
for _name, _curve in _UNARY.items():
    register_rule(
        f"keras.ops.{_name}",
        lambda op, x, _curve=_curve: building.curve(relaxations.CURVES[_curve], x),
    )

_FACTORIES: dict[str, tuple[Callable[..., relaxations.Curve], tuple[str, ...]]] = {
    "LeakyRelu": (relaxations.leaky_relu, ("negative_slope",)),
    "Elu": (relaxations.elu, ("alpha",)),
    "Celu": (relaxations.celu, ("alpha",)),
    "Gelu": (relaxations.gelu, ("approximate",)),
    "SoftShrink": (relaxations.soft_shrink, ("threshold",)),
    "HardShrink": (relaxations.hard_shrink, ("threshold",)),
    "Threshold": (relaxations.threshold, ("threshold", "default_value")),
    "Squareplus": (relaxations.squareplus, ("b",)),
    "ReLU": (relaxations.relu, ("negative_slope", "max_value", "threshold")),
}
for _name, (_factory, _fields) in _FACTORIES.items():
    register_rule(
        f"keras.ops.{_name}",
        lambda op, x, _factory=_factory, _fields=_fields: building.curve(
            _factory(*[getattr(op, field) for field in _fields]), x
        ),
    )


@_operator("Clip")
def _clip(op: Any, x: Node) -> Node:
    if np.size(op.x_min) != 1 or np.size(op.x_max) != 1:
        return building.minimum([building.maximum([x, op.x_min]), op.x_max])
    return building.curve(relaxations.clip(float(op.x_min), float(op.x_max)), x)


register_rule("keras.ops.Softmax", lambda op, x: building.softmax(x, op.axis))
register_rule("keras.ops.LogSoftmax", lambda op, x: building.log_softmax(x, op.axis))


# Sums and extrema over axes.


def _axes(op: Any, x: Node) -> list[int]:
    rank = len(x.shape) + 1
    axis = op.axis
    if axis is None:
        raise NotImplementedError("a reduction without axis mixes the samples of a batch.")
    axes = [a % rank for a in ([axis] if isinstance(axis, int) else axis)]
    if 0 in axes:
        raise NotImplementedError("a reduction over axis 0 mixes the samples of a batch.")
    return axes


def _reduction(function: Callable) -> Callable[[Any, Node], Node]:
    def rule(op: Any, x: Node) -> Node:
        axes = _axes(op, x)
        terms = math.prod(x.shape[a - 1] for a in axes)
        keepdims = bool(op.keepdims)
        return building.rearrange(
            lambda t: function(t, axis=tuple(axes), keepdims=keepdims), x, terms=terms
        )

    return rule


register_rule("keras.ops.Sum", _reduction(ops.sum))
register_rule("keras.ops.Mean", _reduction(ops.mean))


@_operator("Max")
def _max(op: Any, x: Node) -> Node:
    return building.reduce_max(x, _axes(op, x), keepdims=bool(op.keepdims))


@_operator("Min")
def _min(op: Any, x: Node) -> Node:
    negative = building.reduce_max(building.scale(x, -1.0), _axes(op, x), bool(op.keepdims))
    return building.scale(negative, -1.0)


# Moving values about.


@_operator("GetItem")
def _get_item(op: Any, x: Node, key: Any) -> Node:
    first = key[0] if isinstance(key, tuple) else key
    whole = first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    if not whole:
        raise NotImplementedError(
            f"indexing [{key}] picks samples of the batch. Start the index with ':'."
        )
    return building.rearrange(lambda t: t[key], x)


@_operator("Reshape")
def _reshape(op: Any, x: Node) -> Node:
    shape = tuple(op.newshape)[1:]
    return building.rearrange(lambda t: ops.reshape(t, (ops.shape(t)[0], *shape)), x)


def _moved(function: Callable[[Any, Any], Any]) -> Callable[..., Node]:
    return lambda op, x, *more: building.rearrange(lambda t: function(op, t), x)


def _transpose(op: Any, t: Any) -> Any:
    axes = op.axes
    if axes is None or axes[0] != 0:
        raise NotImplementedError(f"transpose with axes={axes} moves the batch axis.")
    return ops.transpose(t, axes)


register_rule("keras.ops.Transpose", _moved(_transpose))
register_rule("keras.ops.Squeeze", _moved(lambda op, t: ops.squeeze(t, _past_batch(op.axis))))
register_rule(
    "keras.ops.ExpandDims", _moved(lambda op, t: ops.expand_dims(t, _past_batch(op.axis)))
)
register_rule("keras.ops.Flip", _moved(lambda op, t: ops.flip(t, _past_batch(op.axis))))
register_rule("keras.ops.Roll", _moved(lambda op, t: ops.roll(t, op.shift, _past_batch(op.axis))))
register_rule(
    "keras.ops.Repeat", _moved(lambda op, t: ops.repeat(t, op.repeats, _past_batch(op.axis)))
)
register_rule("keras.ops.Flatten", _moved(lambda op, t: ops.reshape(t, (ops.shape(t)[0], -1))))


def _past_batch(axis: Any) -> Any:
    axes = [axis] if isinstance(axis, int) or axis is None else list(axis)
    if any(a is None or a == 0 for a in axes):
        raise NotImplementedError(f"axis={axis} touches the batch axis.")
    return axis


@_operator("Pad")
def _pad(op: Any, x: Node, constant_values: Any = None) -> Node:
    if op.mode != "constant" or (constant_values not in (None, 0)):
        raise NotImplementedError("pad has a rule for zeros only.")
    width = np.asarray(op.pad_width)
    if width.ndim != 2 or width[0].any():
        raise NotImplementedError(f"pad_width={op.pad_width} must name every axis and keep axis 0.")
    return building.rearrange(lambda t: ops.pad(t, op.pad_width), x)


@_operator("Concatenate")
def _concatenate(op: Any, xs: Sequence[Any]) -> Node:
    return merging.concatenate(xs, op.axis)


@_operator("Stack")
def _stack(op: Any, xs: Sequence[Any]) -> Node:
    nodes = [building.as_node(x) for x in xs]
    if op.axis == 0:
        raise NotImplementedError("stack along axis 0 moves the batch axis.")
    return building.rearrange(lambda *ts: ops.stack(ts, axis=op.axis), *nodes)


@_operator("Split")
def _split(op: Any, x: Node) -> list[Node]:
    axis = _past_batch(op.axis)
    parts = ops.split(np.zeros((1, *x.shape)), op.indices_or_sections, axis=axis)
    return [
        building.rearrange(lambda t, i=i: ops.split(t, op.indices_or_sections, axis=axis)[i], x)
        for i in range(len(parts))
    ]


register_rule("keras.ops.StopGradient", lambda op, x: x)
register_rule("keras.ops.Identity", lambda op, x: x)


@_operator("Cast")
def _cast(op: Any, x: Node) -> Node:
    raise NotImplementedError(
        f"cast to {op.dtype} changes the arithmetic inside the model. Build the model in one dtype."
    )
