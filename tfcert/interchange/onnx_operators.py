"""ONNX operators as Keras layers and operations: activations, arithmetic, products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.interchange.onnx_shapes import SHAPES
from tfcert.interchange.onnx_values import Call, Value, ordered, weighted
from tfcert.interchange.onnx_windows import WINDOWS

__all__ = ["OPERATORS"]

Operator = Callable[[Call], Value]

# By the operator's name.
OPERATORS: dict[str, Operator] = {**WINDOWS, **SHAPES}


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def decorate(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return decorate


# Functions of every entry.

_ACTIVATIONS = {
    "HardSwish": "hard_silu",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
_FUNCTIONS = {
    "Abs": ops.absolute,
    "Erf": ops.erf,
    "Exp": ops.exp,
    "Log": ops.log,
    "Neg": ops.negative,
    "Reciprocal": ops.reciprocal,
    "Sqrt": ops.sqrt,
}


def _map(call: Call, function: Callable[[Any], Any]) -> Value:
    value = call.value()
    return Value(function(value.tensor), value.last)


def _activation(call: Call, name: str) -> Value:
    return _map(call, keras.layers.ReLU() if name == "relu" else keras.layers.Activation(name))


for _name, _keras_name in _ACTIVATIONS.items():
    OPERATORS[_name] = functools.partial(_activation, name=_keras_name)
for _name, _function in _FUNCTIONS.items():
    OPERATORS[_name] = functools.partial(_map, function=_function)


@_operator("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    return _map(call, keras.layers.LeakyReLU(negative_slope=call.setting("alpha", 0.01)))


@_operator("Elu")
def _elu(call: Call) -> Value:
    return _map(call, keras.layers.ELU(alpha=call.setting("alpha", 1.0)))


@_operator("Selu")
def _selu(call: Call) -> Value:
    # Keras's own has fixed constants, which differ from the defaults here in the last digits.
    elu = keras.layers.ELU(alpha=call.setting("alpha", 1.67326319217681884765625))
    gamma = call.setting("gamma", 1.05070102214813232421875)
    return _map(call, lambda x: ops.multiply(elu(x), gamma))


@_operator("Celu")
def _celu(call: Call) -> Value:
    alpha = call.setting("alpha", 1.0)
    return _map(call, lambda x: ops.celu(x, alpha))


@_operator("Gelu")
def _gelu(call: Call) -> Value:
    approximate = call.setting("approximate", "none")
    return _map(call, lambda x: ops.gelu(x, approximate=approximate == "tanh"))


@_operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.setting("alpha", 0.2), call.setting("beta", 0.5)
    return _map(call, lambda x: ops.clip(ops.add(ops.multiply(x, alpha), beta), 0.0, 1.0))


@_operator("PRelu")
def _prelu(call: Call) -> Value:
    value = call.value()
    slope = _beside(call.constant(1), value, call)[0]
    slope = slope.reshape((1,) * (value.rank - 1 - slope.ndim) + slope.shape)
    sizes = value.tensor.shape[1:]
    shared = [i + 1 for i, (s, n) in enumerate(zip(slope.shape, sizes, strict=True)) if s < n]
    return _map(call, lambda x: weighted(keras.layers.PReLU(shared_axes=shared), x, slope))


@_operator("Clip")
def _clip(call: Call) -> Value:
    ends = []
    for name, index in (("min", 1), ("max", 2)):
        end = call.setting(name) if call.opset < 11 else call.optional(index)
        end = None if end is None else float(np.reshape(end, ()))
        # The largest floats stand for "no limit".
        ends.append(None if end is None or abs(end) > 3.4e38 else end)
    low, high = ends
    if low is not None and high is not None:
        return _map(call, lambda x: ops.clip(x, low, high))
    if low is not None:
        return _map(call, keras.layers.ReLU() if low == 0 else lambda x: ops.maximum(x, low))
    return _map(call, lambda x: x if high is None else ops.minimum(x, high))


def _normalized(call: Call, function: Callable[[Any, int], Any]) -> Value:
    value = call.value()
    axis = call.setting("axis", -1 if call.opset >= 13 else 1) % value.rank
    if axis == 0 or (call.opset < 13 and axis < value.rank - 1):
        raise NotImplementedError(f"axis={axis} of {value.rank} is not supported.")
    return Value(function(value.tensor, value.axis(axis)), value.last)


OPERATORS["Softmax"] = functools.partial(
    _normalized, function=lambda x, axis: keras.layers.Softmax(axis=axis)(x)
)
OPERATORS["LogSoftmax"] = functools.partial(
    _normalized, function=lambda x, axis: ops.log_softmax(x, axis=axis)
)


@_operator("Identity", "Dropout")
def _identity(call: Call) -> Value:
    for name in ("ratio", "seed"):
        call.setting(name)
    training = call.optional(2)
    if training is not None and training.any():
        raise NotImplementedError("training mode is not supported.")
    return call.value()


@_operator("Cast")
def _cast(call: Call) -> Value:
    import onnx

    wanted = call.setting("to")
    if wanted not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        name = onnx.TensorProto.DataType.Name(wanted).lower()
        raise NotImplementedError(f"only casts between floats are supported. Received: to={name}.")
    call.setting("saturate")
    return call.value()  # All of the model is of one type.


# Arithmetic.


def _beside(constant: np.ndarray, value: Value, call: Call) -> np.ndarray:
    """A constant that lines up with the value's tensor, with its batch axis, of size 1."""
    if constant.ndim > value.rank:
        raise NotImplementedError(
            f"a constant with {constant.ndim} axes would add axes to a value with {value.rank}."
        )
    full = constant.reshape((1,) * (value.rank - constant.ndim) + constant.shape)
    if full.shape[0] != 1:
        raise NotImplementedError(f"a constant of shape {full.shape} would change the batch axis.")
    full = np.moveaxis(full, 1, -1) if value.last and value.rank > 2 else full
    return full.astype(call.dtype)


