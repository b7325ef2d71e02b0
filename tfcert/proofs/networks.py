"""Writes the network of a Keras model as a file that the checker reads with numpy alone."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

import tfcert_check
from tfcert import relaxations
from tfcert.bounds.statistics import node_values
from tfcert.network import Network, network_of
from tfcert.rules.linear import Kernel, Matrix, Rearrange, Scale, Sum
from tfcert.rules.linear_maps import Convolution
from tfcert.rules.nonlinear import Elementwise, MaxReduce
from tfcert.rules.normalization import BatchNorm
from tfcert.rules.primitives import Constant, Input, Node
from tfcert.rules.windows import Sliding
from tfcert_check import graphs

__all__ = ["agrees", "write_network"]

Array = npt.NDArray[Any]
# Entries of the matrix that stands for a small map of another kind.
_SMALL_MATRIX = 1 << 22
_POINTS = 4
# Two executions of one network agree up to this part of the largest value.
_AGREES = 1e-3


def write_network(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Writes the network of a model for ``tfcert-check``: weights, and a list of operators.

    The file holds dense and convolutional layers, batch normalisation, pooling, sums, and ReLU or
    LeakyReLU; [Proofs](../proofs.md#the-format-of-networks) tells how. The written network is read
    again and compared with the model at random points.

    Args:
        path: The file to write, a ``.npz``.
        model: A built model with one input.

    Raises:
        NotImplementedError: The model has a layer that the checker does not know. The message names
            it.
    """
    network = network_of(model)
    writer = _Writer(network)
    try:
        for node in network.nodes:
            writer.visit(node)
        output = writer.name(network.outputs)
    except NotImplementedError as error:
        raise NotImplementedError(f"{error} No network file can be written.") from error
    graph = {
        "input": "x",
        "shape": [1, *network.input.shape],
        "calls": writer.calls,
        "output": output,
    }
    content = io.BytesIO()
    texts = {"format": np.array(graphs.FORMAT), "graph": np.array(json.dumps(graph))}
    np.savez(content, **texts, **writer.constants)  # type: ignore[arg-type]
    pathlib.Path(path).write_bytes(content.getvalue())
    if not agrees(model, path):
        raise AssertionError(
            f"The written network gives other values than model {model.name!r}. Report this as a "
            "bug of write_network."
        )


def agrees(model: keras.Model, path: str | os.PathLike[str]) -> bool:
    """Whether a network's file, as the checker reads it, gives a model's outputs at a few points.

    Raises:
        NotImplementedError: The checker cannot read the file.
    """
    network = network_of(model)
    try:
        file = tfcert_check.read_network(path)
    except tfcert_check.Refused as error:
        raise NotImplementedError(f"The checker of proofs refuses the network: {error}.") from error
    size = math.prod(network.input.shape)
    last = file.steps[file.output]
    if (file.steps[0].size, last.size) != (size, math.prod(network.outputs.shape)):
        return False
    points = np.random.default_rng(0).normal(size=(_POINTS, size)).astype(network.dtype)
    theirs = file.values(points.astype(np.float64))[file.output]
    shaped = ops.convert_to_tensor(points.reshape(-1, *network.input.shape))
    ours = node_values(network, {network.input: shaped}, {})[network.outputs]
    ours = np.asarray(ops.convert_to_numpy(ours), np.float64).reshape(_POINTS, -1)
    return bool(np.abs(ours - theirs).max() <= _AGREES * max(1.0, np.abs(ours).max()))


