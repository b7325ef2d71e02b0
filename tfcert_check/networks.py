"""Networks as affine maps and two-piece functions of flat vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert_check.graphs import Call, read_graph
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


class _Value(NamedTuple):
    """Entries of a step's flat value, in the shape in the file, the batch axis of 1 included."""

    step: int
    entries: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape

    def reshape(self, shape: Any) -> _Value:
        return _Value(self.step, self.entries.reshape(shape))

    def transpose(self, order: Any) -> _Value:
        return _Value(self.step, self.entries.transpose(order))

    def wide(self, shape: tuple[int, ...]) -> _Value:
        return _Value(self.step, np.broadcast_to(self.entries, shape))


def read_network(path: str | os.PathLike[str], float_safe: bool = False) -> Network:
    """Reads a file, ONNX or npz, which gzip may have compressed."""
    graph = read_graph(path)
    one = graph.shape[:1] == (1,) and min(graph.shape) >= 1
    need(one, f"the network's input must be a batch of one, not {graph.shape}")
    made = _Steps(float_safe)
    # A _Value, or an array where it is constant.
    known: dict[str, Any] = {name: _numbers(array) for name, array in graph.constants.items()}
    known[graph.input] = made.add(Input(math.prod(graph.shape)), graph.shape)
    for call in graph.calls:
        try:
            _visit(made, known, call)
        except Exception as error:  # NumPy says in its own ways what does not fit.
            raise Refused(f"{call.operator} {call.result!r}: {error}") from error
    output: Any = known.get(graph.output)
    need(isinstance(output, _Value), "the network's output does not depend on its input")
    return Network(made.steps, made.flat(output), graph.sha256, float_safe)


def _numbers(array: Any) -> Any:
    """Weights as float64, which represents them exactly; integers stay."""
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        array = array.astype(np.float64)
        need(np.isfinite(array).all(), "the network has weights that are not numbers")
    need(array.dtype in (np.float64, np.int64), f"weights of type {array.dtype} are not supported")
    return array


def _visit(made: _Steps, known: dict[str, Any], call: Call) -> None:
    need(call.operator in _OPERATORS, f"the operator {call.operator} is not supported")
    unknown = [name for name in call.arguments if name and name not in known]
    need(not unknown, f"it reads {unknown}, which nothing has computed")
    arguments = [known[name] if name else None for name in call.arguments]
    if call.operator not in ("Identity", "Reshape", "Transpose"):
        values = [isinstance(argument, _Value) for argument in arguments]
        _need(any(values), "an operation on constants alone")
        _need(values[0] or call.operator in ("Add", "Mul", "Sub"), "a constant there")
    _need(call.result not in known, "the same name for two values")
    known[call.result] = _OPERATORS[call.operator](made, *arguments, **call.settings)


def _need(condition: object, what: str) -> None:
    need(condition, f"{what} is not supported")


class _Steps:
    """The steps that have been read, and what operators are made of."""

    def __init__(self, float_safe: bool):
        self.steps: list[Step] = []
        self.float_safe = float_safe

    def add(self, step: Step, shape: tuple[int, ...]) -> _Value:
        self.steps.append(step)
        return _Value(len(self.steps) - 1, np.arange(step.size).reshape(shape))

    def flat(self, x: _Value) -> int:
        """The step whose flat value is x, entry by entry."""
        places, whole = x.entries.reshape(-1), np.arange(self.steps[x.step].size)
        if np.array_equal(places, whole):
            return x.step
        return self.affine(x.shape, (Pick(places, len(whole)), _Value(x.step, whole))).step

    def affine(self, shape: Any, *parts: tuple[Linear, _Value], bias: Any = None) -> _Value:
        """A bias, and sums of maps of values."""
        placed = [(operator, self.flat(value)) for operator, value in parts]
        fits = all(operator.size == self.steps[place].size for operator, place in placed)
        _need(fits, "a value of this size")
        bias = np.asarray(0.0 if bias is None else bias, np.float64)
        flat = np.broadcast_to(bias, shape).reshape(-1)
        return self.add(Affine(placed, flat, self.float_safe), shape)

    def scaled(self, x: _Value, factors: Any, roundings: int = 0, bias: Any = None) -> _Value:
        _need(not isinstance(factors, _Value), "a product of two values")
        shape = np.broadcast_shapes(x.shape, np.shape(factors))
        flat = np.broadcast_to(np.asarray(factors, np.float64), shape).reshape(-1)
        return self.affine(shape, (Scale(flat, roundings), x.wide(shape)), bias=bias)

    def sum(self, x: Any, y: Any, sign: float = 1.0) -> _Value:
        """``x + sign y``, of which one may be constant."""
        shape, terms = np.broadcast_shapes(x.shape, y.shape), ((x, 1.0), (y, sign))
        parts = [
            (Scale(np.full(math.prod(shape), factor)), term.wide(shape))
            for term, factor in terms
            if isinstance(term, _Value)
        ]
        constants = [factor * term for term, factor in terms if not isinstance(term, _Value)]
        return self.affine(shape, *parts, bias=sum(constants))

    def two_piece(self, x: _Value, slope: float) -> _Value:
        _need(slope == 0 or SMALL <= slope <= 1, f"a slope of {slope}, not 0 or up to 1,")
        step = TwoPiece(self.flat(x), float(slope), x.entries.size, self.float_safe)
        return self.add(step, x.shape)


# Operators: what they read, and their settings by name.

_LEAK = float(np.float32(0.01))


