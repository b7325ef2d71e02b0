"""Which unit of a domain to split: estimates from one backward sweep, then trials of the best few.

The estimate of a unit is how much of the gap between the network and its relaxation it brings
about. Let ``a`` be the coefficient that arrives at the unit's function f in the sweep that gives
the bound, and z the unit's value.

* ``loss``: what the intercepts of its lines take from the bound, ``-(a+ . low + a- . high)`` with
  the intercepts ``low <= 0`` and ``high >= 0`` of the lower and the upper line.
* ``violation``: ``a f(z) - line(z)`` at the input where the relaxed problem has its minimum, with
  the line that the sweep took. It is 0 where the relaxation is exact at that input.

Reference: Bunel et al., 2020, https://arxiv.org/abs/1909.06588 (the estimate from the intercept);
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
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["best_units", "decided", "estimates", "preferred"]

# Estimates of units that look harmless: above 0, so that they can still be split, and below others.
_LEAST = 1e-6


def decided(evaluation: Evaluation, layout: Layout) -> Tensor:
    """Which piece each unit is on, ``(batch, units)``: 1 or -1 where its interval tells, else 0."""
    parts = []
    for spot in layout.units:
        lower, upper = evaluation.intervals[evaluation.network.nodes[spot.place]].bounds
        piece = ops.where(lower >= 0, 1, ops.where(upper <= 0, -1, 0))
        parts.append(ops.reshape(ops.cast(piece, "int8"), (-1, spot.stop - spot.start)))
    return ops.concatenate(parts, axis=-1)


def estimates(
    evaluation: Evaluation,
    layout: Layout,
    coefficients: Mapping[Node, Tensor],
    slopes: Mapping[int, Any],
    values: Mapping[Node, Tensor],
    chosen: Tensor,
) -> Tensor:
    """How much splitting each unit may gain, ``(batch, 2, units)``: by its loss, by its violation.

    Units that cannot be split have -1.

    Args:
        evaluation: Holds the intervals.
        layout: Says where the units stand.
        coefficients: Those that arrive at each node in the sweep, ``(batch, rows, *shape)``.
        slopes: The slopes of that sweep, ``{place: [lower, upper]}``, with rows likewise.
        values: The values of all nodes at the input where the relaxed problem has its minimum.
        chosen: One-hot, ``(batch, rows)``: which row counts.
    """
    parts = []
    for spot, readers in zip(layout.units, layout.readers, strict=True):
        source = evaluation.network.nodes[spot.place]
        lower, upper = evaluation.intervals[source].bounds
        shape = (-1, spot.stop - spot.start)

        def of_row(tensor: Tensor) -> Tensor:
            picked = ops.reshape(chosen, (-1, chosen.shape[1], *[1] * (len(tensor.shape) - 2)))
            return ops.sum(tensor * picked, axis=1)

        loss = violation = _LEAST * ops.minimum(-lower, upper)
        for place in readers:
            node = evaluation.network.nodes[place]
            a = of_row(coefficients[node])
            own = [None if slope is None else of_row(slope) for slope in slopes[place]]
            lines = _lines(evaluation, node, own, lower, upper)
            positive, negative = ops.relu(a), -ops.relu(-a)
            constant = positive * lines.lower_intercept + negative * lines.upper_intercept
            slope = positive * lines.lower_slope + negative * lines.upper_slope
            loss = loss + ops.relu(-constant)
            gap = a * values[node] - slope * values[source] - constant
            violation = violation + ops.relu(gap) + _LEAST * ops.abs(a) * ops.minimum(-lower, upper)
        unstable = ops.logical_and(lower < 0, upper > 0)
        pair = [ops.where(unstable, kind, -ops.ones_like(kind)) for kind in (loss, violation)]
        parts.append(ops.stack([ops.reshape(kind, shape) for kind in pair], axis=1))
    return ops.concatenate(parts, axis=-1)


def _lines(evaluation: Evaluation, node: Node, slopes: list, lower: Tensor, upper: Tensor) -> Lines:
    """The lines around a two-piece function with given slopes, ``(batch, *shape)`` each."""
    curve = evaluation.parameters[node]
    if slopes[1] is None:
        lines = curve.lines(lower, upper)
        return lines._replace(lower_slope=slopes[0], lower_intercept=ops.zeros_like(lower))
    return curve.lines_with_slopes(*slopes, lower, upper)


def best_units(scores: Tensor, count: int) -> Tensor:
    """The units with the best estimates, ``(batch, count)``, best first; -1 where there are fewer.

    Half of them by each of the two estimates; a unit may come twice.

    Args:
        scores: From ``estimates``.
        count: An even number.
    """
    half = min(count // 2, scores.shape[-1])
    values, places = ops.top_k(scores, half)
    places = ops.where(values > 0, ops.cast(places, "int32"), -1)
    # The best of both kinds come first.
    return ops.reshape(ops.transpose(places, (0, 2, 1)), (-1, 2 * half))


def preferred(
    lower: npt.NDArray[np.float64], candidates: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Which candidate of each domain is best, ``(n,)``, from bounds of both halves.

    The half that is proved less well decides; of two units that are equal in that, the other half.
    A half that is proved counts as 0, whatever its bound.

    Args:
        lower: Bounds of the question's value, ``(n, candidates, 2)``.
        candidates: ``(n, candidates)``; -1: none.
    """
    open_part = np.minimum(lower, 0.0)
    gain = open_part.min(axis=2) + 0.2 * open_part.max(axis=2)
    return np.where(candidates >= 0, gain, -np.inf).argmax(axis=1)
