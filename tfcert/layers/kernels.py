"""Distances ``||x_b - w_j||_p`` of all pairs, and their gradients, without the tensor of all terms.

The (batch, inputs, units) tensor of differences never exists: a compiled loop takes a block of
terms a turn, unrolled, and adds them to an accumulator of the size of the result. All is
elementwise, so that XLA makes one kernel of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.layers import powers
from tfcert.types import Tensor

__all__ = ["HUGE", "LARGEST", "accumulate", "distances", "scattered"]

# Terms in a turn of the loop.
BLOCK = 16
# Largest finite exponent: the next step of a schedule is inf.
LARGEST = 1000.0
# Beyond all logarithms: 2^(-huge) is 0.
HUGE = 1e30


def distances(x: Tensor, w: Tensor, p: Tensor) -> Tensor:
    """``(sum_i |x_bi - w_ij|^p)^(1/p)``, at p = inf the maximum, with gradients for x and w.

    Where several inputs attain the maximum, the gradient at p = inf is that of the first; where
    ``x = w`` it is 0, a subgradient.

    Args:
        x: ``(batch, inputs)``.
        w: ``(inputs, units)``.
        p: A scalar from 1 to 1000, or inf; no gradient flows to it.

    Returns:
        ``(batch, units)``.
    """
    # Copies: custom gradients are of tensors, not of variables.
    x, w, p = (ops.copy(ops.convert_to_tensor(value)) for value in (x, w, p))
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype in ("float16", "bfloat16"):  # Powers of p up to 1000 leave their range.
        x, w = ops.cast(x, "float32"), ops.cast(w, "float32")
    return ops.cast(_differentiable(x, w, ops.cast(p, x.dtype)), dtype)


@ops.custom_gradient
def _differentiable(x: Tensor, w: Tensor, p: Tensor) -> Any:
    # Nothing inside is for a gradient tape: its loops have no gradients of their own.
    x, w, p = map(ops.stop_gradient, (x, w, p))
    norm = _forward(x, w, p)

    def gradient(*arguments: Any, upstream: Any = None) -> tuple:
        (upstream,) = arguments or (upstream,)
        for_x, for_w = _backward(x, w, p, norm, ops.stop_gradient(upstream))
        return for_x, for_w, ops.zeros_like(p)

    return norm, gradient


@backend.compiled
def _forward(x: Tensor, w: Tensor, p: Tensor) -> Tensor:
    largest = _maximum(x, w)
    return ops.cond(ops.isinf(p), lambda: largest, lambda: _norm(x, w, p, largest))


@backend.compiled
def _backward(x: Tensor, w: Tensor, p: Tensor, norm: Tensor, upstream: Tensor) -> tuple:
    return ops.cond(
        ops.isinf(p),
        lambda: _maximum_gradients(x, w, norm, upstream),
        lambda: _norm_gradients(x, w, p, norm, upstream),
    )


def _maximum(x: Tensor, w: Tensor) -> Tensor:
    def step(total: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        return ops.maximum(total, ops.abs(x_i[:, None] - w_i))

    return accumulate(step, _zeros(x, w), ops.transpose(x), w)


def _norm(x: Tensor, w: Tensor, p: Tensor, largest: Tensor) -> Tensor:
    """The sum of powers of ``|x - w| / largest``, which neither overflow nor all vanish."""
    scale = p * powers.log2(largest)

    def step(total: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        return total + powers.exp2(p * powers.log2(ops.abs(x_i[:, None] - w_i)) - scale)

    total = accumulate(step, _zeros(x, w), ops.transpose(x), w)
    # At least the largest term itself; less where all differences are 0.
    return largest * ops.exp(ops.log(ops.maximum(total, 1.0)) / p)


def _maximum_gradients(x: Tensor, w: Tensor, norm: Tensor, upstream: Tensor) -> tuple:
    """The upstream gradient, at the first input that attains the maximum, and its opposite."""

    def step(first: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        attained = ops.logical_and(first < 0, ops.abs(x_i[:, None] - w_i) >= norm)
        return ops.where(attained, index, first)

    first = accumulate(step, ops.cast(ops.full_like(norm, -1), "int32"), ops.transpose(x), w)
    first = ops.maximum(first, 0)  # NaN attains nothing.
    rows = ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
    columns = ops.arange(w.shape[1], dtype="int32")
    at_x, at_w = rows * w.shape[0] + first, first * w.shape[1] + columns
    difference = ops.take(x, at_x) - ops.take(w, at_w)
    upstream = upstream * ops.sign(difference)
    return scattered(x, at_x, upstream), scattered(w, at_w, -upstream)


def scattered(like: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Zeros with values added at places, counted row by row."""
    places, values = ops.reshape(places, (-1, 1)), ops.reshape(values, (-1,))
    flat = ops.scatter_update(ops.zeros_like(ops.reshape(like, (-1,))), places, values, "add")
    return ops.reshape(flat, ops.shape(like))


def _norm_gradients(
    x: Tensor, w: Tensor, p: Tensor, norm: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """``upstream sign(x - w) (|x - w| / norm)^(p - 1)`` summed over units; its opposite, batch."""
    raised = p - 1.0
    scale = raised * powers.log2(norm)
    upstream = ops.where(norm > 0, upstream, ops.zeros_like(upstream))

    def term(difference: Tensor, scale: Tensor, upstream: Tensor) -> Tensor:
        power = powers.exp2(raised * powers.log2(ops.abs(difference)) - scale)
        return upstream * powers.with_sign(power, difference)

    def for_x(total: Tensor, index: Tensor, w_j: Tensor, s_j: Tensor, u_j: Tensor) -> Tensor:
        return total + term(x - w_j, s_j[:, None], u_j[:, None])

    def for_w(total: Tensor, index: Tensor, x_b: Tensor, s_b: Tensor, u_b: Tensor) -> Tensor:
        return total - term(x_b[:, None] - w, s_b, u_b)

    fills = (0.0, HUGE, 0.0)
    columns = map(ops.transpose, (w, scale, upstream))
    return (
        accumulate(for_x, ops.zeros_like(x), *columns, fills=fills),
        accumulate(for_w, ops.zeros_like(w), x, scale, upstream, fills=fills),
    )


def _zeros(x: Tensor, w: Tensor) -> Tensor:
    return ops.zeros((ops.shape(x)[0], w.shape[1]), dtype=x.dtype)


def accumulate(
    step: Callable[..., Tensor], total: Tensor, *rows: Tensor, fills: tuple[float, ...] = (0.0, 0.0)
) -> Tensor:
    """``total = step(total, i, row_i, ...)`` for all rows i of some matrices, a block at a time.

    The last block is filled up: ``fills`` are values that leave the total as it is.
    """
    turns = (ops.shape(rows[0])[0] + BLOCK - 1) // BLOCK
    filled = []
    for matrix, value in zip(rows, fills, strict=True):
        more = ops.full((BLOCK, ops.shape(matrix)[1]), value, dtype=matrix.dtype)
        filled.append(ops.concatenate([matrix, more]))

    def block(turn: Tensor, total: Tensor) -> tuple:
        start = turn * BLOCK
        parts = [ops.slice(m, (start, 0), (BLOCK, ops.shape(m)[1])) for m in filled]
        for place in range(BLOCK):
            total = step(total, start + place, *(part[place] for part in parts))
        return turn + 1, total

    return backend.loop(lambda turn, total: turn < turns, block, (ops.zeros((), "int32"), total))[1]