class _Writer:
    """Writes node by node.

    A value has a name with its axes as in the model and, where a convolution wants it or has made
    it, one with channels first. Moves of entries are written where they are read, as they are.

    Attributes:
        calls: Operators with arguments, result and settings.
        constants: Arrays by name.
    """

    def __init__(self, network: Network):
        self.network = network
        self.calls: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, Array] = {}
        self._last: dict[Node, str] = {}
        self._first: dict[Node, str] = {}
        self._moved: dict[Node, tuple[str, int, Array]] = {}

    def visit(self, node: Node) -> None:
        for kind, write in _RULES:
            if type(node.primitive) is kind or (
                kind in (Kernel, Matrix) and isinstance(node.primitive, kind)
            ):
                write(self, node, node.primitive)
                return
        raise self.refusal(node, f"is made of {type(node.primitive).__name__}, which")

    def refusal(self, node: Node, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"Layer {node.name!r} {what} the checker of proofs does not know."
        )

    # Names of values.

    def name(self, node: Node) -> str:
        """The value in the shape ``(1, *shape)``."""
        if node not in self._last:
            if node in self._first:
                rank = len(node.shape)
                order = [0, *range(2, rank + 1), 1]
                self._last[node] = self.call("Transpose", [self._first[node]], perm=order)
            else:
                self._last[node] = self.pick(*self._moved[node])
        return self._last[node]

    def first(self, node: Node) -> str:
        """The value with its channels first."""
        rank = len(node.shape)
        if rank < 2:
            return self.name(node)
        if node not in self._first:
            order = [0, rank, *range(1, rank)]
            self._first[node] = self.call("Transpose", [self.name(node)], perm=order)
        return self._first[node]

    def flat(self, node: Node) -> str:
        return self.reshaped(self.name(node), (math.prod(node.shape),))

    def moves(self, node: Node) -> tuple[str, int, Array]:
        """A flat value, its size, and the places there of the node's entries, ``(1, *shape)``."""
        if node in self._moved:
            return self._moved[node]
        size = math.prod(node.shape)
        return self.flat(node), size, np.arange(size).reshape(1, *node.shape)

    # What calls are made of.

    def call(self, operator: str, arguments: Sequence[str], **settings: Any) -> str:
        name = f"v{len(self.calls)}"
        self.calls.append((operator, list(arguments), name, settings))
        return name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        return self.call("Reshape", [name, self.constant(np.array([1, *shape], np.int64))])

    def pick(self, flat: str, size: int, places: Array) -> str:
        used = places[places >= 0]
        if len(np.unique(used)) < len(used):
            raise NotImplementedError(
                "The model repeats entries of a value, which the checker of proofs does not know."
            )
        if np.array_equal(places.reshape(-1), np.arange(size)):
            return self.reshaped(flat, places.shape[1:])
        return self.call("Pick", [flat, self.constant(places.astype(np.int64))])

    def elementwise(self, node: Node, write: Callable[[list[str]], str]) -> None:
        """Writes what acts on entries, with axes as most inputs have them."""
        firsts = sum(source in self._first for source in node.inputs)
        if firsts and 2 * firsts >= len(node.inputs):
            self._first[node] = write([self.first(source) for source in node.inputs])
        else:
            self._last[node] = write([self.name(source) for source in node.inputs])


def _weights(value: Any) -> Array:
    """An array in its own float type."""
    value = value() if callable(value) else value
    array = np.asarray(ops.convert_to_numpy(value))
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _input(writer: _Writer, node: Node, primitive: Any) -> None:
    writer._last[node] = "x"


def _constant(writer: _Writer, node: Node, primitive: Constant) -> None:
    writer._last[node] = writer.constant(_weights(primitive.read())[None])


def _matrix(writer: _Writer, node: Node, primitive: Matrix) -> None:
    primitive.parameters(writer.network.dtype)  # Layers bring their kernels here.
    (source,) = node.inputs
    if math.prod(source.shape[:-1]) != 1:
        raise writer.refusal(node, "multiplies a value with several rows by a matrix, which")
    arguments = [writer.name(source), writer.constant(_weights(primitive.kernel))]
    value = writer.call("MatMul", arguments)
    if primitive.offset is not None:
        value = writer.call("Add", [value, writer.constant(_weights(primitive.offset))])
    writer._last[node] = value