def _divide(made: _Steps, x: _Value, y: Any) -> _Value:
    _need(not isinstance(y, _Value) and (np.abs(y) >= SMALL).all(), "a division by it")
    return made.scaled(x, 1.0 / y, roundings=1)


def _product(made: _Steps, x: _Value, y: Any, bias: Any = None, **settings: Any) -> _Value:
    turned = settings.pop("transB", 0)
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    _need({**plain, **settings} == plain, f"one of the settings {settings}")
    _need(not isinstance(y, _Value) and y.ndim == 2, "a product that is not with a constant matrix")
    _need(math.prod(x.shape[:-1]) == 1, f"a product with a matrix for the shape {x.shape}")
    matrix = Matrix(y if turned else y.T)
    return made.affine((*x.shape[:-1], matrix.back), (matrix, x), bias=bias)


def _convolve(
    made: _Steps, x: _Value, kernel: Any, bias: Any = None,
    *, kernel_shape: Any = None, strides: Any = (1, 1), dilations: Any = (1, 1),
    pads: Any = (0, 0, 0, 0), group: int = 1, auto_pad: str = "NOTSET",
) -> _Value:  # fmt: skip
    _need(len(x.shape) == 4 == kernel.ndim, "a convolution that is not two-dimensional")
    _need(kernel_shape in (None, list(kernel.shape[2:])), f"the shape {kernel_shape}")
    _need(auto_pad in ("NOTSET", "VALID"), "auto_pad")
    operator = Convolution(kernel, x.shape[1:], strides, dilations, pads, group)
    bias = None if bias is None else bias.reshape(1, -1, 1, 1)
    return made.affine((1, *operator.out), (operator, x), bias=bias)


def _average(made: _Steps, x: _Value, *, kernel_shape: Any = None, **settings: Any) -> _Value:
    shape = kernel_shape or x.shape[2:]
    inside = settings.pop("count_include_pad", 0) or not any(settings.get("pads", ()))
    _need(len(x.shape) == 4 and len(shape) == 2, "an average that is not two-dimensional")
    _need(inside and not settings.pop("ceil_mode", 0), "an average over parts of windows")
    ones = np.ones((x.shape[1], 1, *shape))
    sums = _convolve(made, x, ones, group=len(ones), **settings)
    return made.scaled(sums, 1.0 / math.prod(shape), roundings=1)


def _maximum(made: _Steps, first: _Value, *others: Any) -> _Value:
    # max(a, b) = b + relu(a - b); as executed, it is one of the two, without any rounding.
    for other in others:
        _need(isinstance(other, _Value) and other.shape == first.shape, "a maximum of these")
        first = made.sum(other, made.two_piece(made.sum(first, other, -1.0), 0.0))
    return first


def _normalize(made: _Steps, x: _Value, *statistics: Any, **settings: Any) -> _Value:
    epsilon = settings.pop("epsilon", float(np.float32(1e-5)))
    plain = set(settings) <= {"momentum", "training_mode"} and not settings.get("training_mode")
    _need(plain, f"one of the settings {settings}")
    column = (1, -1, *[1] * (len(x.shape) - 2))
    gamma, beta, mean, variance = (numbers.reshape(column) for numbers in statistics)
    _need((variance + epsilon >= SMALL).all(), "a variance near 0")
    # The sum, the root and the quotient round: at most 3 u together, and 8 are allowed for.
    factors = gamma / np.sqrt(variance + epsilon)
    return made.scaled(made.scaled(x, 1.0, bias=-mean), factors, roundings=8, bias=beta)


def _reshape(made: _Steps, x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    _need(not isinstance(shape, _Value) and not allowzero, "a shape that is no constant")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _concat(made: _Steps, *parts: _Value, axis: int) -> _Value:
    counts = [np.arange(part.entries.size).reshape(part.shape) for part in parts]
    inner = np.concatenate(counts, axis)
    owner = np.concatenate([np.full(part.shape, i) for i, part in enumerate(parts)], axis)
    picks = [
        (Pick(np.where(owner == i, inner, -1).reshape(-1), part.entries.size), part)
        for i, part in enumerate(parts)
    ]
    return made.affine(inner.shape, *picks)


def _pick(made: _Steps, x: _Value, places: Any) -> _Value:
    return made.affine(places.shape, (Pick(places.reshape(-1), x.entries.size), x))


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda made, x, y: made.sum(x, y),
    "AveragePool": _average,
    "BatchNormalization": _normalize,
    "Concat": _concat,
    "Conv": _convolve,
    "Div": _divide,
    "Flatten": lambda made, x, *, axis=1: x.reshape((math.prod(x.shape[:axis]), -1)),
    "Gemm": _product,
    "GlobalAveragePool": lambda made, x: _average(made, x),
    "Identity": lambda made, x: x,
    "LeakyRelu": lambda made, x, *, alpha=_LEAK: made.two_piece(x, alpha),
    "MatMul": lambda made, x, y: _product(made, x, y),
    "Max": _maximum,
    "Mul": lambda made, x, y: made.scaled(*((x, y) if isinstance(x, _Value) else (y, x))),
    "Neg": lambda made, x: made.scaled(x, -1.0),
    "Pick": _pick,
    "Relu": lambda made, x: made.two_piece(x, 0.0),
    "Reshape": _reshape,
    "Sub": lambda made, x, y: made.sum(x, y, -1.0),
    "Transpose": lambda made, x, *, perm=None: x.transpose(perm),
}
