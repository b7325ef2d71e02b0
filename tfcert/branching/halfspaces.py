"""A box cut by a half-space, as a region of bounds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.regions import BoundRegion, Box
from tfcert.types import Tensor

__all__ = ["CutBox", "least_on_cut"]

# Tried multipliers of each row, and by which factor the first two differ.
_TRIALS, _FACTOR = 6, 4.0
# Added where 0 would be divided by.
_TINY = 1e-12
# Entries from which on a compiled kernel pays, and groups in one call of it.
_LARGE, _PIECE = 1 << 19, 256


class CutBox(Box):
    """The points x of a box with ``sum(normal * x) + depth <= 0``.

    Linear functions have lower bounds, by ``least_on_cut``, at least as large as on the box. The
    numbers of the box and of the half-space are those of a ``BoundRegion``.
    """

    norm = math.nan  # No box: intervals of the first layer gain from sweeps, too.

    def __init__(self) -> None:
        super().__init__(np.zeros(1), np.zeros(1))

    def split(self, bound: BoundRegion) -> BoundRegion:
        # Rows take their own part of each tensor along: no more of them than needed.
        return super().split(bound)._replace(lower=None, upper=None)

    def minimise_beside(self, coefficients: Tensor, bound: BoundRegion) -> Tensor:
        groups, rows = ops.shape(coefficients)[:2]
        size = math.prod(coefficients.shape[2:])
        assert bound.normal is not None and bound.depth is not None
        beside = [
            ops.reshape(tensor, (-1, 1, size))
            for tensor in (bound.middle, bound.half, bound.normal)
        ]
        flat = ops.reshape(coefficients, (groups, rows, size))
        arguments = [flat, *beside, ops.reshape(bound.depth, (-1, 1))]
        if backend.runs_at_once() and groups >= _PIECE and groups * rows * size > _LARGE:
            return _by_pieces(arguments)
        return least_on_cut(*arguments)


@functools.cache
def _kernel() -> Callable[..., Tensor]:
    return backend.compiled(least_on_cut)


def _by_pieces(arguments: list[Tensor]) -> Tensor:
    """``least_on_cut`` in one kernel, for tensors of one shape: its time is that of the memory."""
    kernel, count, found = _kernel(), int(arguments[0].shape[0]), []
    for start in range(0, count, _PIECE):
        begin = min(start, count - _PIECE)  # The last piece begins earlier.
        piece = [tensor[begin : begin + _PIECE] for tensor in arguments]
        found.append(kernel(*piece)[start - begin :])
    return ops.concatenate(found, axis=0)


def least_on_cut(
    coefficients: Tensor, middle: Tensor, half: Tensor, normal: Tensor, depth: Tensor
) -> Tensor:
    """Lower bounds of linear functions on boxes that are cut by half-spaces.

    For every multiplier g >= 0, the least value of ``a . x`` on the part of the box is at least
    that of ``a . x + g (normal . x + depth)`` on the box: a concave function of g, in closed form.
    The multiplier is searched by the sign of the slope. The result is the best value met on the
    way, that of g = 0 included.

    Args:
        coefficients: The functions a, ``(groups, rows, inputs)``.
        middle: The middles of the boxes, ``(groups, 1, inputs)``, as are half and normal.
        half: Half the widths.
        normal: The half-spaces are ``sum(normal * x) + depth <= 0``.
        depth: ``(groups, 1)``.

    Returns:
        ``(groups, rows)``.

    References: Kotha et al., 2023, https://arxiv.org/abs/2302.01404 (the condition at the output);
    Zhou et al., 2025, https://arxiv.org/abs/2512.11087 (linear functions on such a part of a box)
    """
    spread, slant = coefficients * half, normal * half
    base = ops.sum(coefficients * middle, axis=-1)
    center = ops.sum(normal * middle, axis=-1) + depth  # The function of the cut in the middle.
    total = ops.sum(ops.abs(spread), axis=-1)
    best = base - total
    multiplier = total / (ops.sum(ops.abs(slant), axis=-1) + _TINY)
    factor = _FACTOR
    for _ in range(_TRIALS):
        both = spread + ops.expand_dims(multiplier, -1) * slant
        value = base + multiplier * center - ops.sum(ops.abs(both), axis=-1)
        best = ops.maximum(best, value)
        rises = center > ops.sum(ops.sign(both) * slant, axis=-1)
        multiplier = ops.where(rises, multiplier * factor, multiplier / factor)
        factor = math.sqrt(factor)
    return best
