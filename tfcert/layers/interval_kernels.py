"""Distances of boxes, and their gradients, in blocks as distances of points.

Over ``x`` in a box, each ``|x_i - w_ij|`` has its own range, reached independently of all others,
so that the range of a distance is exact: its ends are norms of the ends. Both are one function,

    reach(a, b, w)_j = || max(a_i - w_ij, w_ij - b_i, 0) ||_p,

the largest distance for ``a = upper, b = lower``, the least for ``a = lower, b = upper``.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.layers import point_kernels, powers
from tfcert.types import Tensor

__all__ = ["interval_distances"]

# What fills up the last block: terms of 0.
_ZEROS = (0.0, 0.0, 0.0)
# More than the relative error of powers and their sums at a finite p.
_SLACK = {"float32": 2.0**-16, "float64": 2.0**-40}


def interval_distances(lower: Tensor, upper: Tensor, w: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The least and largest ``||x - w_j||_p`` for ``lower <= x <= upper``, with gradients.

    At p = inf only subtractions round, and rounding keeps order: what a distance layer computes in
    the same type lies inside, to the last bit. At a finite p the ends are moved outward by what
    powers err.

    Args:
        lower, upper: ``(batch, inputs)``.
        w: ``(inputs, units)``.
        p: A scalar from 1 to 1000, or inf; no gradient flows to it.

    Returns:
        Two tensors ``(batch, units)``.

    Reference: Zhang et al., 2022, https://arxiv.org/abs/2110.06850 (p = inf)
    """
    a, b = ops.concatenate([lower, upper]), ops.concatenate([upper, lower])
    p = ops.cast(p, a.dtype)
    ends = _reach(a, b, w, p)
    count = ops.shape(lower)[0]
    slack = ops.where(ops.isinf(p), 0.0, _SLACK[keras.backend.standardize_dtype(a.dtype)])
    slack = ops.cast(slack, a.dtype)
    return ends[:count] * (1.0 - slack), ends[count:] * (1.0 + slack)


@ops.custom_gradient
def _reach(a: Tensor, b: Tensor, w: Tensor, p: Tensor) -> Any:
    # Nothing inside is for a gradient tape: its loops have no gradients of their own.
    a, b, w, p = map(ops.stop_gradient, (a, b, w, p))
    norm = _forward(a, b, w, p)

    def gradient(*arguments: Any, upstream: Any = None) -> tuple:
        (upstream,) = arguments or (upstream,)
        parts = _backward(a, b, w, p, norm, ops.stop_gradient(upstream))
        return *parts, ops.zeros_like(p)

    return norm, gradient


