"""Bounds of linear functions of an output, for methods with and without sweeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from keras import ops

from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.refine import Lower, refine, refine_rows
from tfcert.bounds.sweep import sweep
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import dot
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

if TYPE_CHECKING:
    from tfcert.bounds.method import Method

__all__ = ["deciding_rows", "near_rows", "output_interval", "plain_sweeper"]

# Outputs up to this size are bounded row by row for all samples at once.
_GRID = 256


def plain_sweeper(evaluation: Evaluation, node: Node) -> Lower:
    """Bounds rows of a node by one sweep with the default lines."""
    evaluation.prepare(node, False)
    return lambda start, rows, frame, constant: sweep(evaluation, start, rows, frame, constant)


def near_rows(evaluation: Evaluation, node: Node, rows: Rows, frame: Frame) -> Tensor:
    """Bounds of rows by the intervals of the last nonlinear nodes, with all behind them folded."""
    if isinstance(node.primitive, Nonlinear) or evaluation.is_cut(node):
        center, radius = (frame.take(t, rows) for t in evaluation.center_tables(node))
        return dot(rows.coefficients, center) - dot(ops.abs(rows.coefficients), radius)
    return sweep(evaluation, node, rows, frame, stop=lambda n: isinstance(n.primitive, Nonlinear))


def output_interval(
    method: Method, evaluation: Evaluation, node: Node, sweeper: Lower | None
) -> Interval:
    """The interval of an output node, every entry of it bounded by the method's rows."""
    interval = evaluation.intervals[node]
    size, keep = math.prod(node.shape), sweeper is None or method.intersect
    if size <= _GRID:
        eye = ops.eye(size, dtype=evaluation.dtype)
        both = ops.concatenate([eye, -eye], axis=0)
        rows = ops.broadcast_to(both[None], (evaluation.batch, 2 * size, size))
        ends = method.rows(evaluation, node, rows, intersect=False)
        shape = (-1, *node.shape)
        lower = ops.reshape(ends[:, :size], shape)
        upper = ops.reshape(-ends[:, size:], shape)
        return interval.intersect(lower, upper) if keep else Interval.from_ends(lower, upper)
    if not keep:
        infinite = ops.full_like(interval.lower, math.inf)
        interval = Interval.from_ends(-infinite, infinite)
    wanted = ops.ones_like(interval.lower, dtype="bool")
    sweeper = sweeper or plain_sweeper(evaluation, node)
    return refine(evaluation, node, interval, wanted, sweeper, method.chunk_of(evaluation, node))


def deciding_rows(
    method: Method, evaluation: Evaluation, node: Node, rows: Tensor, sweeper: Lower
) -> Tensor:
    """Lower bounds of rows, swept where they decide the minimum.

    A row whose interval bound is no smaller than another row's swept one has no part in the
    minimum and is not swept. In networks that were trained with intervals these are most of them.
    """
    count = int(rows.shape[1])
    near = near_rows(evaluation, node, Rows(ops.reshape(rows, (-1, count, *node.shape))), Frame())
    # One row of each sample first: it tells which others can still matter.
    first = ops.one_hot(ops.argmin(near, axis=-1), count, dtype=evaluation.dtype)
    chosen = ops.einsum("br,brn->bn", first, rows)
    swept = sweeper(node, Rows(ops.reshape(chosen, (-1, 1, *node.shape))), Frame(), 0.0)
    near = ops.where(first > 0, ops.maximum(near, swept), near)
    if count == 1:
        return near
    least = ops.max(ops.where(first > 0, near, -math.inf), axis=-1, keepdims=True)
    wanted = ops.logical_and(near < least, first == 0)
    chunk = method.rows_at_once(evaluation, evaluation.network.largest, count)
    return refine_rows(evaluation, node, rows, near, wanted, sweeper, chunk)
