"""Runs a method over a network: intermediate bounds first, then the rows that were asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcert.bounds import methods
from tfcert.bounds.alpha import optimised_lower
from tfcert.bounds.balls import BallEvaluation
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.refine import refine, refine_rows
from tfcert.bounds.sweep import sweep
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import dot
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Bounds, Tensor

__all__ = ["evaluate", "least_rows", "lower_rows", "node_bounds"]

# Outputs up to this size are bounded row by row for all samples at once.
_GRID = 256
# Entries of the widest tensor of one turn of a chunked sweep: small enough for a cache.
_CHUNK_ENTRIES = 1 << 18
# Tensors of the size of the coefficients that a sweep holds at a time, about.
_COPIES = 6


def evaluate(
    network: Network,
    region: Region,
    bound: BoundRegion,
    method: methods.Method,
    moments: dict[Node, Any] | None = None,
    trains: bool = False,
    point: Tensor = None,
) -> Evaluation:
    """Bounds of all nodes that a method needs before it answers for the outputs.

    ``point`` are the inputs that the region is put around; only the margin rule wants them.
    """
    kind: Any = Evaluation
    if isinstance(method, methods.Lipschitz):
        kind = functools.partial(BallEvaluation, point=point)
    evaluation = kind(
        network,
        region,
        bound,
        slope=getattr(method, "slope", "adaptive"),
        moments=moments,
        unit=2.0**-24 if method.float_safe else None,
        dtype="float64" if method.float_safe else None,
        trains=trains,
    )
    if isinstance(method, methods.AlphaCrown) and method.optimize_intermediate:
        # Tighter intervals may give looser default lines behind them: keep both results.
        plain = dataclasses.replace(method, optimize_intermediate=False)
        evaluation.base = (evaluate(network, region, bound, plain, moments, trains), plain)
    rough = isinstance(method, methods.Lipschitz)  # Nothing shapes a relaxation.
    needed = set() if rough else set(network.needing_bounds())
    for node in network.nodes:
        interval = evaluation.interval_step(node)
        if node in needed:
            interval = _tightened(evaluation, method, node, interval)
            if evaluation.base is not None:
                interval = interval.intersect(*evaluation.base[0].intervals[node].bounds)
        evaluation.intervals[node] = interval
    return evaluation


def _tightened(
    evaluation: Evaluation, method: methods.Method, node: Node, interval: Interval
) -> Interval:
    """The interval of a node that a nonlinear one reads, as tight as the method asks for."""
    network = evaluation.network
    mixing = network.mixing[node]
    box = evaluation.region.norm == math.inf or network.boxed[node]
    if mixing >= 0:  # An affine function of the input, or of intervals: one sweep is exact.
        exact = mixing == 0 or (box and mixing == 1 and evaluation.unit is None)
        if exact or (box and not isinstance(method, methods.Crown)):
            return interval
        wanted = interval.upper > interval.lower
    elif isinstance(method, methods.Crown):
        wanted = _wanted(evaluation, node, interval)
    else:
        return interval
    chunk = _chunk(evaluation, method, node)
    lower = _lower(evaluation, method, node, intermediate=True)
    return refine(evaluation, node, interval, wanted, lower, chunk)


def _wanted(evaluation: Evaluation, node: Node, interval: Interval) -> Tensor:
    """Where the relaxations of the nodes that read this one would profit from tighter bounds."""
    wanted = ops.zeros_like(interval.lower, dtype="bool")
    for reader, place in evaluation.network.reads[node]:
        intervals = [
            interval if source is node else evaluation.intervals.get(source, None)
            for source in reader.inputs
        ]
        primitive = reader.primitive
        assert isinstance(primitive, Nonlinear)
        known = [other for other in intervals if other is not None]
        if len(known) < len(intervals):
            here = interval.upper > interval.lower  # The other factor comes later.
        else:
            here = primitive.unstable(evaluation.parameters[reader], *known)[place]
        wanted = ops.logical_or(wanted, ops.broadcast_to(here, ops.shape(wanted)))
    return wanted


def _lower(
    evaluation: Evaluation, method: methods.Method, start: Node, intermediate: bool
) -> Callable[[Node, Rows, Frame, Any], Tensor]:
    """How rows are bounded from below."""
    alpha = method if isinstance(method, methods.AlphaCrown) else None
    if alpha is not None and intermediate and not alpha.optimize_intermediate:
        alpha = None
    evaluation.prepare(start, alpha is not None)
    if alpha is not None:
        return lambda node, rows, frame, constant: optimised_lower(
            evaluation, alpha, node, rows, frame, constant
        )
    return lambda node, rows, frame, constant: sweep(evaluation, node, rows, frame, constant)


def _chunk(evaluation: Evaluation, method: methods.Method, node: Node) -> int:
    """Neurons per turn, so that a turn stays in a cache and within ``max_memory``."""
    if isinstance(method, methods.Crown) and method.chunk is not None:
        return method.chunk
    return _fitting(evaluation, method, evaluation.network.widest(node), math.prod(node.shape))


def _fitting(evaluation: Evaluation, method: methods.Method, widest: int, per_sample: int) -> int:
    """Pairs of rows of so many entries for one turn, where a sample has so many of them."""
    itemsize = np.dtype(evaluation.dtype).itemsize
    copies = _COPIES * (8 if isinstance(method, methods.AlphaCrown) else 1)
    most = method.max_memory // (2 * widest * itemsize * copies)
    best = max(8, _CHUNK_ENTRIES // (2 * widest))
    if isinstance(evaluation.batch, int):
        best = min(best, evaluation.batch * per_sample)
    return int(max(1, min(most, best)))


def node_bounds(evaluation: Evaluation, method: methods.Method, node: Node) -> Bounds:
    """Bounds of an output node."""
    lower, upper = _node_bounds(evaluation, method, node)
    if evaluation.base is not None:
        other = _node_bounds(*evaluation.base, node)
        lower, upper = Interval.from_ends(lower, upper).intersect(*other).bounds
    return Bounds(evaluation.executed(lower, -1.0), evaluation.executed(upper, 1.0))


def _node_bounds(evaluation: Evaluation, method: methods.Method, node: Node) -> Bounds:
    interval = evaluation.intervals[node]
    size = math.prod(node.shape)
    box = evaluation.region.norm == math.inf or evaluation.network.boxed[node]
    prefix = not box and evaluation.network.mixing[node] > 0
    backward = method if isinstance(method, methods.Backward) else None
    if backward is None and not prefix:
        return interval.bounds
    keep = backward is None or backward.intersect
    if size <= _GRID:
        eye = ops.eye(size, dtype=evaluation.dtype)
        both = ops.concatenate([eye, -eye], axis=0)
        rows = ops.broadcast_to(both[None], (evaluation.batch, 2 * size, size))
        ends = _lower_rows(evaluation, method, node, rows, intersect=False)
        shape = (-1, *node.shape)
        lower = ops.reshape(ends[:, :size], shape)
        upper = ops.reshape(-ends[:, size:], shape)
        if keep:
            return interval.intersect(lower, upper).bounds
        return Bounds(lower, upper)
    everything = Interval.from_ends(
        ops.full_like(interval.lower, float("-inf")), ops.full_like(interval.upper, float("inf"))
    )
    return refine(
        evaluation,
        node,
        interval if keep else everything,
        ops.ones_like(interval.lower, dtype="bool"),
        _lower(evaluation, method, node, intermediate=False),
        _chunk(evaluation, method, node),
    ).bounds


def lower_rows(
    evaluation: Evaluation,
    method: methods.Method,
    node: Node,
    rows: Tensor,
    intersect: bool,
) -> Tensor:
    """Lower bounds of linear functions of an output node.

    Args:
        evaluation: From ``evaluate`` with the same method.
        method: The method.
        node: The output node.
        rows: Coefficients, ``(batch, rows, size of the output)``.
        intersect: Whether to take the larger of the method's and the interval bound.

    Returns:
        ``(batch, rows)``.
    """
    return evaluation.executed(_lower_rows(evaluation, method, node, rows, intersect), -1.0)


def _lower_rows(
    evaluation: Evaluation, method: methods.Method, node: Node, rows: Tensor, intersect: bool
) -> Tensor:
    shape = tuple(rows.shape)
    coefficients = Rows(ops.reshape(rows, (-1, shape[1], *node.shape)))
    frame = Frame()
    if not isinstance(method, methods.Backward):
        return _near(evaluation, node, coefficients, frame)
    lower = _lower(evaluation, method, node, intermediate=False)(node, coefficients, frame, 0.0)
    if intersect:
        lower = ops.maximum(lower, _near(evaluation, node, coefficients, frame))
    if evaluation.base is not None:
        lower = ops.maximum(lower, _lower_rows(*evaluation.base, node, rows, intersect=False))
    return lower


def least_rows(evaluation: Evaluation, method: methods.Method, node: Node, rows: Tensor) -> Tensor:
    """The least of several rows' lower bounds, ``(batch,)``; NaN where one of them is.

    The minimum of what ``lower_rows`` gives with the interval bounds, for less: a row whose
    interval bound is no smaller than another row's swept one has no part in it and is not swept.
    In networks that were trained with intervals these are most of them.
    """
    if not isinstance(method, methods.Backward) or evaluation.base is not None:
        lower = _lower_rows(evaluation, method, node, rows, intersect=True)
    else:
        lower = _deciding_rows(evaluation, method, node, rows)
    # A minimum may pass over NaN.
    known = ops.logical_not(ops.any(ops.isnan(lower), axis=-1))
    least = ops.where(known, ops.min(lower, axis=-1), math.nan)
    return evaluation.executed(least, -1.0)


def _deciding_rows(
    evaluation: Evaluation, method: methods.Backward, node: Node, rows: Tensor
) -> Tensor:
    """Lower bounds of rows, swept where they decide the minimum."""
    count = int(rows.shape[1])
    near = _near(evaluation, node, Rows(ops.reshape(rows, (-1, count, *node.shape))), Frame())
    lower = _lower(evaluation, method, node, intermediate=False)
    # One row of each sample first: it tells which others can still matter.
    first = ops.one_hot(ops.argmin(near, axis=-1), count, dtype=evaluation.dtype)
    chosen = ops.einsum("br,brn->bn", first, rows)
    swept = lower(node, Rows(ops.reshape(chosen, (-1, 1, *node.shape))), Frame(), 0.0)
    near = ops.where(first > 0, ops.maximum(near, swept), near)
    if count == 1:
        return near
    least = ops.max(ops.where(first > 0, near, -math.inf), axis=-1, keepdims=True)
    wanted = ops.logical_and(near < least, first == 0)
    chunk = _fitting(evaluation, method, evaluation.network.largest, count)
    return refine_rows(evaluation, node, rows, near, wanted, lower, chunk)


def _near(evaluation: Evaluation, node: Node, rows: Rows, frame: Frame) -> Tensor:
    """Bounds of rows by the intervals of the last nonlinear nodes, with all behind them folded."""
    if isinstance(node.primitive, Nonlinear):
        center, radius = (frame.take(t, rows) for t in evaluation.center_tables(node))
        return dot(rows.coefficients, center) - dot(ops.abs(rows.coefficients), radius)
    return sweep(evaluation, node, rows, frame, stop=lambda n: isinstance(n.primitive, Nonlinear))
