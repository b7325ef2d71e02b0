"""Which way to step: the direction of steepest ascent within a region's unit ball."""

from __future__ import annotations

import math

from keras import ops

from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["steepest"]


def steepest(region: Region, gradient: Tensor, x: Tensor, sparsity: float = 0.05) -> Tensor:
    """The d with ``||d / r||_p <= 1`` for which ``sum(gradient * d)`` is largest.

    ``r`` is the region's radius in each coordinate. For p = 1 the maximum moves a single
    coordinate; here the share ``sparsity`` of them with the largest ``|gradient| r`` moves, alike.

    Args:
        region: Gives r and p.
        gradient: Tensor of the shape of x.
        x: Inputs.
        sparsity: See above.
    """
    radius = region.reach(x)
    if region.norm == math.inf:
        return radius * ops.sign(gradient)
    weights = ops.abs(gradient) * radius
    flat = ops.reshape(weights, (-1, math.prod(weights.shape[1:])))
    # Scaled to at most 1 first, so that no power under- or overflows.
    flat = flat / ops.maximum(ops.max(flat, axis=-1, keepdims=True), 1e-30)
    if region.norm == 1:
        count = max(1, round(sparsity * flat.shape[-1]))
        least = ops.top_k(flat, k=count)[0][:, -1:]
        chosen = ops.cast(ops.logical_and(flat >= least, flat > 0), flat.dtype)
        unit = chosen / ops.maximum(ops.sum(chosen, axis=-1, keepdims=True), 1.0)
    else:
        unit = flat ** (1 / (region.norm - 1))
        length = ops.sum(unit**region.norm, axis=-1, keepdims=True) ** (1 / region.norm)
        unit = unit / ops.maximum(length, 1e-30)
    return ops.reshape(unit, ops.shape(gradient)) * radius * ops.sign(gradient)
