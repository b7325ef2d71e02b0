"""The numbers of a region, which compiled code receives at each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfcert.regions import rounding
from tfcert.types import Tensor

__all__ = ["Number", "Numbers", "take"]


class Number(NamedTuple):
    """One number, or array of numbers, of a region.

    Attributes:
        value: An array, or a tensor, which may be symbolic.
        grows: Whether the region grows with the number. Bounds take such a number rounded up,
            and any other number rounded down; attacks the other way round.
        per_sample: Whether the first axis is that of the batch.
    """

    value: Any
    grows: bool
    per_sample: bool = False

    def rounded(self, dtype: str, outward: bool) -> Any:
        """The number in another float type: at least the same region, or at most."""
        upwards = self.grows == outward
        if ops.is_tensor(self.value):
            cast = rounding.cast_up if upwards else rounding.cast_down
            return cast(self.value, dtype)
        value = np.asarray(self.value, "float64")
        return rounding.round_up(value, dtype) if upwards else -rounding.round_up(-value, dtype)


class Numbers(NamedTuple):
    """All numbers of a region by name, rounded to one float type.

    Attributes:
        shared: Those that hold for the whole batch.
        per_sample: Those with one entry per input; the first axis is that of the batch.
    """

    shared: Mapping[str, Any]
    per_sample: Mapping[str, Any]

    def cut(self, places: np.ndarray) -> Numbers:
        """The numbers of some inputs of the batch, by their positions."""
        own = {name: take(value, places) for name, value in self.per_sample.items()}
        return self._replace(per_sample=own)


def take(value: Tensor, places: np.ndarray) -> Any:
    """Some entries of an array or tensor, as exact as they are: float64 arrays stay arrays."""
    return ops.take(value, places, axis=0) if ops.is_tensor(value) else value[places]
