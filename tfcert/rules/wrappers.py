"""Rules of layers around other layers: both directions of a sequence, and each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert import graph
from tfcert.rules import building
from tfcert.rules.merging import concatenate
from tfcert.rules.primitives import Input, Node
from tfcert.rules.registry import lower, register_rule
from tfcert.rules.repeating import repeated
from tfcert.types import Tensor

__all__: list[str] = []


def _bidirectional(
    layer: Any, sequence: Node, initial_state: Any = None, mask: Any = None, training: Any = None
) -> Any:
    del mask, training
    both, states = [], []
    for i, inner in enumerate((layer.forward_layer, layer.backward_layer)):
        half = None
        if initial_state is not None:
            size = len(initial_state) // 2
            half = initial_state[i * size : (i + 1) * size]
        found = lower(inner, (sequence,), {"initial_state": half})
        if layer.return_state:
            found, *after = found
            states += after
        both.append(found)
    if layer.return_sequences:
        both[1] = _reversed(both[1])
    result = _MERGED[layer.merge_mode](both)
    if not layer.return_state:
        return result
    return (*(result if layer.merge_mode is None else [result]), *states)


def _reversed(sequence: Node) -> Node:
    def turn(value: Tensor) -> Tensor:
        return ops.flip(value, axis=1)

    return building.rearrange(turn, sequence, transposed=lambda rows, shape: turn(rows))


_MERGED: dict[str | None, Callable[[list[Node]], Any]] = {
    None: tuple,
    "concat": lambda both: concatenate(both, axis=-1),
    "sum": lambda both: building.add(*both),
    "ave": lambda both: building.scale(building.add(*both), 0.5),
    "mul": lambda both: building.multiply(*both),
}


def _time_distributed(layer: Any, sequence: Node, mask: Any = None, training: Any = None) -> Any:
    del mask, training
    entry, inner = Node(Input(), (), sequence.shape[1:]), layer.layer

    def visit(operation: Any, args: tuple, kwargs: dict, outputs: list) -> Any:
        del outputs
        return lower(operation, args, kwargs)

    if graph.wants_walk(inner):
        output = graph.interpret(inner, [entry], visit)
    else:
        output = lower(inner, (entry,), {})
    if not isinstance(output, Node):
        raise NotImplementedError(
            "it wraps a layer with several outputs. Wrap one layer for each of them."
        )
    (result,) = repeated([output], entry, sequence)
    return result


register_rule(keras.layers.Bidirectional, _bidirectional)
register_rule(keras.layers.TimeDistributed, _time_distributed)
