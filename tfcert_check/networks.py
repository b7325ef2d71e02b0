"""Reads ONNX networks as affine maps and two-piece functions of flat vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcert_check.operators import Array, Convolution, Linear, Matrix, Pick, Scale
from tfcert_check.refusal import Refused, content_of
from tfcert_check.steps import Affine, Input, Step, TwoPiece

__all__ = ["Network", "read_network"]


class Network:
    """Values in an order in which they can be computed.

    Attributes:
        steps: How each value is computed; the first one is the input.
        output: The place of the output among them.
        layers: The two-piece functions among them, in the order of the file. Proofs name them by
            their places in this list.
        sha256: Of the file, unpacked.
    """

    def __init__(self, steps: list[Step], output: int, sha256: str):
        self.steps, self.output, self.sha256 = steps, output, sha256
        self.layers = [step for step in steps if isinstance(step, TwoPiece)]

    def values(self, points: Array) -> list[Array]:
        """All values at some inputs, ``(points, inputs)``, in plain float64."""
        found: list[Array] = []
        for step in self.steps:
            found.append(step.value(found, points))
        return found


class _Value:
    """A value while the file is read: its place and its shape, the batch axis of 1 included."""

    def __init__(self, place: int, shape: tuple[int, ...]):
        self.place, self.shape, self.size = place, shape, math.prod(shape)


def read_network(path: str | os.PathLike[str]) -> Network:
    """Reads a file, which gzip may have compressed."""
    import onnx

    content, sha256 = content_of(path)
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    reader = _Reader(onnx, model)
    for node in model.graph.node:
        reader.visit(node)
    if len(model.graph.output) != 1:
        raise Refused("the network must have one output")
    output = reader.known.get(model.graph.output[0].name)
    if not isinstance(output, _Value):
        raise Refused("the network's output does not depend on its input")
    return Network(reader.steps, output.place, sha256)


_Parts = Sequence[tuple[Linear, _Value]]


class _Reader:
    def __init__(self, onnx: Any, model: Any):
        self.onnx = onnx
        self.known: dict[str, Any] = {}  # A _Value, or an array where it is constant.
        for tensor in model.graph.initializer:
            self.known[tensor.name] = self._array(tensor)
        inputs = [value for value in model.graph.input if value.name not in self.known]
        if len(inputs) != 1 or model.graph.sparse_initializer:
            raise Refused("the network must have one input, and no sparse weights")
        dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
        shape = (dims[0] or 1, *dims[1:]) if dims else ()
        if not dims or shape[0] != 1 or 0 in shape:
            raise Refused(f"the network's input must be a batch of one, of known shape: {dims}")
        self.steps: list[Step] = [Input(math.prod(shape))]
        self.known[inputs[0].name] = _Value(0, shape)

    def visit(self, node: Any) -> None:
        operator = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        title = f"{node.op_type} {node.name or node.output[0]!r}"
        if operator is None:
            raise Refused(
                f"the operator {node.domain or 'ai.onnx'}.{node.op_type} is not supported"
            )
        if len(node.output) != 1:
            raise Refused(f"{title} has more than one output, which is not supported")
        settings = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        try:
            arguments = [self.known[name] if name else None for name in node.input]
            self.known[node.output[0]] = operator(self, settings, *arguments)
        except Refused as error:
            raise Refused(f"{title}: {error}") from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Refused(f"{title} does not fit: {type(error).__name__} {error}") from error
        if settings:
            raise Refused(f"{title}: the settings {sorted(settings)} are not supported")

    def _array(self, tensor: Any) -> Any:
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raise Refused("weights in other files are not supported")
        return _numbers(self.onnx.numpy_helper.to_array(tensor))

    # What operators are made of.

    def affine(self, shape: Any, parts: _Parts, bias: Any = 0.0) -> _Value:
        size = math.prod(shape)
        bias = np.broadcast_to(np.asarray(bias, np.float64), shape).reshape(-1)
        self.steps.append(Affine([(op, value.place) for op, value in parts], bias, size))
        return _Value(len(self.steps) - 1, tuple(shape))

    def scaled(self, x: _Value, factors: Any, roundings: int = 0, bias: Any = 0.0) -> _Value:
        flat = np.broadcast_to(np.asarray(factors, np.float64), x.shape).reshape(-1)
        return self.affine(x.shape, [(Scale(flat, roundings), x)], bias)

    def two_piece(self, x: _Value, slope: float) -> _Value:
        if not 0 <= slope <= 1:
            raise Refused(f"a slope must be from 0 to 1, not {slope}")
        self.steps.append(TwoPiece(x.place, float(slope), x.size))
        return _Value(len(self.steps) - 1, x.shape)

    def constant(self, settings: dict[str, Any]) -> Any:
        return self._array(settings.pop("value"))


def _numbers(array: Any) -> Any:
    """Weights as float64, which represents them exactly; integers stay."""
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise Refused("the network has weights that are not numbers")
    elif array.dtype != np.int64:
        raise Refused(f"weights of type {array.dtype} are not supported")
    return array


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(f"{what} is not supported")


def _values_only(*arguments: Any) -> None:
    _need(all(isinstance(a, _Value) for a in arguments), "an operation on constants alone")


def _add(reader: _Reader, settings: Any, x: Any, y: Any, sign: float = 1.0) -> _Value:
    if isinstance(x, _Value) and isinstance(y, _Value):
        _need(x.shape == y.shape, f"a sum of the shapes {x.shape} and {y.shape}")
        parts = [(Scale(np.ones(x.size)), x), (Scale(np.full(y.size, sign)), y)]
        return reader.affine(x.shape, parts)
    if isinstance(x, _Value):
        return reader.scaled(_wide(x, y), 1.0, bias=sign * y)
    _values_only(y)
    return reader.scaled(_wide(y, x), sign, bias=x)


def _wide(x: _Value, other: Any) -> _Value:
    """The value in the shape of a result with a constant, which must not be larger."""
    shape = np.broadcast_shapes(x.shape, other.shape)
    _need(math.prod(shape) == x.size, f"repeating a value of shape {x.shape}")
    return _Value(x.place, shape)


def _multiply(reader: _Reader, settings: Any, x: Any, y: Any) -> _Value:
    if not isinstance(x, _Value):
        x, y = y, x
    _values_only(x)
    _need(not isinstance(y, _Value), "a product of two values")
    return reader.scaled(_wide(x, y), y)


def _divide(reader: _Reader, settings: Any, x: Any, y: Any) -> _Value:
    _values_only(x)
    _need(not isinstance(y, _Value) and (y != 0).all(), "a division by a value")
    return reader.scaled(_wide(x, y), 1.0 / y, roundings=1)


def _matmul(reader: _Reader, settings: Any, x: Any, y: Any, bias: Any = None) -> _Value:
    _values_only(x)
    _need(not isinstance(y, _Value) and y.ndim == 2, "a product that is not with a constant matrix")
    _need(math.prod(x.shape[:-1]) == 1, f"a product with a matrix for the shape {x.shape}")
    shape = (*x.shape[:-1], y.shape[1])
    if bias is not None:
        bias = np.broadcast_to(bias, shape)
    return reader.affine(shape, [(Matrix(y.T), x)], 0.0 if bias is None else bias)


def _gemm(reader: _Reader, settings: Any, x: Any, y: Any, bias: Any = None) -> _Value:
    factors = settings.pop("alpha", 1.0), settings.pop("beta", 1.0), settings.pop("transA", 0)
    _need(factors == (1.0, 1.0, 0), "another alpha or beta than 1, or transA")
    _values_only(x)
    return _matmul(reader, settings, x, y.T if settings.pop("transB", 0) else y, bias)


def _convolve(reader: _Reader, settings: Any, x: Any, kernel: Any, bias: Any = None) -> _Value:
    _values_only(x)
    _need(len(x.shape) == 4 and kernel.ndim == 4, "a convolution that is not two-dimensional")
    settings.pop("kernel_shape", None)
    return _sliding(reader, settings, x, kernel, settings.pop("group", 1), bias)


def _sliding(
    reader: _Reader, settings: Any, x: _Value, kernel: Array, groups: int, bias: Any = None
) -> _Value:
    _need(settings.pop("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"), "auto_pad")
    strides, dilations = settings.pop("strides", [1, 1]), settings.pop("dilations", [1, 1])
    pads = settings.pop("pads", [0, 0, 0, 0])
    operator = Convolution(kernel, x.shape[1:], strides, dilations, pads, groups)
    bias = 0.0 if bias is None else np.reshape(bias, (1, -1, 1, 1))
    return reader.affine((1, *operator.out), [(operator, x)], bias)


def _average(reader: _Reader, settings: Any, x: Any) -> _Value:
    _values_only(x)
    shape = settings.pop("kernel_shape", list(x.shape[2:]))
    inside = settings.pop("count_include_pad", 0) or not any(settings.get("pads", [0]))
    _need(len(x.shape) == 4 and len(shape) == 2, "an average that is not two-dimensional")
    _need(bool(inside) and not settings.pop("ceil_mode", 0), "an average over parts of windows")
    sums = _sliding(reader, settings, x, np.ones((x.shape[1], 1, *shape)), x.shape[1])
    return reader.scaled(sums, 1.0 / math.prod(shape), roundings=1)


def _normalize(
    reader: _Reader, settings: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any
) -> _Value:
    _values_only(x)
    _need(not settings.pop("training_mode", 0), "training")
    settings.pop("momentum", None)
    epsilon = settings.pop("epsilon", float(np.float32(1e-5)))
    column = (1, -1, *[1] * (len(x.shape) - 2))
    gamma, beta, mean, variance = (np.reshape(t, column) for t in (gamma, beta, mean, variance))
    _need(bool((variance + epsilon > 0).all()), "a variance of 0")
    centered = reader.scaled(x, 1.0, bias=-mean)
    # The sum, the root and the quotient round: at most 3 u together, and 8 are allowed for.
    return reader.scaled(centered, gamma / np.sqrt(variance + epsilon), roundings=8, bias=beta)


def _leaky(reader: _Reader, settings: Any, x: Any) -> _Value:
    _values_only(x)
    return reader.two_piece(x, settings.pop("alpha", float(np.float32(0.01))))


def _relu(reader: _Reader, settings: Any, x: Any) -> _Value:
    _values_only(x)
    return reader.two_piece(x, 0.0)


def _negate(reader: _Reader, settings: Any, x: Any) -> _Value:
    _values_only(x)
    return reader.scaled(x, -1.0)


def _flatten(reader: _Reader, settings: Any, x: Any) -> Any:
    _values_only(x)
    axis = settings.pop("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    return _Value(x.place, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(reader: _Reader, settings: Any, x: Any, shape: Any) -> Any:
    _need(not isinstance(shape, _Value), "a shape that is no constant")
    _need(not settings.pop("allowzero", 0), "allowzero")
    sizes = [x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(x.shape) // -math.prod(sizes)
    _need(math.prod(sizes) == math.prod(x.shape) and min(sizes) > 0, f"the shape {sizes}")
    return _Value(x.place, tuple(sizes)) if isinstance(x, _Value) else x.reshape(sizes)


def _transpose(reader: _Reader, settings: Any, x: Any) -> Any:
    order = settings.pop("perm", list(range(len(x.shape)))[::-1])
    if not isinstance(x, _Value):
        return x.transpose(order)
    places = np.arange(x.size).reshape(x.shape).transpose(order)
    return reader.affine(places.shape, [(Pick(places.reshape(-1), x.size), x)])


def _concat(reader: _Reader, settings: Any, *parts: Any) -> Any:
    _values_only(*parts)
    axis, found = settings.pop("axis"), []
    for i, part in enumerate(parts):
        marks = [
            np.arange(x.size).reshape(x.shape) if k == i else np.full(x.shape, -1)
            for k, x in enumerate(parts)
        ]
        places = np.concatenate(marks, axis=axis)
        found.append((Pick(places.reshape(-1), part.size), part))
    return reader.affine(places.shape, found)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _add,
    "AveragePool": _average,
    "BatchNormalization": _normalize,
    "Concat": _concat,
    "Constant": lambda reader, settings: reader.constant(settings),
    "Conv": _convolve,
    "Div": _divide,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _average,
    "Identity": lambda reader, settings, x: x,
    "LeakyRelu": _leaky,
    "MatMul": _matmul,
    "Mul": _multiply,
    "Neg": _negate,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sub": lambda reader, settings, x, y: _add(reader, settings, x, y, -1.0),
    "Transpose": _transpose,
}
