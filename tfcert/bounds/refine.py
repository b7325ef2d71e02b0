"""Bounds of single neurons by backward sweeps, a fixed number of them at a time.

Only neurons that need it are swept. In a compiled program their list is made without dynamic
shapes, and worked off in chunks of one size in a loop, so that the program depends neither on how
many there are nor on the size of the region. Where operations are carried out one by one, the list
is looked at, and nothing is swept in vain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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

    def sweep_some(picked: Tensor) -> Tensor:
        begin, rows, frame, constant = neuron_rows(evaluation, node, picked // size, picked % size)
        return lower(begin, rows, frame, constant)

    turns = evaluation.trains
    swept = _swept(sweep_some, wanted, chunk, columns=2, dtype=evaluation.dtype, trains=turns)
    if swept is None:
        return interval
    low, high = ops.split(swept, 2, axis=-1)
    shape = (-1, *node.shape)
    return interval.intersect(ops.reshape(low, shape), ops.reshape(-high, shape))


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
    flat = ops.reshape(rows, (-1, 1, *node.shape))

    def sweep_some(picked: Tensor) -> Tensor:
        part = Rows(backend.gather(flat, picked))
        return lower(node, part, Frame(picked // several), 0.0)

    swept = _swept(sweep_some, wanted, chunk, columns=1, dtype=evaluation.dtype)
    return known if swept is None else ops.maximum(known, ops.reshape(swept, (-1, several)))


def _swept(
    sweep_some: Callable[[Tensor], Tensor],
    wanted: Tensor,
    chunk: int,
    *,
    columns: int,
    dtype: str,
    trains: bool = False,
) -> Tensor | None:
    """What ``sweep_some`` gives at the wanted places, -inf elsewhere, ``(places, columns)``.

    Args:
        sweep_some: From flat places, ``(n,)``, to ``(n, columns)``.
        wanted: Boolean; flat places count its entries.
        chunk: How many places at a time.
        columns: Numbers for each place.
        dtype: Their type.
        trains: Whether gradients flow through.

    Returns:
        None where it is known that nothing is wanted.
    """
    flags = ops.reshape(wanted, (-1,))
    total = ops.shape(flags)[0]
    if backend.runs_at_once():
        places = np.flatnonzero(ops.convert_to_numpy(flags)).astype("int32")
        if not len(places):
            return None
        parts = [
            sweep_some(ops.convert_to_tensor(part))
            for part in np.array_split(places, -(-len(places) // chunk))
        ]
        ends = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=0)
        return _scattered(ops.convert_to_tensor(places), ends, total)

    order, count = _compact(flags, chunk)
    length = ops.shape(order)[0]

    def body(turn: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        begin = turn * chunk
        picked = ops.slice(order, [begin], [chunk])
        # Fillers repeat a place and are dropped later.
        some = sweep_some(ops.minimum(picked, total - 1))
        # Not a slice update: it has no gradient in TensorFlow.
        places = ops.expand_dims(begin + ops.arange(chunk, dtype="int32"), 1)
        return turn + 1, ops.scatter_update(ends, places, some)

    start = ops.full((length, columns), -math.inf, dtype=dtype)
    turns = (length // chunk) if trains else None
    _, ends = backend.loop(
        lambda turn, _: turn * chunk < count,
        body,
        (ops.convert_to_tensor(0, dtype="int32"), start),
        gradients_for=turns,
    )
    return _scattered(order, ends, total)


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
    filled = ops.full((total + 1, values.shape[1]), -math.inf, dtype=values.dtype)
    return ops.scatter_update(filled, ops.expand_dims(order, 1), values)[:-1]
