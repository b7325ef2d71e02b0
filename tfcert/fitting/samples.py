"""The order of samples, and their augmentation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["Augmentation", "Batches", "Shuffled", "taken"]


def taken(arrays: Any, places: Any) -> Any:
    """Some samples of arrays, or of arrays in a structure."""
    return keras.tree.map_structure(lambda array: array[places], arrays)


class Batches(keras.utils.PyDataset):
    """Arrays in batches, in their order; several inputs are a dictionary or a tuple of arrays."""

    def __init__(self, arrays: tuple, batch_size: int):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size
        self.samples = len(arrays[1])

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        begin = index * self.batch_size
        return taken(self.arrays, slice(begin, begin + self.batch_size))


class Shuffled(Batches):
    """Arrays in batches whose order follows from the seed and the trainer's step counter.

    A run that is resumed at the beginning of an epoch sees the batches of an unbroken one.
    """

    def __init__(
        self,
        trainer: Any,
        arrays: tuple,
        batch_size: int,
        shuffle: bool,
        length: int,
        augment: Augmentation | None = None,
    ):
        super().__init__(arrays, batch_size)
        self.trainer, self.shuffle, self.length, self.augment = trainer, shuffle, length, augment
        self.start = int(ops.convert_to_numpy(trainer.step))
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def on_epoch_begin(self) -> None:
        self.start = int(ops.convert_to_numpy(self.trainer.step))

    def __getitem__(self, index: int) -> tuple:
        epoch, place = divmod(self.start + index, self.length)
        order = self._order(epoch)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        x, *rest = taken(self.arrays, chosen)
        if self.augment is not None:
            generator = np.random.default_rng((self.trainer.seed, self.start + index, 1))
            x = self.augment(x, generator)
        return (x, *rest)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            order = np.arange(self.samples)
            if self.shuffle:
                np.random.default_rng((self.trainer.seed, epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Images shifted at random, and mirrored.

    Args:
        name: "crop" or "crop_flip".
        pixels: Shifts go up to so many.
        fill: What is seen beyond the border: "black" or "edge", the nearest pixel of the image.
    """

    name: str
    pixels: int
    fill: str

    def __post_init__(self) -> None:
        if self.name not in ("crop", "crop_flip"):
            raise ValueError(
                f'`augment` must be "none", "crop" or "crop_flip". Received: augment={self.name!r}.'
            )
        if self.fill not in ("black", "edge"):
            raise ValueError(
                f'`crop_fill` must be "black" or "edge". Received: crop_fill={self.fill!r}.'
            )
        if int(self.pixels) != self.pixels or self.pixels < 1:
            raise ValueError(
                f"`crop_pixels` must be a positive integer. Received: crop_pixels={self.pixels}."
            )

    def __call__(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if not isinstance(x, np.ndarray) or x.ndim != 4:
            what = f"x of shape {x.shape}" if isinstance(x, np.ndarray) else "several inputs"
            raise ValueError(
                "`augment` is for images, (samples, height, width, channels). "
                f"Received: augment={self.name!r} with {what}."
            )
        count, height, width = x.shape[:3]
        around = [(0, 0), (self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0)]
        padded = np.pad(x, around, mode="constant" if self.fill == "black" else "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        top, left = generator.integers(0, 2 * self.pixels + 1, size=(2, count))
        x = np.moveaxis(windows[np.arange(count), top, left], 1, -1)
        if self.name == "crop_flip":
            mirrored = generator.random((count, 1, 1, 1)) < 0.5
            x = np.where(mirrored, x[:, :, ::-1], x)
        return np.ascontiguousarray(x)
