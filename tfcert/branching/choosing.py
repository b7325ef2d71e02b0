"""The choice of the unit to split: estimates from one backward sweep, then trials of the best
units.

The estimate of a unit is its *loss*: what the intercepts of the lines around its function take from
the bound. Let ``a`` be the coefficient that arrives at the function in the sweep that gives the
bound, and ``low <= 0 <= high`` the intercepts of the lower and the upper line. Then the loss is
``-(max(a, 0) low + min(a, 0) high)``. On both halves of a split the function is linear, and both
intercepts are 0. For a unit that is split at the middle of its interval the loss is what both lines
are away from the function there.

Reference: Bunel et al., 2020, https://arxiv.org/abs/1909.06588 (estimates from the intercepts);
De Palma et al., 2021, https://arxiv.org/abs/2104.06718 (trials of the best few).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.bounds.evaluation import Evaluation
from tfcert.branching.layout import Layout
from tfcert.relaxations import Lines
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["best_units", "cuts", "decided", "estimates", "preferred"]

# Estimates of units that look harmless: above 0, so that they can still be split, and below others.
_LEAST = 1e-6
# Intervals that are not split any further, relative to the size of their values.
_NARROW = 1e-4


def decided(evaluation: Evaluation, layout: Layout) -> Tensor:
    """Returns the piece of each unit, ``(batch, units)``: 1 or -1 if its interval decides, else
    0."""
    parts = []
    for spot, smooth in zip(layout.units, layout.smooth, strict=True):
        lower, upper = evaluation.intervals[evaluation.network.nodes[spot.place]].bounds
        piece = ops.where(lower >= 0, 1, ops.where(upper <= 0, -1, 0))
        piece = ops.zeros_like(piece) if smooth else piece
        parts.append(ops.reshape(ops.cast(piece, "int8"), (-1, spot.stop - spot.start)))
    return ops.concatenate(parts, axis=-1)


def cuts(evaluation: Evaluation, layout: Layout, units: Tensor) -> Tensor:
    """Where some units of each domain would be split, in the shape of ``units``.

    Args:
        evaluation: Holds the intervals.
        layout: Says where the units stand.
        units: Flat units, ``(batch, count)``; the value for -1 means nothing.
    """
    parts = []
    for spot, smooth in zip(layout.units, layout.smooth, strict=True):
        interval = evaluation.intervals[evaluation.network.nodes[spot.place]]
        point = interval.center if smooth else ops.zeros_like(interval.lower)
        parts.append(ops.reshape(point, (-1, spot.stop - spot.start)))
    return ops.take_along_axis(ops.concatenate(parts, axis=-1), ops.maximum(units, 0), axis=1)


def estimates(
    evaluation: Evaluation,
    layout: Layout,
    coefficients: Mapping[Node, Tensor],
    slopes: Mapping[int, Any],
    chosen: Tensor,
) -> Tensor:
    """Returns the possible gain of splitting each unit, ``(batch, units)``; -1 if it cannot be
    split.

    Args:
        evaluation: Holds the intervals.
        layout: Says where the units stand.
        coefficients: Those that arrive at each node in the sweep, ``(batch, rows, *shape)``.
        slopes: The slopes of that sweep, ``{place: [lower, upper]}``, with rows likewise.
        chosen: One-hot, ``(batch, rows)``: which row counts.
    """
    parts = []
    for spot, readers, smooth in zip(layout.units, layout.readers, layout.smooth, strict=True):
        interval = evaluation.intervals[evaluation.network.nodes[spot.place]]
        of_spot = _smooth_loss if smooth else _two_piece_loss
        nodes = [evaluation.network.nodes[place] for place in readers]
        readings = []
        for place, node in zip(readers, nodes, strict=True):
            own = [None if slope is None else _of_row(slope, chosen) for slope in slopes[place]]
            lines = _lines(evaluation, node, own, *interval.bounds)
            readings.append((node, _of_row(coefficients[node], chosen), lines))
        parts.append(
            ops.reshape(of_spot(evaluation, interval, readings), (-1, spot.stop - spot.start))
        )
    return ops.concatenate(parts, axis=-1)


# Of each function that reads a unit: its node, the coefficients that arrive there, and its lines.
_Readings = list[tuple[Node, Tensor, Lines]]


def _two_piece_loss(evaluation: Evaluation, interval: Interval, readings: _Readings) -> Tensor:
    """What the intercepts take, and a little for units that take nothing; -1 for stable units."""
    del evaluation
    lower, upper = interval.bounds
    loss = _LEAST * ops.minimum(-lower, upper)
    for _, a, lines in readings:
        constant = ops.relu(a) * lines.lower_intercept - ops.relu(-a) * lines.upper_intercept
        # A line through 0 has no intercept, and is loose at one end all the same.
        loss = loss + ops.relu(-constant) + _LEAST * ops.abs(a) * ops.minimum(-lower, upper)
    unstable = ops.logical_and(lower < 0, upper > 0)
    return ops.where(unstable, loss, -ops.ones_like(loss))


def _smooth_loss(evaluation: Evaluation, interval: Interval, readings: _Readings) -> Tensor:
    """What lines and functions are apart in the middle; -1 for intervals that are narrow."""
    lower, upper = interval.bounds
    middle, width = interval.center, upper - lower
    loss = _LEAST * width
    for node, a, lines in readings:
        value = evaluation.parameters[node](middle)
        above = lines.upper_slope * middle + lines.upper_intercept - value
        below = value - lines.lower_slope * middle - lines.lower_intercept
        gap = ops.relu(a) * ops.relu(below) + ops.relu(-a) * ops.relu(above)
        loss = loss + gap + _LEAST * ops.abs(a) * width
    wide = width > _NARROW * ops.maximum(1.0, interval.magnitude)
    return ops.where(wide, loss, -ops.ones_like(loss))


def _of_row(tensor: Tensor, chosen: Tensor) -> Tensor:
    """The entries of the chosen row."""
    picked = ops.reshape(chosen, (-1, chosen.shape[1], *[1] * (len(tensor.shape) - 2)))
    return ops.sum(tensor * picked, axis=1)


def _lines(evaluation: Evaluation, node: Node, slopes: list, lower: Tensor, upper: Tensor) -> Lines:
    """The lines around a two-piece function with given slopes, ``(batch, *shape)`` each."""
    curve = evaluation.parameters[node]
    if slopes[1] is None:
        lines = curve.lines(lower, upper)
        return lines._replace(lower_slope=slopes[0], lower_intercept=ops.zeros_like(lower))
    return curve.lines_with_slopes(*slopes, lower, upper)


def best_units(scores: Tensor, count: int) -> Tensor:
    """The units with the best estimates, ``(batch, count)``, best first; -1 where there are fewer.

    Args:
        scores: From ``estimates``.
        count: How many, at most as many as there are.
    """
    values, places = ops.top_k(scores, count)
    return ops.where(values > 0, ops.cast(places, "int32"), -1)


def preferred(
    lower: npt.NDArray[np.float64], candidates: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Returns the best candidate of each domain, ``(n,)``, from bounds of both halves.

    The half that is proved less well decides; of two units that are equal in that, the other half.
    A half that is proved counts as 0, whatever its bound.

    Args:
        lower: Bounds of the question's value, ``(n, candidates, 2)``.
        candidates: ``(n, candidates)``; -1: none.
    """
    open_part = np.minimum(lower, 0.0)
    gain = open_part.min(axis=2) + 0.2 * open_part.max(axis=2)
    return np.where(candidates >= 0, gain, -np.inf).argmax(axis=1)
