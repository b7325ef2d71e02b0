"""A region around given inputs, as tensors."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from tfcert.types import Tensor

__all__ = ["BoundRegion", "sum_inputs"]


class BoundRegion(NamedTuple):
    """A region around given inputs, as tensors of the shape of the inputs.

    ``lower`` and ``upper`` enclose the region. ``center`` and ``radius`` describe the ball
    ``||(x' - center) / radius||_p <= 1`` for a finite p; for a box both are None. ``middle`` and
    ``half`` describe the box for linear functions (``Region.split``). ``moves`` are the ways from
    x, the center, to the alternatives of each position of a finite region. ``normal`` and ``depth``
    describe the half-space ``sum(normal * x') + depth <= 0``, with a depth of shape ``(batch, 1)``.
    Entries that are cut out of the tensors alike, or padded with zeros, keep their meaning.
    """

    lower: Tensor
    upper: Tensor
    center: Tensor | None = None
    radius: Tensor | None = None
    middle: Tensor | None = None
    half: Tensor | None = None
    moves: Tensor | None = None
    normal: Tensor | None = None
    depth: Tensor | None = None


def sum_inputs(values: Tensor) -> Tensor:
    """Sums ``(batch, rows, *input_shape)`` to ``(batch, rows)``."""
    return ops.sum(values, axis=tuple(range(2, len(values.shape))))
