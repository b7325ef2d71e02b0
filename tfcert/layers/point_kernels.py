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

# Terms in a turn of the loop. With fewer, XLA on CPUs makes no vector instructions and is several
# times as slow. With more, compiling takes longer and nothing else changes.
BLOCK = 16
# Largest finite exponent: the next step of a schedule is inf.
LARGEST = 1000.0
# Beyond all logarithms: 2^(-huge) is 0.
HUGE = 1e30
# A term of a gradient at a finite p, of a difference, a scale and the upstream gradient.
_Term = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    # Conditions and loops of TensorFlow lose shapes that others, as of an attack, rely on.
    batch = -1 if x.shape[0] is None else x.shape[0]
    norm = ops.reshape(_forward(x, w, p), (batch, w.shape[1]))

    def gradient(*arguments: Any, upstream: Any = None) -> tuple:
        (upstream,) = arguments or (upstream,)
        upstream = ops.reshape(ops.stop_gradient(upstream), (batch, w.shape[1]))
        # Functions of their own: what nobody asks for, as of a first layer's inputs, is left out.
        first = _first_attaining(x, w, p, norm)
        return (
            ops.reshape(_gradient_for_x(x, w, p, norm, first, upstream), (batch, w.shape[0])),
            ops.reshape(_gradient_for_w(x, w, p, norm, first, upstream), tuple(w.shape)),
            ops.zeros_like(p),
        )

    return norm, gradient


@backend.compiled
def _forward(x: Tensor, w: Tensor, p: Tensor) -> Tensor:
    largest = _maximum(x, w)
    return ops.cond(ops.isinf(p), lambda: largest, lambda: _norm(x, w, p, largest))


