"""The numbers of a region, apart from the region: compiled code receives them at each call."""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from tfcert.regions import rounding
from tfcert.regions.contents import contents
from tfcert.types import Tensor

__all__ = ["Number", "Numbered", "Numbers", "take"]


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
        if value.ndim == 0:
            return _rounded(value.tobytes(), dtype, upwards)
        return rounding.round_up(value, dtype) if upwards else -rounding.round_up(-value, dtype)


@functools.lru_cache(maxsize=1024)
def _rounded(content: bytes, dtype: str, upwards: bool) -> np.ndarray:
    """One number, which every call for bounds asks for anew."""
    value = np.frombuffer(content, "float64").reshape(())
    found = rounding.round_up(value, dtype) if upwards else -rounding.round_up(-value, dtype)
    found = np.asarray(found)
    found.setflags(write=False)
    return found


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


class Numbered:
    """Base class of regions: keeps the numbers of a region apart from the rest of it.

    Code is compiled once for all regions of one `signature`, and keeps a `template` of them. Each
    call passes the `numbers` of its region, and `with_numbers` puts the region together again.
    """

    # Whether the values of x were looked at before the numbers were rounded: see `with_numbers`.
    _checked = False

    def _described(self, rank: int) -> dict[str, Number]:
        """The numbers of the region, by the names of the attributes that hold them.

        None by default: all that the region holds then counts as a part of its code.

        Args:
            rank: Of the inputs, the batch axis included.
        """
        return {}

    def signature(self) -> Hashable:
        """Returns everything that compiled code depends on, except the region's numbers.

        Two regions with the same signature share a compiled program, and each passes its own
        numbers. By default the signature is the class, and every attribute that is not a number. A
        subclass with more attributes need not override this method.
        """
        rest, names = vars(self), self._described(0)
        held = {name: value for name, value in rest.items() if name not in names}
        return type(self), tuple(sorted(names)), contents(held)

    def numbers(self, x: Tensor, outward: bool) -> Numbers:
        """Returns the region's numbers, rounded outward for bounds or inward for attacks.

        Numbers that are tensors stay tensors, and symbolic ones stay symbolic.

        Args:
            x: Inputs, of which only the rank and the type count.
            outward: Whether the region of these numbers holds this one, or lies in it.
        """
        dtype = keras.backend.standardize_dtype(x.dtype)
        shared: dict[str, Any] = {}
        per_sample: dict[str, Any] = {}
        for name, number in self._described(len(x.shape)).items():
            part = per_sample if number.per_sample else shared
            part[name] = number.rounded(dtype, outward)
        return Numbers(shared, per_sample)

    def template(self) -> Self:
        """Returns the region without its numbers, which compiled code keeps for `with_numbers`."""
        other, names = copy.copy(self), self._described(0)
        other.__dict__.update(
            (name, None if name in names else copy.deepcopy(value))
            for name, value in vars(self).items()
        )
        return other

    def with_numbers(self, numbers: Numbers) -> Self:
        """Returns the region of this signature with the given numbers, inside compiled code.

        This region does not check x, because `validate` of the original region has checked it.
        `admits` compares x with the rounded numbers.
        """
        other = self._updated({**numbers.shared, **numbers.per_sample})
        other._checked = True
        return other

    def varies(self, x: Tensor) -> bool:
        """Returns whether the region's size or shape differs from input to input.

        Args:
            x: Inputs, of which only the rank counts.
        """
        return any(number.per_sample for number in self._described(len(x.shape)).values())

    def select(self, places: np.ndarray, x: Tensor) -> Self:
        """Returns the region of some inputs of a batch, with equally exact numbers.

        Args:
            places: Their positions in the batch, integers.
            x: The whole batch, or one input with a batch axis: only its rank counts.
        """
        described = self._described(len(x.shape)).items()
        own = {name: take(n.value, places) for name, n in described if n.per_sample}
        return self._updated(own)

    def _updated(self, values: dict[str, Any]) -> Self:
        other = copy.copy(self)
        other.__dict__.update(values)
        return other
