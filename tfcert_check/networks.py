"""Networks as affine maps and two-piece functions of flat vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcert_check.graphs import Call, Graph, read_graph
from tfcert_check.operators import Convolution, Linear, Matrix, Pick, Scale
from tfcert_check.refusal import Refused, need
from tfcert_check.rounding import SMALL
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
        float_safe: Whether bounds hold for the network as executed in float32.
    """

    def __init__(self, steps: list[Step], output: int, sha256: str, float_safe: bool):
        self.steps, self.output, self.sha256, self.float_safe = steps, output, sha256, float_safe
        self.layers = [step for step in steps if isinstance(step, TwoPiece)]


class _Value:
    """A value while the file is read: its place and its shape, the batch axis of 1 included."""

    def __init__(self, place: int, shape: Sequence[int]):
        self.place, self.shape, self.size = place, tuple(shape), math.prod(shape)

    def wide(self, shape: tuple[int, ...]) -> _Value:
        """The value in the shape of a result, which must not be larger."""
        _need(math.prod(shape) == self.size, f"repeating a value of shape {self.shape}")
        return _Value(self.place, shape)


def read_network(path: str | os.PathLike[str], float_safe: bool = False) -> Network:
    """Reads a file, ONNX or npz, which gzip may have compressed."""
    graph = read_graph(path)
    reader = _Reader(graph, float_safe)
    for call in graph.calls:
        reader.visit(call)
    output: Any = reader.known.get(graph.output)
    need(isinstance(output, _Value), "the network's output does not depend on its input")
    return Network(reader.steps, output.place, graph.sha256, float_safe)


class _Reader:
    def __init__(self, graph: Graph, float_safe: bool):
        one = graph.shape[:1] == (1,) and min(graph.shape) >= 1
        need(one, f"the network's input must be a batch of one, not {graph.shape}")
        self.float_safe = float_safe
        self.steps: list[Step] = [Input(math.prod(graph.shape))]
        # A _Value, or an array where it is constant.
        self.known: dict[str, Any] = {k: _numbers(array) for k, array in graph.constants.items()}
        self.known[graph.input] = _Value(0, graph.shape)

    def visit(self, call: Call) -> None:
        title, settings = f"{call.operator} {call.result!r}", dict(call.settings)
        need(call.operator in _OPERATORS, f"the operator {call.operator} is not supported")
        unknown = [name for name in call.arguments if name and name not in self.known]
        need(not unknown, f"{title} reads {unknown}, which nothing has computed")
        try:
            arguments = [self.known[name] if name else None for name in call.arguments]
            if call.operator not in _OF_CONSTANTS:
                values = [isinstance(argument, _Value) for argument in arguments]
                _need(any(values), "an operation on constants alone")
                _need(values[0] or call.operator in ("Add", "Mul", "Sub"), "a constant there")
            _need(call.result not in self.known, "the same name for two values")
            self.known[call.result] = _OPERATORS[call.operator](self, settings, *arguments)
        except Exception as error:  # NumPy says in its own ways what does not fit.
            raise Refused(f"{title}: {error}") from error
        need(not settings, f"{title}: the settings {sorted(settings)} are not supported")

    # What operators are made of.

    def affine(
        self, shape: Sequence[int], parts: Sequence[tuple[Linear, _Value]], bias: Any = None
    ) -> _Value:
        bias = np.zeros(()) if bias is None else np.asarray(bias, np.float64)
        flat, size = np.broadcast_to(bias, shape).reshape(-1), math.prod(shape)
        _need(all(op.size == value.size for op, value in parts), "a value of this size")
        placed = [(operator, value.place) for operator, value in parts]
        self.steps.append(Affine(placed, flat, size, self.float_safe))
        return _Value(len(self.steps) - 1, shape)

    def scaled(self, x: Any, factors: Any, roundings: int = 0, bias: Any = None) -> _Value:
        _need(not isinstance(factors, _Value), "a product of two values")
        x = x.wide(np.broadcast_shapes(x.shape, np.shape(factors)))
        flat = np.broadcast_to(np.asarray(factors, np.float64), x.shape).reshape(-1)
        return self.affine(x.shape, [(Scale(flat, roundings), x)], bias)

    def two_piece(self, x: _Value, slope: float) -> _Value:
        _need(slope == 0 or SMALL <= slope <= 1, f"a slope of {slope}, not 0 or up to 1,")
        self.steps.append(TwoPiece(x.place, float(slope), x.size, self.float_safe))
        return _Value(len(self.steps) - 1, x.shape)

    def picked(self, x: _Value, places: Any) -> _Value:
        return self.affine(places.shape, [(Pick(places.reshape(-1), x.size), x)])


def _numbers(array: Any) -> Any:
    """Weights as float64, which represents them exactly; integers stay."""
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        array = array.astype(np.float64)
        need(np.isfinite(array).all(), "the network has weights that are not numbers")
    need(array.dtype in (np.float64, np.int64), f"weights of type {array.dtype} are not supported")
    return array


def _need(condition: object, what: str) -> None:
    need(condition, f"{what} is not supported")


def _add(reader: _Reader, settings: Any, x: Any, y: Any, sign: float = 1.0) -> _Value:
    shape = np.broadcast_shapes(x.shape, y.shape)
    parts, bias = [], np.zeros(shape)
    for term, factor in ((x, 1.0), (y, sign)):
        if isinstance(term, _Value):
            parts.append((Scale(np.full(term.size, factor)), term.wide(shape)))
        else:
            bias = factor * term
    return reader.affine(shape, parts, bias)


