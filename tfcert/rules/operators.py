"""Rules of ``keras.ops`` calls on Keras tensors: ``a + b``, ``x[:, 1:]``, ``ops.maximum`` ...

Keras keeps the classes of these operations private, so they are registered by name. Arguments
that are not tensors are stored partly in the operation and partly in the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import relaxations
from tfcert.rules import activations, building, merging
from tfcert.rules.linear import Kernel, summed_terms
from tfcert.rules.linear_maps import Linear
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule

__all__: list[str] = []


def _operator(name: str) -> Callable[[Callable], Callable]:
    def decorate(rule: Callable) -> Callable:
        register_rule(f"keras.ops.{name}", rule)
        return rule

    return decorate


# Arithmetic.


def _two(rule: Callable[[Any, Any], Node]) -> Callable[[Any, Any, Any], Node]:
    """Operators line up axes from the last one: samples meet samples where ranks are equal."""

    def checked(op: Any, x1: Any, x2: Any) -> Node:
        if isinstance(x1, Node) and isinstance(x2, Node) and len(x1.shape) != len(x2.shape):
            raise NotImplementedError(
                f"it combines values of the shapes (batch, {_text(x1)}) and (batch, {_text(x2)}), "
                "whose axes are lined up from the last one, so that samples of the batch are "
                "mixed. Insert axes with keras.ops.reshape first."
            )
        return rule(x1, x2)

    return checked


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, Node | keras.Variable) else np.shape(x)


def _text(x: Node) -> str:
    return ", ".join(map(str, x.shape))


def _add(x1: Any, x2: Any) -> Node:
    if isinstance(x1, Node):
        building.check_sum(x1.shape, _shape(x2))
    return building.add(x1, x2)


register_rule("keras.ops.Add", _two(_add))
register_rule("keras.ops.Subtract", _two(building.subtract))
register_rule("keras.ops.Multiply", _two(building.multiply))
register_rule("keras.ops.Negative", lambda op, x: building.scale(x, -1.0))
register_rule("keras.ops.Maximum", _two(lambda x1, x2: _limit(x1, x2, building.maximum)))
register_rule("keras.ops.Minimum", _two(lambda x1, x2: _limit(x1, x2, building.minimum)))


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


def _divide(x1: Any, x2: Any) -> Node:
    if not isinstance(x2, Node):
        return building.scale(x1, 1.0 / building.constant(x2))
    inverse = building.curve(relaxations.CURVES["reciprocal"], x2)
    return building.multiply(x1, inverse)


register_rule("keras.ops.Divide", _two(_divide))
register_rule("keras.ops.TrueDivide", _two(_divide))


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
    if isinstance(x1, Node) and isinstance(x2, Node):
        return building.matmul(x1, x2)
    if isinstance(x1, Node) and len(_shape(x2)) == 2:
        return building.dense(x1, x2)
    if isinstance(x2, Node) and len(_shape(x1)) == 2 and len(x2.shape) > 1:
        return _kernel("ij,...jk->...ik", x2, _weight(x1), constant_first=True)
    raise NotImplementedError(
        "matmul has a rule for a bounded value and a constant matrix, and for two bounded values. "
        "For other constants use einsum."
    )


@_operator("Einsum")
def _einsum(op: Any, *operands: Any) -> Node:
    nodes = [i for i, operand in enumerate(operands) if isinstance(operand, Node)]
    if len(operands) != 2:
        raise NotImplementedError("einsum has a rule for two values, at least one of them bounded.")
    if len(nodes) == 2:
        return building.einsum(op.subscripts, *operands)
    place = nodes[0]
    kernel = _weight(operands[1 - place])
    inputs, output = op.subscripts.replace(" ", "").split("->")
    terms = inputs.split(",")
    batch = terms[place][0]
    if output[:1] != batch or batch in terms[1 - place]:
        raise NotImplementedError(f"einsum {op.subscripts!r} moves or sums the batch axis.")
    return _kernel(op.subscripts, operands[place], kernel, constant_first=place == 1)


def _weight(value: Any) -> Any:
    """A variable, which is read anew at every call, or a constant."""
    return value if isinstance(value, keras.Variable) else building.constant(value)


def _kernel(subscripts: str, x: Node, kernel: Any, *, constant_first: bool) -> Node:
    """The einsum of a node and a constant."""

    def ordered(value: Any, weights: Any) -> tuple[Any, Any]:
        return (weights, value) if constant_first else (value, weights)

    def linear(value: Any, weights: Any) -> Any:
        return ops.einsum(subscripts, *ordered(value, weights))

    fan_in = summed_terms(subscripts, *ordered((1, *x.shape), kernel.shape))
    return apply(Kernel(Linear(linear), kernel, fan_in=fan_in), x)


# Scalar functions.

_UNARY = {
    "Absolute": "abs", "Exp": "exponential", "Expm1": "expm1", "Log": "log",
    "Log1p": "log1p", "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Reciprocal": "reciprocal",
    "Square": "square", "Tanh": "tanh", "Arctan": "arctan", "Erf": "erf", "Sigmoid": "sigmoid",
    "Relu": "relu", "Relu6": "relu6", "Softplus": "softplus", "Softsign": "softsign",
    "Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid",
    "LogSigmoid": "log_sigmoid", "Selu": "selu", "HardTanh": "hard_tanh",
    "TanhShrink": "tanh_shrink", "SparsePlus": "sparse_plus", "SparseSigmoid": "sparse_sigmoid",
}  # fmt: skip
for _name, _curve in _UNARY.items():
    register_rule(
        f"keras.ops.{_name}",
        lambda op, x, _curve=_curve: building.curve(relaxations.CURVES[_curve], x),
    )

_FACTORIES: dict[str, tuple[Callable[..., relaxations.Curve], tuple[str, ...]]] = {
    "LeakyRelu": (activations.leaky_relu, ("negative_slope",)),
    "Elu": (relaxations.elu, ("alpha",)),
    "Celu": (relaxations.celu, ("alpha",)),
    "Gelu": (activations.gelu, ("approximate",)),
    "SoftShrink": (relaxations.soft_shrink, ("threshold",)),
    "HardShrink": (relaxations.hard_shrink, ("threshold",)),
    "Threshold": (relaxations.threshold, ("threshold", "default_value")),
    "Squareplus": (relaxations.squareplus, ("b",)),
    "ReLU": (activations.relu, ("negative_slope", "max_value", "threshold")),
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


register_rule("keras.ops.Softmax", lambda op, x: building.softmax(x, _axes(op.axis, x)))
register_rule("keras.ops.LogSoftmax", lambda op, x: building.log_softmax(x, _axes(op.axis, x)))


# Sums and extrema over axes.


def _axes(axis: Any, x: Node, more: int = 0) -> list[int]:
    """Axes counted from the first one, in a value with ``more`` axes than x."""
    rank = len(x.shape) + 1 + more
    if axis is None:
        raise NotImplementedError("without an axis it mixes the samples of a batch.")
    axes = [a % rank for a in ([axis] if isinstance(axis, int) else axis)]
    if 0 in axes:
        raise NotImplementedError(f"axis={axis} is the batch axis here: it mixes samples.")
    return axes


def _reduction(function: Callable) -> Callable[[Any, Node], Node]:
    def rule(op: Any, x: Node) -> Node:
        axes = _axes(op.axis, x)
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
    result = building.reduce_max(x, _axes(op.axis, x), keepdims=bool(op.keepdims))
    return result if op.initial is None else _limit(result, op.initial, building.maximum)


@_operator("Min")
def _min(op: Any, x: Node) -> Node:
    negative = building.reduce_max(building.scale(x, -1.0), _axes(op.axis, x), bool(op.keepdims))
    result = building.scale(negative, -1.0)
    return result if op.initial is None else _limit(result, op.initial, building.minimum)


# Moving values about.


@_operator("GetItem")
def _get_item(op: Any, x: Node, key: Any) -> Node:
    parts = tuple(key) if isinstance(key, tuple | list) else (key,)
    axes = sum(part is not None and part is not Ellipsis for part in parts)
    first = parts[0]
    # The ellipsis may stand for no axis at all.
    whole = first == slice(None) if isinstance(first, slice) else first is Ellipsis
    if not whole or (first is Ellipsis and axes > len(x.shape)):
        raise NotImplementedError(
            f"indexing {key} picks samples of the batch. Start the index with ':'."
        )
    return building.rearrange(lambda t: t[parts], x)


@_operator("Reshape")
def _reshape(op: Any, x: Node) -> Node:
    first, *rest = op.newshape
    size, known = math.prod(x.shape), math.prod(n for n in rest if n != -1)
    fits = size == known if -1 not in rest else known > 0 and size % known == 0
    if first not in (-1, None) or not fits:
        raise NotImplementedError(
            f"reshape of (batch, {_text(x)}) to {tuple(op.newshape)} moves entries between "
            "samples. The first size must be -1, and the others hold one sample."
        )
    return building.reshape(x, [size // known if n == -1 else n for n in rest])


@_operator("Transpose")
def _transpose(op: Any, x: Node) -> Node:
    if op.axes is None or op.axes[0] != 0:
        raise NotImplementedError(f"transpose with axes={op.axes} moves the batch axis.")
    return building.rearrange(lambda t: ops.transpose(t, op.axes), x)


def _along(name: str, function: Callable[[Any, Any, Any], Any], adds: bool = False) -> None:
    """Registers an operation that moves values along ``op.axis``, or adds these axes."""

    def rule(op: Any, x: Node) -> Node:
        more = 0 if not adds else 1 if isinstance(op.axis, int) else len(op.axis)
        axes = _axes(op.axis, x, more)
        axis = axes[0] if isinstance(op.axis, int) else tuple(axes)
        return building.rearrange(lambda t: function(op, t, axis), x)

    register_rule(f"keras.ops.{name}", rule)


_along("Squeeze", lambda op, t, axis: ops.squeeze(t, axis))
_along("ExpandDims", lambda op, t, axis: ops.expand_dims(t, axis), adds=True)
_along("Flip", lambda op, t, axis: ops.flip(t, axis))
_along("Roll", lambda op, t, axis: ops.roll(t, op.shift, axis))
_along("Repeat", lambda op, t, axis: ops.repeat(t, op.repeats, axis))


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
    if not all(isinstance(x, Node) for x in xs):
        raise NotImplementedError("stack has a rule for bounded values only.")
    (axis,) = _axes(op.axis, xs[0], more=1)
    return building.rearrange(lambda *ts: ops.stack(ts, axis=axis), *xs)


@_operator("Split")
def _split(op: Any, x: Node) -> list[Node]:
    (axis,) = _axes(op.axis, x)
    parts = ops.split(np.zeros((1, *x.shape)), op.indices_or_sections, axis=axis)
    return [
        building.rearrange(lambda t, i=i: ops.split(t, op.indices_or_sections, axis=axis)[i], x)
        for i in range(len(parts))
    ]


register_rule("keras.ops.StopGradient", lambda op, x: x)


@_operator("Cast")
def _cast(op: Any, x: Node) -> Node:
    raise NotImplementedError(
        f"cast to {op.dtype} changes the arithmetic inside the model. Build the model in one dtype."
    )