def _maximum(x: Tensor, w: Tensor) -> Tensor:
    def step(total: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        return ops.maximum(total, ops.abs(x_i[:, None] - w_i))

    return accumulate(step, _zeros(x, w), ops.transpose(x), w)


def _norm(x: Tensor, w: Tensor, p: Tensor, largest: Tensor) -> Tensor:
    """The sum of powers of ``|x - w| / largest``, which neither overflow nor all vanish."""
    inverse = _inverse(largest)

    def general(total: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        # The logarithm of the ratio: p would multiply the rounding of two large ones.
        return total + powers.exp2(p * powers.log2(ops.abs(x_i[:, None] - w_i) * inverse))

    def eighth(total: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        return total + powers.eighth((x_i[:, None] - w_i) * inverse)

    def sum_of(step: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: accumulate(step, _zeros(x, w), ops.transpose(x), w)

    total = ops.cond(ops.equal(p, 8.0), sum_of(eighth), sum_of(general))
    # At least the largest term itself; less where all differences are 0.
    return largest * ops.exp(ops.log(ops.maximum(total, 1.0)) / p)


def _inverse(values: Tensor) -> Tensor:
    """1 / values; 1 where they are 0."""
    return 1.0 / ops.where(values > 0, values, ops.ones_like(values))


@backend.compiled
def _first_attaining(x: Tensor, w: Tensor, p: Tensor, norm: Tensor) -> Tensor:
    """The first input that attains the maximum; 0 at a finite p."""

    def step(first: Tensor, index: Tensor, x_i: Tensor, w_i: Tensor) -> Tensor:
        attained = ops.logical_and(first < 0, ops.abs(x_i[:, None] - w_i) >= norm)
        return ops.where(attained, index, first)

    none = ops.cast(ops.zeros_like(norm), "int32")

    def search() -> Tensor:
        # NaN attains nothing.
        return ops.maximum(accumulate(step, none - 1, ops.transpose(x), w), 0)

    return ops.cond(ops.isinf(p), search, lambda: none)


@backend.compiled
def _gradient_for_x(
    x: Tensor, w: Tensor, p: Tensor, norm: Tensor, first: Tensor, upstream: Tensor
) -> Tensor:
    """``sum_j upstream sign(x - w_j) (|x - w_j| / norm)^(p - 1)``."""

    def at_infinity() -> Tensor:
        at_x, _, sign = _places(x, w, first)
        return scattered(x, at_x, upstream * sign)

    def finite(term: _Term, scale: Tensor, upstream: Tensor) -> Tensor:
        def step(total: Tensor, index: Tensor, w_j: Tensor, s_j: Tensor, u_j: Tensor) -> Tensor:
            return total + term(x - w_j, s_j[:, None], u_j[:, None])

        columns = map(ops.transpose, (w, scale, upstream))
        return accumulate(step, ops.zeros_like(x), *columns, fills=(0.0, 0.0, 0.0))

    return _by_exponent(p, norm, upstream, at_infinity, finite)


@backend.compiled
def _gradient_for_w(
    x: Tensor, w: Tensor, p: Tensor, norm: Tensor, first: Tensor, upstream: Tensor
) -> Tensor:
    """As for x, negative, summed over the batch."""

    def at_infinity() -> Tensor:
        _, at_w, sign = _places(x, w, first)
        return scattered(w, at_w, -upstream * sign)

    def finite(term: _Term, scale: Tensor, upstream: Tensor) -> Tensor:
        def step(total: Tensor, index: Tensor, x_b: Tensor, s_b: Tensor, u_b: Tensor) -> Tensor:
            return total - term(x_b[:, None] - w, s_b, u_b)

        return accumulate(step, ops.zeros_like(w), x, scale, upstream, fills=(0.0, 0.0, 0.0))

    return _by_exponent(p, norm, upstream, at_infinity, finite)


def _by_exponent(
    p: Tensor,
    norm: Tensor,
    upstream: Tensor,
    at_infinity: Callable[[], Tensor],
    finite: Callable[[_Term, Tensor, Tensor], Tensor],
) -> Tensor:
    """A gradient at p = inf, at p = 8 by multiplications, or by powers."""
    raised = p - 1.0
    # Where x = w all terms are 0.
    upstream = ops.where(norm > 0, upstream, ops.zeros_like(upstream))

    def general(difference: Tensor, scale: Tensor, upstream: Tensor) -> Tensor:
        power = powers.exp2(raised * powers.log2(ops.abs(difference) * scale))
        return upstream * powers.with_sign(power, difference)

    def seventh(difference: Tensor, scale: Tensor, upstream: Tensor) -> Tensor:
        return upstream * powers.seventh(difference * scale)

    return ops.cond(
        ops.isinf(p),
        at_infinity,
        lambda: ops.cond(
            ops.equal(p, 8.0),
            lambda: finite(seventh, _inverse(norm), upstream),
            lambda: finite(general, _inverse(norm), upstream),
        ),
    )


def _places(x: Tensor, w: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the chosen input stands in x and in w, counted row by row, and the sign of x - w."""
    inputs, units = ops.shape(w)[0], ops.shape(w)[1]
    rows = ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
    at_x, at_w = rows * inputs + first, first * units + ops.arange(units, dtype="int32")
    return at_x, at_w, ops.sign(ops.take(x, at_x) - ops.take(w, at_w))


def scattered(like: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Zeros with values added at places, counted row by row."""
    places, values = ops.reshape(places, (-1, 1)), ops.reshape(values, (-1,))
    flat = ops.scatter_update(ops.zeros_like(ops.reshape(like, (-1,))), places, values, "add")
    return ops.reshape(flat, ops.shape(like))


def _zeros(x: Tensor, w: Tensor) -> Tensor:
    return ops.zeros((ops.shape(x)[0], ops.shape(w)[1]), dtype=x.dtype)


def accumulate(
    step: Callable[..., Tensor], total: Tensor, *rows: Tensor, fills: tuple[float, ...] = (0.0, 0.0)
) -> Tensor:
    """``total = step(total, i, row_i, ...)`` for all rows i of some matrices, a block at a time.

    The last block is filled up: ``fills`` are values that leave the total as it is.
    """
    step = backend.traced_once(step)  # Not for every row of a block.
    turns = (ops.shape(rows[0])[0] + BLOCK - 1) // BLOCK
    filled = []
    for matrix, value in zip(rows, fills, strict=True):
        more = ops.full((BLOCK, ops.shape(matrix)[1]), value, dtype=matrix.dtype)
        filled.append(ops.concatenate([matrix, more]))

    def block(turn: Tensor, total: Tensor) -> tuple:
        start = turn * BLOCK
        parts = [ops.slice(m, (start, 0), (BLOCK, ops.shape(m)[1])) for m in filled]
        lines = zip(*(ops.unstack(part, BLOCK) for part in parts), strict=True)
        for place, line in enumerate(lines):
            total = step(total, start + place, *line)
        return turn + 1, total

    return backend.loop(lambda turn, total: turn < turns, block, (ops.zeros((), "int32"), total))[1]
