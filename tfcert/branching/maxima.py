"""Maxima as trees of pairs, so that they can be split like other functions.

``max(a, b) = b + relu(a - b)``: the sign of ``a - b`` says which entry is the largest. A network
whose maxima (max pooling, ``keras.ops.maximum``, ``keras.ops.max``) are written in this way has
units there, with slopes, multipliers and linear programs as every ReLU.

A function that never falls and keeps 0, such as a ReLU, gives the same before a maximum as behind
it. It is moved behind the maximum: the values that are compared then are those of the layer before,
whose difference has no relaxation in it, and there is one function left for each window.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.network import Network, derived_from, network_of
from tfcert.relaxations import TwoPiece
from tfcert.rules import building
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Rearrange
from tfcert.rules.nonlinear import Elementwise, MaxReduce
from tfcert.rules.primitives import Node

__all__ = ["splittable"]


def splittable(model: keras.Model) -> Network:
    """Returns the network of a model with all maxima as trees of pairs."""
    return derived_from(model).once(_splittable)


def _splittable(model: keras.Model) -> Network:
    network = network_of(model)
    if not any(isinstance(node.primitive, MaxReduce) for node in network.nodes):
        return network
    made: dict[Node, Node] = {network.input: network.input}
    for node in network.nodes:
        if node not in made:
            made[node] = _copied(node, made)
    return network.with_outputs(keras.tree.map_structure(lambda node: made[node], network.outputs))


def _copied(node: Node, made: dict[Node, Node]) -> Node:
    """A node that reads copies; a maximum becomes a tree."""
    if isinstance(node.primitive, MaxReduce):
        return _maximum(node, made)
    enclosure = node.enclosure
    if enclosure is not None:
        enclosure = enclosure[0], tuple(made[source] for source in enclosure[1])
    inputs = [made[source] for source in node.inputs]
    return Node(node.primitive, inputs, node.shape, node.name, enclosure)


def _maximum(node: Node, made: dict[Node, Node]) -> Node:
    """The maximum over the last axis of what a node reads, by pairs."""
    function, entries = _before(node.inputs[0], made)
    primitive = node.primitive
    assert isinstance(primitive, MaxReduce)
    if primitive.present is not None:
        entries = _filled(entries, np.broadcast_to(primitive.present, entries.shape))
    last = entries
    while last.shape[-1] > 1:
        last = _halved(last)

    def ends(whole: Interval) -> Interval:
        return Interval.from_ends(ops.max(whole.lower, axis=-1), ops.max(whole.upper, axis=-1))

    result = building.reshape(last, node.shape)
    # Differences forget how large the entries are.
    result.enclosure = ends, (entries,)
    result = result if function is None else building.curve(function, result)
    _name(result, set(made.values()), node.name)
    return result


def _before(source: Node, made: dict[Node, Node]) -> tuple[TwoPiece | None, Node]:
    """The function that can be moved behind the maximum, and the entries without it."""
    moves = []
    while isinstance(source.primitive, Rearrange) and source.primitive.terms == 1:
        if len(source.inputs) != 1:
            break
        moves.append(source)
        source = source.inputs[0]
    primitive = source.primitive
    if isinstance(primitive, Elementwise) and primitive.variable is None:
        curve = primitive.parameters("float32")
        # Moves may fill up with zeros, which such functions keep.
        if isinstance(curve, TwoPiece) and _never_falls(curve):
            entries = made[source.inputs[0]]
            for move in reversed(moves):
                entries = Node(move.primitive, [entries], move.shape, move.name)
            return curve, entries
    return None, made[moves[0] if moves else source]


def _never_falls(curve: TwoPiece) -> bool:
    slope = curve.negative_slope
    return isinstance(slope, float | int) and slope >= 0


def _filled(entries: Node, present: np.ndarray) -> Node:
    """The entries with those that take no part replaced by the first one that does."""
    size = present.shape[-1]
    own = np.where(present, np.arange(size), present.argmax(axis=-1)[..., None])
    picked = np.eye(size)[own]  # (..., to, from)

    def fill(values: Any) -> Any:
        return ops.take_along_axis(values, ops.broadcast_to(own[None], values.shape), axis=-1)

    def transposed(coefficients: Any, shape: tuple[int, ...]) -> Any:
        del shape
        return ops.sum(coefficients[..., None] * ops.cast(picked, coefficients.dtype), axis=-2)

    return Node(Rearrange(fill, transposed=transposed, repeats=True), [entries], entries.shape)


def _halved(entries: Node) -> Node:
    """The larger one of every two entries of the last axis, the odd one as it is."""
    size = entries.shape[-1]
    pairs, odd = size // 2, size % 2
    first, second = np.eye(size)[:, : 2 * pairs : 2], np.eye(size)[:, 1 : 2 * pairs : 2]
    rectified = building.curve(TwoPiece(0.0, name="relu"), building.dense(entries, first - second))
    larger = building.add(building.dense(entries, second), rectified)
    if not odd:
        return larger
    alone = building.rearrange(lambda t: t[..., -1:], entries)
    return building.rearrange(lambda a, b: ops.concatenate([a, b], axis=-1), larger, alone)


def _name(node: Node, known: set[Node], name: str) -> None:
    """Names the new nodes behind a layer after it."""
    stack = [node]
    while stack:
        top = stack.pop()
        if not top.name and top not in known:
            top.name = name
            stack.extend(top.inputs)