def _together(first: Value, second: Value) -> tuple[Value, Value]:
    """Two values whose axes line up."""
    rank = max(first.rank, second.rank)
    if first.rank == second.rank and first.last == second.last:
        return first, second
    both = []
    for value in map(ordered, (first, second)):
        if value.rank < rank:  # The batch of one would be lined up with another axis.
            shape = (1,) * (rank - value.rank) + value.shape
            value = Value(keras.layers.Reshape(shape)(value.tensor))
        both.append(value)
    return both[0], both[1]


def _combine(call: Call, function: Callable[[Any, Any], Any]) -> Value:
    """Joins all operands, from the first one on."""

    def join(first: Any, second: Any) -> Any:
        if isinstance(first, Value) and isinstance(second, Value):
            first, second = _together(first, second)
            return Value(function(first.tensor, second.tensor), first.last)
        if isinstance(first, Value):
            return Value(function(first.tensor, _beside(second, first, call)), first.last)
        if isinstance(second, Value):
            return Value(function(_beside(first, second, call), second.tensor), second.last)
        return np.asarray(ops.convert_to_numpy(function(first, second)))

    return functools.reduce(join, call.operands)


for _name, _function in {
    "Add": ops.add,
    "Sub": ops.subtract,
    "Mul": ops.multiply,
    "Div": ops.divide,
    "Max": ops.maximum,
    "Min": ops.minimum,
    "Sum": ops.add,
}.items():
    OPERATORS[_name] = functools.partial(_combine, function=_function)


@_operator("Mean")
def _mean(call: Call) -> Value:
    total = _combine(call, ops.add)
    return Value(ops.multiply(total.tensor, 1.0 / len(call.operands)), total.last)


@_operator("Pow")
def _power(call: Call) -> Value:
    exponent = call.constant(1)
    if exponent.size != 1:
        raise NotImplementedError("its exponent must be one number.")
    return _map(call, lambda x: ops.power(x, float(exponent.reshape(()))))


# Products.


@_operator("Gemm")
def _gemm(call: Call) -> Value:
    call.expect(transA=0)
    kernel = call.constant(1).T if call.setting("transB", 0) else call.constant(1)
    alpha, beta = call.setting("alpha", 1.0), call.setting("beta", 1.0)
    given, x = call.optional(2), call.value().tensor
    if call.value().rank != 2:
        raise ValueError("its first operand must have two axes.")
    bias = None if given is None else np.broadcast_to(given, (1, kernel.shape[1]))[0]
    if bias is not None and beta != 1:
        bias = bias * np.asarray(beta, bias.dtype)
    if alpha == 1:
        return Value(_dense(x, kernel, bias))
    product = ops.multiply(_dense(x, kernel, None), alpha)
    return Value(product if bias is None else ops.add(product, bias))


def _dense(x: Any, kernel: np.ndarray, bias: np.ndarray | None) -> Any:
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None)
    return weighted(layer, x, kernel, bias)


@_operator("MatMul")
def _matmul(call: Call) -> Value:
    first, second = call.operands
    kernel, value = (second, first) if isinstance(first, Value) else (first, second)
    if isinstance(kernel, Value) or kernel.ndim != 2:
        raise NotImplementedError("only products with one constant matrix are supported.")
    value = ordered(value)
    if value is not second and isinstance(first, Value):
        return Value(_dense(value.tensor, kernel, call.bias))
    # W @ x is the transpose of x' @ W'.
    if value.rank < 3:
        raise NotImplementedError("a product from the left would mix inputs of a batch.")
    swap = (*range(1, value.rank - 2), value.rank - 1, value.rank - 2)
    turned = keras.layers.Permute(swap)(value.tensor)
    return Value(keras.layers.Permute(swap)(_dense(turned, kernel.T, None)))


@_operator("BatchNormalization")
def _batch_normalization(call: Call) -> Value:
    call.expect(spatial=1, training_mode=0)
    call.setting("momentum")
    value = call.value()
    axis = -1 if value.last or value.rank == 2 else 1
    layer = keras.layers.BatchNormalization(axis=axis, epsilon=call.setting("epsilon", 1e-5))
    return _map(call, lambda x: weighted(layer, x, *(call.constant(i) for i in range(1, 5))))
