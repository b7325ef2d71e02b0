"""Bounds of single neurons by backward sweeps, a fixed number of them at a time.

Only neurons that need it are swept. Their list is made without dynamic shapes, and worked off in
chunks of one size in a loop, so that the compiled program depends neither on how many there are
nor on the size of the region.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.sweep import neuron_rows
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["Lower", "refine", "refine_rows"]

# lower(node, rows, frame, constant) -> lower bounds of rows, (groups, rows)
Lower = Callable[[Node, Rows, Frame, Any], Tensor]


def refine(
    evaluation: Evaluation,
    node: Node,
    interval: Interval,
    wanted: Tensor,
    lower: Lower,
    chunk: int,
) -> Interval:
    """Intersects the interval of a node with swept bounds of the wanted neurons.

    Args:
        evaluation: The evaluation; intervals of all nodes before this one are there.
        node: The node.
        interval: Its interval so far.
        wanted: Boolean, ``(batch, *shape)``.
        lower: How rows are bounded from below.
        chunk: Number of neurons in one turn of the loop.
    """
    size = math.prod(node.shape)
    flags = ops.reshape(wanted, (-1,))
    total = ops.shape(flags)[0]
    order, count = _compact(flags, chunk)
    start = ops.full((ops.shape(order)[0],), float("-inf"), dtype=evaluation.dtype)

    def running(turn: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
        del lows, highs
        return turn * chunk < count

    def body(turn: Tensor, lows: Tensor, highs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picked = ops.slice(order, [turn * chunk], [chunk])
        picked = ops.minimum(picked, total - 1)  # Fillers repeat a neuron and are dropped later.
        begin, rows, frame, constant = neuron_rows(evaluation, node, picked // size, picked % size)
        ends = lower(begin, rows, frame, constant)
        # Not a slice update: it has no gradient in TensorFlow.
        places = (turn * chunk + ops.arange(chunk, dtype="int32"))[:, None]
        lows = ops.scatter_update(lows, places, ends[:, 0])
        highs = ops.scatter_update(highs, places, ends[:, 1])
        return turn + 1, lows, highs

    turn = ops.convert_to_tensor(0, dtype="int32")
    turns = (ops.shape(order)[0] // chunk) if evaluation.trains else None
    _, lows, highs = backend.loop(running, body, (turn, start, start), gradients_for=turns)
    shape = (-1, *node.shape)
    return interval.intersect(
        ops.reshape(_scattered(order, lows, total), shape),
        ops.reshape(-_scattered(order, highs, total), shape),
    )


def refine_rows(
    evaluation: Evaluation,
    node: Node,
    rows: Tensor,
    known: Tensor,
    wanted: Tensor,
    lower: Lower,
    chunk: int,
) -> Tensor:
    """Raises lower bounds of the wanted rows of an output to swept ones.

    Args:
        evaluation: The evaluation; intervals of all nodes are there.
        node: The output node.
        rows: Coefficients, ``(batch, rows, size of the output)``.
        known: Their lower bounds so far, ``(batch, rows)``.
        wanted: Boolean, ``(batch, rows)``.
        lower: How rows are bounded from below.
        chunk: Number of rows in one turn of the loop.
    """
    several = int(rows.shape[1])
    flat = ops.reshape(rows, (-1, *node.shape))
    flags = ops.reshape(wanted, (-1,))
    total = ops.shape(flags)[0]
    order, count = _compact(flags, chunk)
    start = ops.full((ops.shape(order)[0],), float("-inf"), dtype=evaluation.dtype)

    def body(turn: Tensor, lows: Tensor) -> tuple[Tensor, Tensor]:
        picked = ops.slice(order, [turn * chunk], [chunk])
        picked = ops.minimum(picked, total - 1)  # Fillers repeat a row and are dropped later.
        part = Rows(ops.take(flat, picked, axis=0)[:, None])
        ends = lower(node, part, Frame(picked // several), 0.0)
        return turn + 1, ops.slice_update(lows, [turn * chunk], ends[:, 0])

    turn = ops.convert_to_tensor(0, dtype="int32")
    _, lows = backend.loop(lambda turn, _: turn * chunk < count, body, (turn, start))
    swept = ops.reshape(_scattered(order, lows, total), (-1, several))
    return ops.maximum(known, swept)


def _compact(flags: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Positions of the true entries first, and their number; the rest points behind the end."""
    total = ops.shape(flags)[0]
    length = -(-total // chunk) * chunk
    number = ops.cast(flags, "int32")
    place = ops.cumsum(number) - number
    place = ops.where(flags, place, length)
    order = ops.full((length + 1,), total, dtype="int32")
    order = ops.scatter_update(order, place[:, None], ops.arange(total, dtype="int32"))
    return order[:-1], ops.sum(number)


def _scattered(order: Tensor, values: Tensor, total: Any) -> Tensor:
    """The values at their positions, -inf elsewhere."""
    filled = ops.full((total + 1,), float("-inf"), dtype=values.dtype)
    return ops.scatter_update(filled, order[:, None], values)[:-1]
