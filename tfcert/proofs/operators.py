"""The operators of the checker for each kind of node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcert import relaxations
from tfcert.proofs.calls import Array, Writer, weights_of
from tfcert.rules.linear import Kernel, Matrix, Rearrange, Scale, Sum
from tfcert.rules.linear_maps import Convolution
from tfcert.rules.nonlinear import Elementwise, MaxReduce
from tfcert.rules.normalization import BatchNorm
from tfcert.rules.primitives import Constant, Input, Node
from tfcert.rules.windows import Sliding

__all__ = ["write_node"]

# Entries of the matrix that stands for a small map of another kind.
_SMALL_MATRIX = 1 << 22


def write_node(writer: Writer, node: Node) -> None:
    """Writes the calls that compute a node; raises a NotImplementedError where there are none."""
    for kind, write in _RULES:
        own = kind in (Kernel, Matrix) and isinstance(node.primitive, kind)  # Layers have kinds.
        if own or type(node.primitive) is kind:
            write(writer, node, node.primitive)
            return
    raise writer.refusal(node, f"is made of {type(node.primitive).__name__}, which")


def _input(writer: Writer, node: Node, primitive: Any) -> None:
    writer.last[node] = "x"


def _constant(writer: Writer, node: Node, primitive: Constant) -> None:
    writer.last[node] = writer.constant(weights_of(primitive.read())[None])


def _matrix(writer: Writer, node: Node, primitive: Matrix) -> None:
    primitive.parameters(writer.network.dtype)  # Layers bring their kernels here.
    (source,) = node.inputs
    if math.prod(source.shape[:-1]) != 1:
        _rows(writer, node, primitive)
        return
    arguments = [writer.name(source), writer.constant(weights_of(primitive.kernel))]
    value = writer.call("MatMul", arguments)
    if primitive.offset is not None:
        value = writer.call("Add", [value, writer.constant(weights_of(primitive.offset))])
    writer.last[node] = value


def _rows(writer: Writer, node: Node, primitive: Matrix) -> None:
    """A matrix for each of several rows: a convolution whose windows are single entries."""
    (source,), kernel = node.inputs, weights_of(primitive.kernel)
    value = writer.reshaped(writer.first(source), (source.shape[-1], -1, 1))
    arguments = [value, writer.constant(kernel.T[:, :, None, None])]
    if primitive.offset is not None:
        offset = np.broadcast_to(weights_of(primitive.offset), kernel.shape[-1:])
        arguments.append(writer.constant(offset))
    value = writer.call("Conv", arguments)
    writer.first_names[node] = writer.reshaped(value, (node.shape[-1], *node.shape[:-1]))


def _kernel(writer: Writer, node: Node, primitive: Kernel) -> None:
    primitive.parameters(writer.network.dtype)
    (source,), slide = node.inputs, primitive.windowed
    if not isinstance(slide, Sliding) or len(source.shape) not in (2, 3):
        raise writer.refusal(node, "is a map of a kind that")
    kernel = weights_of(primitive.kernel)
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
        arguments.append(writer.constant(weights_of(primitive.offset)))
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
    writer.first_names[node] = value


def _scale(writer: Writer, node: Node, primitive: Scale) -> None:
    factors = [None if t is None else weights_of(t) for t in primitive.parameters("float64")]

    def write(names: list[str]) -> str:
        (name,) = names
        first = name == writer.first_names.get(node.inputs[0])
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


def _batch_norm(writer: Writer, node: Node, primitive: BatchNorm) -> None:
    layer, rank = primitive.layer, len(node.shape)
    if primitive.axis != rank:
        raise writer.refusal(node, "normalises another axis than the last one, which")
    mean, variance = weights_of(layer.moving_mean), weights_of(layer.moving_variance)
    gamma = weights_of(layer.gamma) if layer.scale else np.ones_like(mean)
    beta = weights_of(layer.beta) if layer.center else np.zeros_like(mean)
    (source,) = node.inputs
    writer.first_names[node] = writer.call(
        "BatchNormalization",
        [writer.first(source), *map(writer.constant, (gamma, beta, mean, variance))],
        epsilon=float(layer.epsilon),
    )


def _sum(writer: Writer, node: Node, primitive: Sum) -> None:
    def write(names: list[str]) -> str:
        total = names[0]
        for name in names[1:]:
            total = writer.call("Add", [total, name])
        return total

    writer.elementwise(node, write)


def _rearrange(writer: Writer, node: Node, primitive: Rearrange) -> None:
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
    writer.moved[node] = flat, before, np.where(places < 0, -1, inner.reshape(-1)[places])


def _average(writer: Writer, node: Node, primitive: Rearrange) -> None:
    (source,), slide = node.inputs, primitive.windowed
    if isinstance(slide, Sliding) and len(source.shape) == 3:
        writer.first_names[node] = writer.call(
            "AveragePool",
            [writer.first(source)],
            kernel_shape=list(map(int, slide.kernel)),
            strides=list(map(int, slide.stride)),
        )
    elif len(source.shape) == 3 and math.prod(node.shape) == source.shape[-1]:
        value = writer.call("GlobalAveragePool", [writer.first(source)])
        writer.last[node] = writer.reshaped(value, node.shape)
    else:
        size = math.prod(source.shape)
        if size * math.prod(node.shape) > _SMALL_MATRIX:
            raise writer.refusal(node, "sums entries in a way that")
        eye = ops.convert_to_tensor(np.eye(size).reshape(size, *source.shape), "float64")
        matrix = np.asarray(ops.convert_to_numpy(primitive.function(eye))).reshape(size, -1)
        value = writer.call("MatMul", [writer.flat(source), writer.constant(matrix)])
        writer.last[node] = writer.reshaped(value, node.shape)


def _curve(writer: Writer, node: Node, primitive: Elementwise) -> None:
    curve = primitive.parameters(writer.network.dtype)
    if isinstance(curve, relaxations.TwoPiece):
        _two_pieces(writer, node, curve.negative_slope)
    elif isinstance(curve, relaxations.PiecewiseLinear) and curve.continuous:
        _pieces(writer, node, curve)
    else:
        raise writer.refusal(node, f"applies {getattr(curve, 'name', 'a function')!r}, which")


def _two_pieces(writer: Writer, node: Node, slope: Any) -> None:
    if isinstance(slope, float | int) and 0 <= slope <= 1:
        settings = {"alpha": float(slope)} if slope else {}
        operator = "LeakyRelu" if slope else "Relu"
        writer.elementwise(node, lambda names: writer.call(operator, names, **settings))
        return
    # Other slopes, such as those of each unit: relu(x) - slope relu(-x).
    value = writer.name(node.inputs[0])
    above = writer.call("Relu", [value])
    below = writer.call("Relu", [writer.call("Neg", [value])])
    factor = writer.constant(-_beside(weights_of(slope), node, False))
    below = writer.call("Mul", [below, factor])
    writer.last[node] = writer.call("Add", [above, below])


def _pieces(writer: Writer, node: Node, curve: relaxations.PiecewiseLinear) -> None:
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
    writer.last[node] = total


def _maximum(writer: Writer, node: Node, primitive: MaxReduce) -> None:
    if primitive.present is not None:
        raise writer.refusal(node, "takes maxima over windows that reach over the edge, which")
    flat, size, places = writer.moves(node.inputs[0])
    parts = [writer.pick(flat, size, places[..., k]) for k in range(places.shape[-1])]
    writer.last[node] = writer.call("Max", parts)


_RULES: list[tuple[type, Callable[[Writer, Node, Any], None]]] = [
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
