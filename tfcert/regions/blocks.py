"""The blocks of a vector that several inputs make up, one behind the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = ["Blocks"]


class Blocks:
    """The blocks of a vector, and the region of each: known once the model is.

    Attributes:
        order: The number of the region of each block; None for a block that stays as it is.
        shapes: The shapes of the blocks; empty before they are known.
        ends: Where each block begins, and the last one ends.
    """

    def __init__(self) -> None:
        self.order: tuple[int | None, ...] = ()
        self.shapes: tuple[tuple[int, ...], ...] = ()
        self.ends: list[int] = [0]

    def settle(self, order: Sequence[int | None], shapes: Sequence[Sequence[int]]) -> None:
        """Sets which region belongs to each block, and the shapes of the blocks."""
        self.order = tuple(order)
        self.shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        self.ends = [0, *map(int, np.cumsum([math.prod(shape) for shape in self.shapes]))]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The places in the vector where each block begins and ends."""
        return list(zip(self.ends[:-1], self.ends[1:], strict=True))

    def cut(self, values: Tensor) -> list[Tensor]:
        """Returns the blocks of vectors, in their own shapes; leading axes stay."""
        lead = tuple(ops.shape(values))[:-1] if ops.is_tensor(values) else values.shape[:-1]
        reshape = ops.reshape if ops.is_tensor(values) else np.reshape
        return [
            reshape(values[..., low:high], (*lead, *shape))
            for (low, high), shape in zip(self.ranges, self.shapes, strict=True)
        ]
