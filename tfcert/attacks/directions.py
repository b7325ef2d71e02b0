"""The direction of steepest ascent within a region's unit ball."""

from __future__ import annotations

import functools
import math

from keras import ops

from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["steepest"]


def steepest(
    region: Region,
    gradient: Tensor,
    points: Tensor,
    x: Tensor,
    sparsity: float = 0.05,
    length: Tensor | float = 1.0,
) -> Tensor:
    """The d with ``||d / r||_p <= 1`` for which ``sum(gradient * d)`` is largest.

    ``r`` is the region's radius in each coordinate. For p = 1 the maximum moves a single
    coordinate; here the share ``sparsity`` of them with the largest ``|gradient| r`` moves, alike.
    For finite p, coordinates that are at their limit and would be pushed beyond it get no share of
    the step, which clipping would take away again.

    In a finite region a step leads all the way to the alternatives that the gradient promises most
    of, whatever its length.

    Args:
        region: Gives r and p.
        gradient: Tensor of the shape of x.
        points: Where the gradient was taken, inside the region.
        x: Inputs.
        sparsity: See above.
        length: Of the step that is taken along d, one for all or one for each sample.

    Reference: for p = 1, Tramer and Boneh, 2019, https://arxiv.org/abs/1904.13000, algorithm 1
    """
    direction = functools.partial(_steepest, sparsity=sparsity, length=length)
    return region.each(direction, gradient, points, x)


def _steepest(
    region: Region,
    gradient: Tensor,
    points: Tensor,
    x: Tensor,
    sparsity: float,
    length: Tensor | float,
) -> Tensor:
    if region.is_finite:
        best = ops.squeeze(region.minimiser(-ops.expand_dims(gradient, 1), x), axis=1)
        length = ops.reshape(ops.cast(length, x.dtype), (-1,) + (1,) * (len(x.shape) - 1))
        return (best - points) / length
    radius = region.reach(x)
    if region.by_coordinate:
        return region.leap(radius * ops.sign(gradient), gradient, points, x)
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
