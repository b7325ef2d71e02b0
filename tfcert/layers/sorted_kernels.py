"""Weighted sums of the largest differences ``|x_b - w_j|`` of all pairs, and their gradients.

A pass takes the units in blocks, so that no tensor holds all differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.layers import point_kernels
from tfcert.types import Tensor

__all__ = ["shares", "sorted_interval", "sorted_sum"]

# Differences of one input with a block of units.
_ENTRIES = 1 << 15


def shares(keep: float, terms: int) -> list[float]:
    """The weight of the largest difference, of the second largest, and so on: their sum is 1.

    Where each difference is kept with probability ``keep``, the k-th largest is the largest of
    those kept with probability ``keep (1 - keep)^(k-1)``. The numbers are exact in float32, and
    their sum is not above 1.
    """
    found = keep * (1.0 - keep) ** np.arange(terms)
    others = np.float32(found[1:] / found.sum()).astype(float)
    exact = 1.0 - others.sum()
    first = np.float32(exact)
    first = np.nextafter(first, np.float32(0)) if first > exact else first
    return [float(first), *others.tolist()]


def sorted_sum(x: Tensor, w: Tensor, weights: Sequence[float]) -> Tensor:
    """``sum_k weights_k d_k``, with ``d_k`` the k-th largest of ``|x_i - w_ij|`` over i.

    Args:
        x: ``(batch, inputs)``.
        w: ``(inputs, units)``.
        weights: At most as many as inputs.

    Returns:
        ``(batch, units)``, with gradients for x and w.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype in ("float16", "bfloat16"):
        x, w = ops.cast(x, "float32"), ops.cast(w, "float32")
    return ops.cast(_reach(weights)(x, x, w), dtype)


def sorted_interval(
    lower: Tensor, upper: Tensor, w: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The least and the largest sorted sum for ``lower <= x <= upper``.

    Each difference has a range of its own, and the sum grows with each difference. So the ends are
    attained. All sums are formed in one order, so that rounding keeps the order too.

    Args:
        lower, upper: ``(batch, inputs)``.
        w: ``(inputs, units)``.
        weights: As for ``sorted_sum``.
    """
    reach = _reach(weights)
    return reach(lower, upper, w), reach(upper, lower, w)


def _reach(weights: Sequence[float]) -> Any:
    """The function ``(a, b, w)``: the sorted sum of ``max(a_i - w_ij, w_ij - b_i, 0)``."""

    @ops.custom_gradient
    def reach(a: Tensor, b: Tensor, w: Tensor) -> Any:
        a, b, w = map(ops.stop_gradient, (a, b, w))
        largest, places = _largest(a, b, w, len(weights))
        total = weights[0] * largest[..., 0]
        for place, weight in enumerate(weights[1:], 1):
            total = total + weight * largest[..., place]

        def gradient(*arguments: Any, upstream: Any = None) -> tuple:
            (upstream,) = arguments or (upstream,)
            share = ops.convert_to_tensor(list(weights), dtype=w.dtype)
            upstream = ops.stop_gradient(upstream)[..., None] * share
            return _gradients(a, b, w, places, ops.where(largest > 0, upstream, 0.0))

        return total, gradient

    return lambda a, b, w: reach(*(ops.copy(ops.convert_to_tensor(t)) for t in (a, b, w)))


def _largest(a: Tensor, b: Tensor, w: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest terms of each unit, ``(batch, units, count)``, and their inputs."""
    inputs, units = w.shape
    block = max(1, min(units, _ENTRIES // inputs))
    blocks = -(-units // block)
    columns = ops.pad(ops.transpose(w), ((0, blocks * block - units), (0, 0)))
    above, below = a[:, None], b[:, None]

    def of_block(some: Tensor) -> tuple[Tensor, Tensor]:
        terms = ops.maximum(ops.maximum(above - some, some - below), 0.0)
        return ops.top_k(terms, count)

    if blocks == 1:
        return of_block(columns)
    found = ops.map(of_block, ops.reshape(columns, (blocks, block, inputs)))
    return tuple(
        ops.reshape(ops.moveaxis(part, 0, 1), (-1, blocks * block, count))[:, :units]
        for part in found
    )


def _gradients(a: Tensor, b: Tensor, w: Tensor, places: Tensor, upstream: Tensor) -> tuple:
    """The upstream gradient at each chosen input, at the end that decides, and against w."""
    inputs, units = w.shape
    places = ops.cast(places, "int32")
    rows = ops.arange(ops.shape(a)[0], dtype="int32")[:, None, None]
    at_x = rows * inputs + places
    at_w = places * units + ops.arange(units, dtype="int32")[:, None]
    high, low, far = ops.take(a, at_x), ops.take(b, at_x), ops.take(w, at_w)
    for_a = ops.where(high - far >= far - low, upstream, ops.zeros_like(upstream))
    for_b = for_a - upstream
    return (
        point_kernels.scattered(a, at_x, for_a),
        point_kernels.scattered(b, at_x, for_b),
        point_kernels.scattered(w, at_w, -for_a - for_b),
    )
