"""Rules of layers that merge several values."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.rules import building
from tfcert.rules.primitives import Node
from tfcert.rules.registry import register_rule
from tfcert.rules.windows import Split

__all__: list[str] = []


def _merged(merge: Callable[[list[Node]], Node]) -> Callable[[Any, list[Node]], Node]:
    """Merge layers line up values of different rank by inserting axes behind the batch."""

    def rule(layer: Any, inputs: list[Node]) -> Node:
        rank = max(len(x.shape) for x in inputs)
        return merge([_lifted(x, rank) for x in inputs])

    return rule


def _lifted(x: Node, rank: int) -> Node:
    if len(x.shape) == rank:
        return x
    return building.reshape(x, (1,) * (rank - len(x.shape)) + x.shape)


def _product(inputs: list[Node]) -> Node:
    result = inputs[0]
    for x in inputs[1:]:
        result = building.multiply(result, x)
    return result


def _sum(inputs: list[Node]) -> Node:
    shape = inputs[0].shape
    for x in inputs[1:]:
        # Of a batch of 1, Keras sees a value that varies along one axis.
        building.check_sum(shape, x.shape)
        shape = np.broadcast_shapes(shape, x.shape)
    return building.add(*inputs)


def _average(inputs: list[Node]) -> Node:
    return building.scale(_sum(inputs), 1.0 / len(inputs))


def concatenate(inputs: Sequence[Any], axis: int) -> Node:
    """Values side by side along an axis (counted with the batch axis)."""
    nodes = list(inputs)
    if not all(isinstance(node, Node) for node in nodes):
        raise NotImplementedError(
            "concatenation has a rule for bounded values only. A constant has no batch axis of its "
            "own: write keras.ops.zeros_like(x[:, :1]) + constant in its place."
        )
    rank = len(nodes[0].shape)
    axis = axis % (rank + 1)
    if axis == 0:
        raise NotImplementedError("concatenation along the batch axis mixes samples.")
    sizes = [node.shape[axis - 1] for node in nodes]

    # Along channels, windows are split; along other axes their places would differ.
    windowed = Split(tuple(sizes)) if axis == rank and rank > 1 else None
    return building.rearrange(lambda *xs: ops.concatenate(xs, axis=axis), *nodes, windowed=windowed)


def _concatenate(layer: Any, inputs: list[Node]) -> Node:
    return concatenate(inputs, layer.axis)


def _dot(layer: Any, inputs: list[Node]) -> Node:
    x, y = inputs
    if layer.normalize:
        raise NotImplementedError(
            "normalize=True has no rule. Put keras.layers.UnitNormalization before the layer."
        )
    if len(x.shape) == 1 and len(y.shape) == 1:
        product = building.multiply(x, y)
        return building.rearrange(
            lambda t: ops.sum(t, axis=-1, keepdims=True), product, terms=math.prod(x.shape)
        )
    given = [layer.axes] * 2 if isinstance(layer.axes, int) else layer.axes
    axes = [axis % (len(t.shape) + 1) for axis, t in zip(given, inputs, strict=True)]
    terms = ["b" + string.ascii_lowercase[2 : 2 + len(x.shape)]]
    terms.append("b" + string.ascii_uppercase[: len(y.shape)])
    shared = terms[0][axes[0]]
    terms[1] = terms[1].replace(terms[1][axes[1]], shared)
    output = (terms[0] + terms[1][1:]).replace(shared, "")
    return building.einsum(f"{terms[0]},{terms[1]}->{output}", x, y)


register_rule(keras.layers.Add, _merged(_sum))
register_rule(keras.layers.Subtract, _merged(lambda inputs: building.subtract(*inputs)))
register_rule(keras.layers.Multiply, _merged(_product))
register_rule(keras.layers.Average, _merged(_average))
register_rule(keras.layers.Maximum, _merged(building.maximum))
register_rule(keras.layers.Minimum, _merged(building.minimum))
register_rule(keras.layers.Concatenate, _concatenate)
register_rule(keras.layers.Dot, _dot)