def _terms(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return _positive(ops.maximum(a - w, w - b))


def _positive(values: Tensor) -> Tensor:
    """``max(values, 0)``, and never the negative 0, whose bits have a huge logarithm."""
    return ops.where(values > 0, values, ops.zeros_like(values))


@backend.compiled
def _forward(a: Tensor, b: Tensor, w: Tensor, p: Tensor) -> Tensor:
    zeros = ops.zeros((ops.shape(a)[0], ops.shape(w)[1]), dtype=a.dtype)
    rows = ops.transpose(a), ops.transpose(b), w

    def larger(total: Tensor, index: Tensor, a_i: Tensor, b_i: Tensor, w_i: Tensor) -> Tensor:
        return ops.maximum(total, ops.maximum(a_i[:, None] - w_i, w_i - b_i[:, None]))

    largest = _positive(point_kernels.accumulate(larger, zeros, *rows, fills=_ZEROS))

    def norm() -> Tensor:
        scale = p * powers.log2(largest)

        def more(total: Tensor, index: Tensor, a_i: Tensor, b_i: Tensor, w_i: Tensor) -> Tensor:
            terms = _terms(a_i[:, None], b_i[:, None], w_i)
            return total + powers.exp2(p * powers.log2(terms) - scale)

        total = point_kernels.accumulate(more, zeros, *rows, fills=_ZEROS)
        # At least the largest term itself; less where all are 0.
        return largest * ops.exp(ops.log(ops.maximum(total, 1.0)) / p)

    return ops.cond(ops.isinf(p), lambda: largest, norm)


@backend.compiled
def _backward(a: Tensor, b: Tensor, w: Tensor, p: Tensor, norm: Tensor, upstream: Tensor) -> tuple:
    # Where all terms are 0, so is a subgradient.
    upstream = ops.where(norm > 0, upstream, ops.zeros_like(upstream))
    return ops.cond(
        ops.isinf(p),
        lambda: _largest_gradients(a, b, w, norm, upstream),
        lambda: _norm_gradients(a, b, w, p, norm, upstream),
    )


def _largest_gradients(a: Tensor, b: Tensor, w: Tensor, norm: Tensor, upstream: Tensor) -> tuple:
    """The upstream gradient at the first input that attains the maximum, at the end that does."""

    def step(first: Tensor, index: Tensor, a_i: Tensor, b_i: Tensor, w_i: Tensor) -> Tensor:
        attained = _terms(a_i[:, None], b_i[:, None], w_i) >= norm
        return ops.where(ops.logical_and(first < 0, attained), index, first)

    first = ops.cast(ops.full_like(norm, -1), "int32")
    first = point_kernels.accumulate(
        step, first, ops.transpose(a), ops.transpose(b), w, fills=_ZEROS
    )
    first = ops.maximum(first, 0)  # NaN attains nothing.
    rows = ops.arange(ops.shape(a)[0], dtype="int32")[:, None]
    columns = ops.arange(ops.shape(w)[1], dtype="int32")
    at_x, at_w = rows * ops.shape(w)[0] + first, first * ops.shape(w)[1] + columns
    high, low, far = ops.take(a, at_x), ops.take(b, at_x), ops.take(w, at_w)
    for_a = ops.where(high - far >= far - low, upstream, ops.zeros_like(upstream))
    for_b = for_a - upstream
    return (
        point_kernels.scattered(a, at_x, for_a),
        point_kernels.scattered(b, at_x, for_b),
        point_kernels.scattered(w, at_w, -for_a - for_b),
    )


def _norm_gradients(
    a: Tensor, b: Tensor, w: Tensor, p: Tensor, norm: Tensor, upstream: Tensor
) -> tuple:
    """``upstream (term / norm)^(p - 1)``, to the end that decides the term and against w."""
    raised = p - 1.0
    scale = raised * powers.log2(norm)

    def parts(a: Tensor, b: Tensor, w: Tensor, scale: Tensor, upstream: Tensor) -> tuple:
        terms = _terms(a, b, w)
        power = upstream * powers.exp2(raised * powers.log2(terms) - scale)
        power = ops.where(terms > 0, power, ops.zeros_like(power))
        above = a - w >= w - b
        return ops.where(above, power, 0.0), ops.where(above, 0.0, -power)

    def to_x(total: tuple, index: Tensor, w_j: Tensor, s_j: Tensor, u_j: Tensor) -> Tensor:
        more = parts(a, b, w_j, s_j[:, None], u_j[:, None])
        return total + ops.stack(more)

    def to_w(total: Tensor, index: Tensor, a_b: Any, b_b: Any, s_b: Any, u_b: Any) -> Tensor:
        high, low = parts(a_b[:, None], b_b[:, None], w, s_b, u_b)
        return total - high - low

    # An upstream gradient of 0 must not meet an infinite power: a huge scale makes it 0.
    fills = (0.0, point_kernels.HUGE, 0.0)
    columns = map(ops.transpose, (w, scale, upstream))
    zeros = ops.zeros((2, *ops.shape(a)), dtype=a.dtype)
    for_a, for_b = ops.unstack(point_kernels.accumulate(to_x, zeros, *columns, fills=fills), 2)
    rows = a, b, scale, upstream
    for_w = point_kernels.accumulate(to_w, ops.zeros_like(w), *rows, fills=(0.0, *fills))
    return for_a, for_b, for_w
