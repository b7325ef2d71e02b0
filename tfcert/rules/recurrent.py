"""Rules of recurrent layers: every step of the sequence becomes a part of the graph.

A cell is written in two halves. The first projects inputs and acts on the last axis alone, so that
one matrix serves all steps; the second makes one step from the projected input and the states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.rules import building
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Sum
from tfcert.rules.nonlinear import Elementwise, Product
from tfcert.rules.primitives import Constant, Node
from tfcert.rules.registry import apply, lower, register_rule
from tfcert.types import Tensor

__all__: list[str] = []

# step(cell, projected input, states) -> (output, states behind the step)
Step = Callable[[Any, Node, list], tuple[Node, list]]


# Pieces of values.


def _part(x: Node, begin: int, end: int) -> Node:
    """Entries of the last axis."""
    after = x.shape[-1] - end

    def pad(coefficients: Tensor, shape: tuple[int, ...]) -> Tensor:
        still = [(0, 0)] * len(shape)
        return backend.pad(coefficients, [*still, (begin, after)])

    return building.rearrange(lambda value: value[..., begin:end], x, transposed=pad)


def _parts(x: Node, count: int) -> list[Node]:
    """The last axis in equal parts."""
    size = x.shape[-1] // count
    return [_part(x, i * size, (i + 1) * size) for i in range(count)]


def _at(sequence: Node, place: int) -> Node:
    """One step of a sequence."""
    after = sequence.shape[0] - place - 1

    def pad(coefficients: Tensor, shape: tuple[int, ...]) -> Tensor:
        still = [(0, 0)] * (len(shape) - 1)
        widths = [(0, 0), (place, after), *still]
        return backend.pad(ops.expand_dims(coefficients, 1), widths)

    return building.rearrange(lambda value: value[:, place], sequence, transposed=pad)


def _activated(
    function: Any, x: Node, count: int, places: Sequence[int] | None = None
) -> list[Node]:
    """An activation of parts of the last axis, all of them or those at some places.

    Where it acts on every entry alone, all entries are activated, also those of parts that another
    activation is for: then the parts are bounded by one sweep from x.
    """
    places = range(count) if places is None else places
    whole = building.activation(function, x)
    if whole.inputs == (x,) and _takes_any_number(whole.primitive):
        parts = _parts(whole, count)
        return [parts[place] for place in places]
    parts = _parts(x, count)
    return [building.activation(function, parts[place]) for place in places]


def _takes_any_number(primitive: Any) -> bool:
    if not isinstance(primitive, Elementwise) or primitive.variable is not None:
        return False
    curve = primitive.parameters("float32")
    return curve.domain == (-math.inf, math.inf) and not curve.poles


class _Gated(Product):
    """``gate * x``: of factors that are equally steady, the gate is known better.

    States have come through all steps before.
    """

    def prefers_first(self, x: Interval, y: Interval) -> Tensor:
        return ops.ones_like(x.lower, dtype="bool")


def _gated(gate: Node, x: Node) -> Node:
    return apply(_Gated(), gate, x)


# Cells.


def _project(cell: Any, x: Node) -> Node:
    return building.dense(x, cell.kernel, cell.bias)


def _simple_step(cell: Any, x: Node, states: list) -> tuple[Node, list]:
    total = building.add(x, building.dense(states[0], cell.recurrent_kernel))
    output = building.activation(cell.activation, total)
    return output, [output]


def _lstm_step(cell: Any, x: Node, states: list) -> tuple[Node, list]:
    hidden, carry = states
    total = building.add(x, building.dense(hidden, cell.recurrent_kernel))
    enter, forget, leave = _activated(cell.recurrent_activation, total, 4, (0, 1, 3))
    (candidate,) = _activated(cell.activation, total, 4, (2,))
    carry = building.add(_gated(forget, carry), _gated(enter, candidate))
    output = _gated(leave, building.activation(cell.activation, carry))
    return output, [output, carry]


def _gru_project(cell: Any, x: Node) -> Node:
    bias = cell.bias
    if bias is not None and cell.reset_after:
        bias = lambda: cell.bias[0]  # noqa: E731
    return building.dense(x, cell.kernel, bias)


def _gru_step(cell: Any, x: Node, states: list) -> tuple[Node, list]:
    (hidden,), units = states, cell.units
    if cell.reset_after:
        bias = None if cell.bias is None else lambda: cell.bias[1]
        from_state = building.dense(hidden, cell.recurrent_kernel, bias)
    else:
        from_state = building.dense(hidden, lambda: cell.recurrent_kernel[:, : 2 * units])
    gates = building.add(_part(x, 0, 2 * units), _part(from_state, 0, 2 * units))
    update, reset = _activated(cell.recurrent_activation, gates, 2)
    if cell.reset_after:
        kept = _gated(reset, _part(from_state, 2 * units, 3 * units))
    else:
        kept = building.dense(_gated(reset, hidden), lambda: cell.recurrent_kernel[:, 2 * units :])
    candidate = building.activation(
        cell.activation, building.add(_part(x, 2 * units, 3 * units), kept)
    )
    output = _blend(update, hidden, candidate)
    return output, [output]


class _Blended(Sum):
    """``gate * first + (1 - gate) * second``, from both products."""

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        raise NotImplementedError(
            "mixes two states by a gate, for which float_safe has no rounding analysis. "
            "Use float_safe=False."
        )


def _blend(gate: Node, first: Node, second: Node) -> Node:
    """``gate * first + (1 - gate) * second``.

    Planes of two products pass on less of what is not known of the states than those of
    ``second + gate * (first - second)``: the least gate on one, the least of ``1 - gate`` on the
    other. Intervals are those of the mixture, where the gate is the same.
    """
    rest = building.scale(gate, -1.0, 1.0)
    result = apply(_Blended(), _gated(gate, first), _gated(rest, second))
    return Node(
        result.primitive,
        result.inputs,
        result.shape,
        enclosure=(_blended_interval, (gate, first, second)),
    )


def _blended_interval(gate: Interval, first: Interval, second: Interval) -> Interval:
    """The exact range: the mixture is linear in each of the three, so its ends are at corners."""

    def least(weight: Tensor, x: Interval) -> Tensor:
        return ops.minimum(weight * x.lower, weight * x.upper)

    def most(weight: Tensor, x: Interval) -> Tensor:
        return ops.maximum(weight * x.lower, weight * x.upper)

    ends = (gate.lower, gate.upper)
    low = [least(end, first) + least(1.0 - end, second) for end in ends]
    high = [most(end, first) + most(1.0 - end, second) for end in ends]
    return Interval.from_ends(ops.minimum(*low), ops.maximum(*high))


_CELLS: dict[type, tuple[Callable[[Any, Node], Node], Step]] = {
    keras.layers.SimpleRNNCell: (_project, _simple_step),
    keras.layers.LSTMCell: (_project, _lstm_step),
    keras.layers.GRUCell: (_gru_project, _gru_step),
}


def _call_cell(cell: Any, x: Node, states: list) -> tuple[Node, list]:
    """One step of any cell, by its own rule."""
    if not isinstance(cell, keras.layers.Layer):
        raise NotImplementedError(
            f"its cell {type(cell).__name__} is no keras.layers.Layer. Make the cell a layer, and "
            "register a rule for it with tfcert.register_rule."
        )
    result = lower(cell, (x, states), {})
    if not isinstance(result, Sequence) or len(result) != 2:
        raise NotImplementedError(
            f"the rule of its cell {type(cell).__name__} must return the output and the new "
            "states, as the cell's call does."
        )
    output, after = result
    return output, list(after) if keras.tree.is_nested(after) else [after]


def _stacked(layer: Any, x: Node, states: list) -> tuple[Node, list]:
    """Cells on top of each other; the states of each are kept in the form that it was given."""
    after = []
    for cell, given in zip(layer.cells, states, strict=True):
        nested = keras.tree.is_nested(given)
        x, own = _call_cell(cell, x, list(given) if nested else [given])
        after.append(own if nested or len(own) > 1 else own[0])
    return x, after


def _cell_rule(cell: Any, x: Node, states: Any) -> tuple[Node, list]:
    project, step = _CELLS[type(cell)]
    return step(cell, project(cell, x), list(states))


# Layers.


def _initial_value(layer: Any, place: int) -> Callable[[], Tensor]:
    """A state that the layer starts with, read at every evaluation: it may depend on weights."""
    return lambda: keras.tree.flatten(layer.get_initial_state(1))[place][0]


def _initial_nodes(layer: Any, given: Any) -> list:
    """The states that a layer starts with, in the structure that its cell takes."""
    if given is None:
        begin = layer.get_initial_state(1)
        nodes = [
            Node(Constant(_initial_value(layer, i)), (), tuple(state.shape)[1:])
            for i, state in enumerate(keras.tree.flatten(begin))
        ]
        return keras.tree.pack_sequence_as(begin, nodes)
    given = list(given) if keras.tree.is_nested(given) else [given]
    return keras.tree.map_structure(_given_state, given)


def _given_state(state: Any) -> Node:
    if isinstance(state, Node):
        return state
    if isinstance(state, keras.Variable):
        raise NotImplementedError(
            "its initial_state is a variable outside of any layer. Make the state the output of a "
            "layer, or give an array of shape (1, units)."
        )
    array = ops.convert_to_numpy(state)
    if array.ndim < 2 or array.shape[0] != 1:
        raise NotImplementedError(
            f"its initial_state is a constant of shape {array.shape}, which has one state for each "
            "sample of a batch. Give one state for all samples, of shape (1, units)."
        )
    return building.as_node(array[0])


def _run(layer: Any, sequence: Node, initial_state: Any) -> tuple[list[Node], list]:
    """All outputs of a recurrent layer, in the order of its steps, and its last states."""
    if layer.stateful:
        raise NotImplementedError(
            "it is stateful, so what it computes depends on the calls before. Rebuild it with "
            "stateful=False, and hand states over as initial_state."
        )
    states = _initial_nodes(layer, initial_state)
    project, step = _CELLS.get(type(layer.cell), (lambda cell, x: x, _call_cell))
    inputs = project(layer.cell, sequence)
    count, outputs = sequence.shape[0], []
    for place in reversed(range(count)) if layer.go_backwards else range(count):
        output, states = step(layer.cell, _at(inputs, place), states)
        outputs.append(output)
    return outputs, states


def _recurrent(
    layer: Any, sequence: Node, initial_state: Any = None, mask: Any = None, training: Any = None
) -> Any:
    del mask, training
    outputs, states = _run(layer, sequence, initial_state)
    result = outputs[-1]
    if layer.return_sequences:
        result = building.rearrange(lambda *steps: ops.stack(steps, axis=1), *outputs)
    return (result, *states) if layer.return_state else result


for _kind in _CELLS:
    register_rule(_kind, _cell_rule)
register_rule(keras.layers.StackedRNNCells, _stacked)
for _kind in (keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU):
    register_rule(_kind, _recurrent)