def _kernel(writer: _Writer, node: Node, primitive: Kernel) -> None:
    primitive.parameters(writer.network.dtype)
    (source,), slide = node.inputs, primitive.windowed
    if not isinstance(slide, Sliding) or len(source.shape) not in (2, 3):
        raise writer.refusal(node, "is a map of a kind that")
    kernel = _weights(primitive.kernel)
    rank, channels = len(source.shape) - 1, source.shape[-1]
    if not isinstance(primitive.linear, Convolution):  # Depthwise: one group for each channel.
        kernel = kernel.reshape(*kernel.shape[:rank], 1, -1)
    groups = channels // kernel.shape[-2]
    size = kernel.shape[:rank]
    dilation = [(e - 1) // max(1, k - 1) or 1 for e, k in zip(slide.kernel, size, strict=True)]
    after = [
        max(0, (n - 1) * s + e - m - b)
        for n, s, e, m, b in zip(
            node.shape, slide.stride, slide.kernel, source.shape, slide.before, strict=False
        )
    ]
    value, flat = writer.first(source), [1] * (2 - rank)
    if flat:
        value = writer.reshaped(value, (channels, *flat, *source.shape[:-1]))
    arguments = [
        value,
        writer.constant(kernel.transpose(rank + 1, rank, *range(rank)).reshape(
            kernel.shape[-1], -1, *flat, *size
        )),
    ]  # fmt: skip
    if primitive.offset is not None:
        arguments.append(writer.constant(_weights(primitive.offset)))
    value = writer.call(
        "Conv",
        arguments,
        strides=[*flat, *map(int, slide.stride)],
        dilations=[*flat, *map(int, dilation)],
        pads=[*[0] * len(flat), *map(int, slide.before), *[0] * len(flat), *map(int, after)],
        group=int(groups),
    )
    if flat:
        value = writer.reshaped(value, (node.shape[-1], *node.shape[:-1]))
    writer._first[node] = value


def _scale(writer: _Writer, node: Node, primitive: Scale) -> None:
    factors = [None if t is None else _weights(t) for t in primitive.parameters("float64")]

    def write(names: list[str]) -> str:
        (name,) = names
        first = name == writer._first.get(node.inputs[0])
        for operator, factor in zip(("Mul", "Add"), factors, strict=True):
            if factor is not None:
                name = writer.call(operator, [name, writer.constant(_beside(factor, node, first))])
        return name

    writer.elementwise(node, write)


def _beside(factor: Array, node: Node, first: bool) -> Array:
    """A factor in the axes of a value, ``(1, *shape)`` or with channels first; ones stay."""
    rank = len(node.shape)
    factor = factor.reshape((1,) * (rank - factor.ndim) + factor.shape)
    return (np.moveaxis(factor, -1, 0) if first and rank > 1 else factor)[None]


def _batch_norm(writer: _Writer, node: Node, primitive: BatchNorm) -> None:
    layer, rank = primitive.layer, len(node.shape)
    if primitive.axis != rank:
        raise writer.refusal(node, "normalises another axis than the last one, which")
    mean, variance = _weights(layer.moving_mean), _weights(layer.moving_variance)
    gamma = _weights(layer.gamma) if layer.scale else np.ones_like(mean)
    beta = _weights(layer.beta) if layer.center else np.zeros_like(mean)
    (source,) = node.inputs
    writer._first[node] = writer.call(
        "BatchNormalization",
        [writer.first(source), *map(writer.constant, (gamma, beta, mean, variance))],
        epsilon=float(layer.epsilon),
    )


def _sum(writer: _Writer, node: Node, primitive: Sum) -> None:
    def write(names: list[str]) -> str:
        total = names[0]
        for name in names[1:]:
            total = writer.call("Add", [total, name])
        return total

    writer.elementwise(node, write)


def _rearrange(writer: _Writer, node: Node, primitive: Rearrange) -> None:
    if primitive.terms > 1:
        _average(writer, node, primitive)
        return
    sizes = [math.prod(source.shape) for source in node.inputs]
    if len(sizes) > 1:
        names = [writer.flat(source) for source in node.inputs]
        flat, inner = writer.call("Concat", names, axis=1), np.arange(sum(sizes))
        before = sum(sizes)
    else:
        flat, before, inner = writer.moves(node.inputs[0])
    starts = np.cumsum([0, *sizes])
    marks = [
        np.arange(start + 1.0, start + size + 1.0).reshape(1, *source.shape)
        for start, size, source in zip(starts, sizes, node.inputs, strict=False)
    ]
    # Each entry carries its own place; entries that padding makes are 0.
    found = primitive.function(*[ops.convert_to_tensor(mark, "float64") for mark in marks])
    places = np.asarray(ops.convert_to_numpy(found)).round().astype(np.int64) - 1
    places = places.reshape(1, *node.shape)
    writer._moved[node] = flat, before, np.where(places < 0, -1, inner.reshape(-1)[places])


def _average(writer: _Writer, node: Node, primitive: Rearrange) -> None:
    (source,), slide = node.inputs, primitive.windowed
    if isinstance(slide, Sliding) and len(source.shape) == 3:
        writer._first[node] = writer.call(
            "AveragePool",
            [writer.first(source)],
            kernel_shape=list(map(int, slide.kernel)),
            strides=list(map(int, slide.stride)),
        )
    elif len(source.shape) == 3 and math.prod(node.shape) == source.shape[-1]:
        value = writer.call("GlobalAveragePool", [writer.first(source)])
        writer._last[node] = writer.reshaped(value, node.shape)
    else:
        size = math.prod(source.shape)
        if size * math.prod(node.shape) > _SMALL_MATRIX:
            raise writer.refusal(node, "sums entries in a way that")
        eye = ops.convert_to_tensor(np.eye(size).reshape(size, *source.shape), "float64")
        matrix = np.asarray(ops.convert_to_numpy(primitive.function(eye))).reshape(size, -1)
        value = writer.call("MatMul", [writer.flat(source), writer.constant(matrix)])
        writer._last[node] = writer.reshaped(value, node.shape)


def _curve(writer: _Writer, node: Node, primitive: Elementwise) -> None:
    curve = primitive.parameters(writer.network.dtype)
    if isinstance(curve, relaxations.TwoPiece):
        _two_pieces(writer, node, curve.negative_slope)
    elif isinstance(curve, relaxations.PiecewiseLinear) and curve.continuous:
        _pieces(writer, node, curve)
    else:
        raise writer.refusal(node, f"applies {getattr(curve, 'name', 'a function')!r}, which")


def _two_pieces(writer: _Writer, node: Node, slope: Any) -> None:
    if isinstance(slope, float | int) and 0 <= slope <= 1:
        settings = {"alpha": float(slope)} if slope else {}
        operator = "LeakyRelu" if slope else "Relu"
        writer.elementwise(node, lambda names: writer.call(operator, names, **settings))
        return
    # Other slopes, such as those of each unit: relu(x) - slope relu(-x).
    value = writer.name(node.inputs[0])
    above = writer.call("Relu", [value])
    below = writer.call("Relu", [writer.call("Neg", [value])])
    factor = writer.constant(-_beside(_weights(slope), node, False))
    below = writer.call("Mul", [below, factor])
    writer._last[node] = writer.call("Add", [above, below])


def _pieces(writer: _Writer, node: Node, curve: relaxations.PiecewiseLinear) -> None:
    """The first piece, and what the slope changes by at every break."""
    value = writer.name(node.inputs[0])

    def number(value: float) -> str:
        return writer.constant(np.float64(value))

    total = writer.call("Mul", [value, number(curve.slopes[0])])
    total = writer.call("Add", [total, number(curve.intercepts[0])])
    for place, before, behind in zip(
        curve.breaks, curve.slopes[:-1], curve.slopes[1:], strict=True
    ):
        above = writer.call("Relu", [writer.call("Sub", [value, number(place)])])
        more = writer.call("Mul", [above, number(behind - before)])
        total = writer.call("Add", [total, more])
    writer._last[node] = total


def _maximum(writer: _Writer, node: Node, primitive: MaxReduce) -> None:
    if primitive.present is not None:
        raise writer.refusal(node, "takes maxima over windows that reach over the edge, which")
    flat, size, places = writer.moves(node.inputs[0])
    parts = [writer.pick(flat, size, places[..., k]) for k in range(places.shape[-1])]
    writer._last[node] = writer.call("Max", parts)


_RULES: list[tuple[type, Callable[[_Writer, Node, Any], None]]] = [
    (Input, _input),
    (Constant, _constant),
    (Matrix, _matrix),
    (Kernel, _kernel),
    (BatchNorm, _batch_norm),
    (Scale, _scale),
    (Sum, _sum),
    (Rearrange, _rearrange),
    (Elementwise, _curve),
    (MaxReduce, _maximum),
]
