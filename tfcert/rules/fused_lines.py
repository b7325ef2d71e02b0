"""Rows through the lines of a ReLU in one kernel, and their gradient in another: for training.

What ``apply_lines`` does is little work on much memory: a handful of operations, each of which
reads and writes all coefficients, and twice as many for the gradient. Here each way reads them
once or twice. The kernels are compiled for the shape of the rows, which pays where the same step
is taken many times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import ops

from tfcert import backend
from tfcert.relaxations import Lines
from tfcert.rules.rows import Rows
from tfcert.types import Tensor

__all__ = ["apply_fused"]


def apply_fused(
    lines: Lines, rows: Rows, shift: Tensor | None, turns: bool
) -> tuple[Sequence[Rows], Tensor]:
    """Rows of ``f(z + shift)`` as rows of z, and the constant that comes with them.

    Args:
        lines: Those of f beside the coefficients, ``(groups, 1, *shape)``, the lower one through 0.
        rows: Over whole values.
        shift: What is added before f, ``shape`` or what broadcasts to it; None: nothing.
        turns: Whether the lower slope depends on trained variables.
    """
    shape = tuple(rows.coefficients.shape)
    size = math.prod(shape[2:])
    lower, upper, above = lines.lower_slope, lines.upper_slope, lines.upper_intercept
    below = ops.zeros_like(lower)
    if shift is not None:
        below, above = lower * shift, above + upper * shift
    sides = [ops.reshape(side, (-1, 1, size)) for side in (lower, upper, below, above)]

    def through(a: Tensor, lower: Tensor, *others: Tensor) -> list[Tensor]:
        return _through_lines(a, lower if turns else ops.stop_gradient(lower), *others)

    coefficients = ops.reshape(rows.coefficients, (-1, shape[1], size))
    coefficients, constant = backend.fused_with_gradient(through, coefficients, *sides)
    return [Rows(ops.reshape(coefficients, (-1, *shape[1:])), clean=True)], constant


def _through_lines(
    a: Tensor, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor
) -> list[Tensor]:
    constant = ops.sum(ops.relu(a) * below + ops.minimum(a, 0.0) * above, axis=-1)
    return [ops.where(a > 0, a * lower, a * upper), constant]
