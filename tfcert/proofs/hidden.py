"""Slopes by which the checker bounds hidden values more tightly than by rule."""

from __future__ import annotations

import math

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.bounds import methods, propagation
from tfcert.network import network_of
from tfcert.proofs.tree import Tree
from tfcert.regions import Box
from tfcert.rules.nonlinear import Elementwise

__all__ = ["record_hidden"]

_ROWS = 128  # that are optimised in one call


def record_hidden(
    tree: Tree,
    model: keras.Model,
    lower: npt.ArrayLike,
    upper: npt.ArrayLike,
    method: methods.AlphaCrown | None = None,
) -> None:
    """Optimises slopes for the bounds of hidden units on a box, and records the slopes.

    With these slopes the checker's bounds are as tight as those of
    ``AlphaCrown(optimize_intermediate=True)``. A proof has one such set of slopes. The slopes are
    valid on any box, and best on this box.

    Args:
        tree: The tree that records the slopes.
        model: The network of the positions in the tree.
        lower: Lower limits of the inputs, in the shape of one input.
        upper: Upper limits.
        method: The method that optimises the slopes. Default:
            ``AlphaCrown(optimize_intermediate=True)``.
    """
    network = network_of(model)
    method = method or methods.AlphaCrown(optimize_intermediate=True)
    shape = (1, *network.input.shape)
    ends = [np.reshape(np.asarray(end, np.float64), shape) for end in (lower, upper)]
    middle = np.clip(0.5 * (ends[0] + ends[1]), *ends).astype(network.dtype)
    region = Box(ends[0], ends[1])
    bound = region.bind(ops.convert_to_tensor(middle))
    evaluation = propagation.evaluate(network, region, bound, method)
    # Units whose sign is open by rule need slopes, even where better slopes settle the sign.
    by_rule = propagation.evaluate(network, region, bound, methods.Crown())
    for node in network.needing_bounds():
        interval = by_rule.intervals[node]
        low, high = (ops.convert_to_numpy(end).reshape(-1) for end in interval.bounds)
        units = np.flatnonzero((low < 0) & (high > 0))
        size = math.prod(node.shape)
        before = {
            network.index[other]: other
            for other in network.ancestors(node)
            if isinstance(other.primitive, Elementwise)
        }
        tables = {
            place: np.full((2, size, math.prod(other.shape)), -1, np.float32)
            for place, other in before.items()
        }
        for start in range(0, len(units) if before else 0, _ROWS // 2):
            own = units[start : start + _ROWS // 2]
            rows = np.zeros((2, len(own), size), network.dtype)
            rows[0, np.arange(len(own)), own] = 1
            rows[1, np.arange(len(own)), own] = -1
            found = method.optimise(
                evaluation, node, ops.convert_to_tensor(rows.reshape(1, -1, size))
            )
            for place, table in tables.items():
                slopes = ops.convert_to_numpy(found.slopes[place][0])
                table[:, own] = slopes.reshape(2, len(own), -1)
        for place, table in tables.items():
            tree.hidden[network.index[node], place] = table