def _multiply(reader: _Reader, settings: Any, x: Any, y: Any) -> _Value:
    return reader.scaled(x, y) if isinstance(x, _Value) else reader.scaled(y, x)


def _divide(reader: _Reader, settings: Any, x: Any, y: Any) -> _Value:
    _need(not isinstance(y, _Value) and (np.abs(y) >= SMALL).all(), "a division by it")
    return reader.scaled(x, 1.0 / y, roundings=1)


def _matmul(reader: _Reader, settings: Any, x: Any, y: Any, bias: Any = None) -> _Value:
    _need(not isinstance(y, _Value) and y.ndim == 2, "a product that is not with a constant matrix")
    _need(math.prod(x.shape[:-1]) == 1, f"a product with a matrix for the shape {x.shape}")
    return reader.affine((*x.shape[:-1], y.shape[1]), [(Matrix(y.T), x)], bias)


def _gemm(reader: _Reader, settings: Any, x: Any, y: Any, bias: Any = None) -> _Value:
    factors = settings.pop("alpha", 1.0), settings.pop("beta", 1.0), settings.pop("transA", 0)
    _need(factors == (1.0, 1.0, 0), "another alpha or beta than 1, or transA")
    return _matmul(reader, settings, x, y.T if settings.pop("transB", 0) else y, bias)


def _convolve(reader: _Reader, settings: Any, x: Any, kernel: Any, bias: Any = None) -> _Value:
    _need(len(x.shape) == 4 == kernel.ndim, "a convolution that is not two-dimensional")
    settings.pop("kernel_shape", None)
    bias = None if bias is None else bias.reshape(1, -1, 1, 1)
    return _slide(reader, settings, x, kernel, settings.pop("group", 1), bias)


def _slide(reader: _Reader, settings: Any, x: Any, kernel: Any, groups: int, bias: Any) -> _Value:
    _need(settings.pop("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "auto_pad")
    strides, dilations = settings.pop("strides", [1, 1]), settings.pop("dilations", [1, 1])
    pads = settings.pop("pads", [0, 0, 0, 0])
    operator = Convolution(kernel, x.shape[1:], strides, dilations, pads, groups)
    return reader.affine((1, *operator.out), [(operator, x)], bias)


def _average(reader: _Reader, settings: Any, x: Any) -> _Value:
    shape = settings.pop("kernel_shape", list(x.shape[2:]))
    inside = settings.pop("count_include_pad", 0) or not any(settings.get("pads", [0]))
    _need(len(x.shape) == 4 and len(shape) == 2, "an average that is not two-dimensional")
    _need(bool(inside) and not settings.pop("ceil_mode", 0), "an average over parts of windows")
    sums = _slide(reader, settings, x, np.ones((x.shape[1], 1, *shape)), x.shape[1], None)
    return reader.scaled(sums, 1.0 / math.prod(shape), roundings=1)


def _maximum(reader: _Reader, settings: Any, first: Any, *others: Any) -> _Value:
    # max(a, b) = b + relu(a - b); as executed, it is one of the two, without any rounding.
    for other in others:
        _need(isinstance(other, _Value) and other.shape == first.shape, "a maximum of these")
        above = reader.two_piece(_add(reader, settings, first, other, -1.0), 0.0)
        first = _add(reader, settings, other, above)
    return first


def _normalize(reader: _Reader, settings: Any, x: Any, *statistics: Any) -> _Value:
    _need(not settings.pop("training_mode", 0), "training")
    settings.pop("momentum", None)
    column = (1, -1, *[1] * (len(x.shape) - 2))
    gamma, beta, mean, variance = (numbers.reshape(column) for numbers in statistics)
    variance = variance + settings.pop("epsilon", float(np.float32(1e-5)))
    _need(bool((variance >= SMALL).all()), "a variance near 0")
    centered = reader.scaled(x, 1.0, bias=-mean)
    # The sum, the root and the quotient round: at most 3 u together, and 8 are allowed for.
    return reader.scaled(centered, gamma / np.sqrt(variance), roundings=8, bias=beta)


def _flatten(reader: _Reader, settings: Any, x: Any) -> Any:
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
    return _Value(x.place, sizes) if isinstance(x, _Value) else x.reshape(sizes)


def _transpose(reader: _Reader, settings: Any, x: Any) -> Any:
    order = settings.pop("perm", list(range(len(x.shape)))[::-1])
    if not isinstance(x, _Value):
        return x.transpose(order)
    return reader.picked(x, np.arange(x.size).reshape(x.shape).transpose(order))


def _concat(reader: _Reader, settings: Any, *parts: Any) -> Any:
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
    "Conv": _convolve,
    "Div": _divide,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _average,
    "Identity": lambda reader, settings, x: x,
    "LeakyRelu": lambda reader, settings, x: reader.two_piece(
        x, settings.pop("alpha", float(np.float32(0.01)))
    ),
    "MatMul": _matmul,
    "Max": _maximum,
    "Mul": _multiply,
    "Neg": lambda reader, settings, x: reader.scaled(x, -1.0),
    "Pick": lambda reader, settings, x, places: reader.picked(x, places),
    "Relu": lambda reader, settings, x: reader.two_piece(x, 0.0),
    "Reshape": _reshape,
    "Sub": lambda reader, settings, x, y: _add(reader, settings, x, y, -1.0),
    "Transpose": _transpose,
}
_OF_CONSTANTS = ("Identity", "Reshape", "Transpose")
