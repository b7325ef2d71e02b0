"""Which way to step: the direction of steepest ascent within a region's unit ball."""

from __future__ import annotations

import functools
import math

from keras import ops

from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["steepest"]


def steepest(
    region: Region, gradient: Tensor, points: Tensor, x: Tensor, sparsity: float = 0.05
) -> Tensor:
    """The d with ``||d / r||_p <= 1`` for which ``sum(gradient * d)`` is largest.

    ``r`` is the region's radius in each coordinate. For p = 1 the maximum moves a single
    coordinate; here the share ``sparsity`` of them with the largest ``|gradient| r`` moves, alike.
    For finite p, coordinates that are at their limit and would be pushed beyond it get no share of
    the step, which clipping would take away again.

    Args:
        region: Gives r and p.
        gradient: Tensor of the shape of x.
        points: Where the gradient was taken, inside the region.
        x: Inputs.
        sparsity: See above.

    Reference: for p = 1, Tramer and Boneh, 2019, https://arxiv.org/abs/1904.13000, algorithm 1
    """
    return region.each(functools.partial(_steepest, sparsity=sparsity), gradient, points, x)


def _steepest(
    region: Region, gradient: Tensor, points: Tensor, x: Tensor, sparsity: float
) -> Tensor:
    radius = region.reach(x)
    if region.norm == math.inf:
        return radius * ops.sign(gradient)
    lower, upper = region.inner_limits(x)
    stuck = ops.where(gradient > 0, points >= upper, points <= lower)
    weights = ops.where(stuck, ops.zeros_like(gradient), ops.abs(gradient)) * radius
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
