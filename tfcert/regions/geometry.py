"""Norms and points of balls, for tensors of shape ``(batch, count, *input_shape)``."""

from __future__ import annotations

import math

from keras import ops

from tfcert.types import Tensor

__all__ = [
    "dual_norm",
    "flatten",
    "input_size",
    "nonzero",
    "pairwise_sum",
    "soft_threshold",
    "vertex",
]


def dual_norm(values: Tensor, p: float) -> Tensor:
    """``||values||_q`` of every row, for 1/p + 1/q = 1 and finite p.

    Values are divided by the largest of their row before they are raised to a power, so that
    nothing overflows, and rows of zeros get the gradient 0.
    """
    axes = tuple(range(2, len(values.shape)))
    values = ops.abs(values)
    if p == 1:
        return ops.max(values, axis=axes, initial=0.0)
    q = p / (p - 1)
    largest = ops.stop_gradient(ops.max(values, axis=axes, keepdims=True, initial=0.0))
    total = ops.sum((values / nonzero(largest)) ** q, axis=axes)
    largest = ops.reshape(largest, ops.shape(total))
    # Inside the root too, or the root's infinite slope at 0 would meet a factor 0.
    return largest * ops.where(largest > 0, total, 1.0) ** (1 / q)


def soft_threshold(values: Tensor, radius: Tensor) -> Tensor:
    """The closest points of the 1-norm's ball: ``sign(v) max(|v| - theta, 0)``, last axis.

    With |v| sorted downwards, theta is the largest of ``(|v|_1 + ... + |v|_j - radius) / j``, or 0.

    Reference: Duchi et al., 2008, https://doi.org/10.1145/1390156.1390191
    """
    falling = -ops.sort(-ops.abs(values), axis=-1)
    count = ops.arange(1, values.shape[-1] + 1, dtype=values.dtype)
    excess = ops.cumsum(falling, axis=-1) - radius
    theta = ops.max(excess / count, axis=-1, keepdims=True, initial=0.0)
    return ops.sign(values) * ops.maximum(ops.abs(values) - theta, 0.0)


def pairwise_sum(values: Tensor) -> Tensor:
    """Sums the last axis, which stays, in a tree.

    Its depth bounds the rounding error, where the order inside ``ops.sum`` is anybody's guess.
    """
    size = values.shape[-1]
    while size > 1:
        half = size // 2
        pairs = values[..., :half] + values[..., half : 2 * half]
        if size % 2:
            pairs = ops.concatenate([pairs, values[..., -1:]], axis=-1)
        values, size = pairs, half + size % 2
    return values


def flatten(values: Tensor) -> Tensor:
    """``(batch, count, *input_shape)`` with one axis for all of the input."""
    return ops.reshape(values, (*ops.shape(values)[:2], input_size(values.shape[2:])))


def input_size(shape: tuple) -> int:
    """Returns the number of entries of one input."""
    if any(size is None for size in shape):
        raise ValueError(
            f"Points inside a ball of finite p need inputs of known shape. Received: {shape}."
        )
    return math.prod(shape)


def vertex(weights: Tensor) -> Tensor:
    """1 at the largest weight of the last axis, 0 elsewhere, and for a row of zeros."""
    first = ops.one_hot(ops.argmax(weights, axis=-1), weights.shape[-1], dtype=weights.dtype)
    return ops.where(weights > 0, first, 0.0)


def nonzero(values: Tensor) -> Tensor:
    """A divisor: 1 where the value is 0."""
    return ops.where(values > 0, values, 1.0)
