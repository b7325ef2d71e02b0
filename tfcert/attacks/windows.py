"""The coordinates that a step of the square attack changes: squares of an image, or sets of
numbers.

Points are seen as ``(batch, height, width, channels)``. What is not an image is one column of all
its numbers, in a single channel.
"""

from __future__ import annotations

import abc
import math

import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = ["Columns", "Squares", "Windows", "windows_of"]


class Windows(abc.ABC):
    """Random windows of points of one shape, with the pattern that is put into them.

    Everything random is made of numbers from 0 to 1 that the caller draws.

    Attributes:
        shape: ``(height, width, channels)``.
        draws: How many numbers each input needs for one window.
        start_draws: How many it needs for a start.
    """

    shape: tuple[int, int, int]
    draws: int
    start_draws: int

    @abc.abstractmethod
    def sizes(self, shares: np.ndarray) -> np.ndarray:
        """The sizes of windows that hold so large a share of the coordinates, float32."""

    @abc.abstractmethod
    def corner(self, numbers: Tensor) -> Tensor:
        """Signs all over the points, to start at a corner of a box."""

    @abc.abstractmethod
    def relief(self, numbers: Tensor) -> Tensor:
        """A pattern all over the points, to start on a sphere."""

    @abc.abstractmethod
    def window(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """One window, as a mask, and a sign for each of its coordinates."""

    @abc.abstractmethod
    def bumps(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two windows, as masks, and the pattern that is put into the first one."""


class Squares(Windows):
    """Squares of an image, alike in all channels but for the sign."""

    def __init__(self, height: int, width: int, channels: int):
        self.shape = (height, width, channels)
        self.draws = 5 + channels
        self._tile = max(min(height, width) // 5, 1)
        self._tiles = (-(-height // self._tile), -(-width // self._tile))
        self.start_draws = max(width * channels, math.prod(self._tiles) * channels)
        # Entry m: the sum of 1/j^2 over j up to m.
        terms = 1.0 / np.arange(1, max(height, width) + 2) ** 2
        self._sums = np.concatenate([[0.0], np.cumsum(terms)])

    def sizes(self, shares: np.ndarray) -> np.ndarray:
        height, width, _ = self.shape
        return np.clip(np.round(np.sqrt(shares * height * width)), 1, None).astype("float32")

    def corner(self, numbers: Tensor) -> Tensor:
        """Stripes: one sign for a column and a channel."""
        height, width, channels = self.shape
        signs = _signs(ops.reshape(numbers[:, : width * channels], (-1, 1, width, channels)))
        return ops.tile(signs, (1, height, 1, 1))

    def relief(self, numbers: Tensor) -> Tensor:
        """Tiles with a peak each: five of them along the shorter side."""
        height, width, channels = self.shape
        down, across = self._tiles
        signs = _signs(numbers[:, : down * across * channels])
        signs = ops.reshape(signs, (-1, down, across, channels))
        rows, columns = np.arange(height), np.arange(width)
        signs = ops.take(signs, rows // self._tile, axis=1)
        signs = ops.take(signs, columns // self._tile, axis=2)
        middle = self._tile // 2
        far = np.maximum(
            np.abs(rows % self._tile - middle)[:, None], np.abs(columns % self._tile - middle)
        )
        peaks = self._sums[middle + 1] - self._sums[far]
        return signs * ops.cast(ops.convert_to_tensor(peaks[None, :, :, None]), signs.dtype)

    def window(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        mask, *_ = self._square(numbers[:, 0], numbers[:, 1], size)
        return mask, _signs(numbers[:, 5:])[:, None, None]

    def bumps(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two peaks of opposite signs, each as wide as half of the square."""
        height, width, _ = self.shape
        # An odd side of at least 3 has a middle, and halves that are not empty.
        size = ops.minimum(ops.maximum(2.0 * ops.floor(0.5 * size) + 1.0, 3.0), min(height, width))
        first, down, across = self._square(numbers[:, 0], numbers[:, 1], size)
        second, *_ = self._square(numbers[:, 2], numbers[:, 3], size)
        turned = (numbers[:, 4] < 0.5)[:, None, None, None]
        down, across = ops.where(turned, across, down), ops.where(turned, down, across)
        middle, half = ops.floor(0.5 * size), ops.floor(0.5 * size)
        left = across < half
        center = ops.where(left, ops.floor(0.5 * half), half + ops.floor(0.5 * (size - half)))
        far = ops.maximum(ops.abs(down - middle), ops.abs(across - center))
        sums = ops.cast(ops.convert_to_tensor(self._sums), numbers.dtype)
        reached = ops.take(sums, ops.cast(ops.clip(far, 0.0, middle), "int32"))
        peak = ops.take(sums, ops.cast(middle, "int32") + 1) - reached
        pattern = ops.where(left, peak, -peak) * _signs(numbers[:, 5:])[:, None, None]
        return first, second, ops.where(first, pattern, ops.zeros_like(pattern))

    def _square(self, top: Tensor, left: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A square somewhere, as a mask, and the place of each coordinate in it."""
        height, width, _ = self.shape
        down = np.arange(height, dtype="float32")[:, None, None] - _offset(top, height, size)
        across = np.arange(width, dtype="float32")[:, None] - _offset(left, width, size)
        mask = ops.logical_and(
            ops.logical_and(down >= 0, down < size), ops.logical_and(across >= 0, across < size)
        )
        return mask, down, across


class Columns(Windows):
    """Sets of numbers anywhere, each number with a sign of its own."""

    def __init__(self, size: int):
        self.shape = (size, 1, 1)
        self.draws, self.start_draws = 3 * size, size

    def sizes(self, shares: np.ndarray) -> np.ndarray:
        return shares.astype("float32")

    def corner(self, numbers: Tensor) -> Tensor:
        return _signs(numbers)[:, :, None, None]

    def relief(self, numbers: Tensor) -> Tensor:
        return self.corner(numbers)

    def window(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        count = self.shape[0]
        return self._chosen(numbers[:, :count], size), self.corner(numbers[:, 2 * count :])

    def bumps(self, numbers: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = self.shape[0]
        first, signs = self.window(numbers, size)
        second = self._chosen(numbers[:, count : 2 * count], size)
        return first, second, ops.where(first, signs, ops.zeros_like(signs))

    def _chosen(self, numbers: Tensor, share: Tensor) -> Tensor:
        """Each coordinate with this probability, and at least one."""
        least = ops.min(numbers, axis=1, keepdims=True)
        return (numbers <= ops.maximum(share, least))[:, :, None, None]


def windows_of(shape: tuple[int, ...]) -> Windows:
    """The windows of inputs of a shape, without the batch axis: squares for images."""
    if len(shape) == 3 and min(shape[:2]) > 1:
        height, width, channels = shape
        return Squares(height, width, channels)
    return Columns(math.prod(shape))


def _offset(number: Tensor, length: int, size: Tensor) -> Tensor:
    """Where a window of a size begins on an axis, so that it ends inside: ``(batch, 1, 1, 1)``."""
    room = ops.maximum(length - size + 1.0, 1.0)
    return ops.minimum(ops.floor(number * room), room - 1.0)[:, None, None, None]


def _signs(numbers: Tensor) -> Tensor:
    return ops.where(numbers < 0.5, -ops.ones_like(numbers), ops.ones_like(numbers))
