"""Linear maps with their exact transpose, for many flat vectors at once.

``apply`` gives ``L x`` for each row of x, ``(n, size) -> (n, outputs)``, ``transpose`` gives
``transpose(L) a``, ``(n, outputs) -> (n, size)``, and ``absolute`` the map with the absolute values
of all factors. They compute in float64. Each entry of a result is a sum of products, which decides
how far rounding may have moved it (see ``rounding``): ``terms`` says how many products, and
roundings of their factors, there are at most in ``L x``, and ``back`` in ``transpose(L) a``.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcert_check.refusal import need

__all__ = ["Array", "Convolution", "Linear", "Matrix", "Pick", "Scale"]

Array = npt.NDArray[np.float64]


class _Map:
    """A map whose factors are ``weights``."""

    weights: Array

    def absolute(self) -> Any:
        found = copy.copy(self)
        found.weights = np.abs(self.weights)
        return found


class Matrix(_Map):
    """A dense matrix, ``(outputs, inputs)``."""

    def __init__(self, weights: Array):
        self.weights = weights
        self.back, self.size = weights.shape
        self.terms = self.size

    def apply(self, x: Array) -> Array:
        return x @ self.weights.T

    def transpose(self, a: Array) -> Array:
        return a @ self.weights


class Scale(_Map):
    """Each entry times a factor of its own, which ``roundings`` roundings have led to."""

    def __init__(self, weights: Array, roundings: int = 0):
        self.weights, self.size = weights, len(weights)
        self.terms = self.back = 1 + roundings

    def apply(self, x: Array) -> Array:
        return x * self.weights

    transpose = apply


class Pick(_Map):
    """Entries in another order: y_i is x at ``places[i]``, no entry twice; 0 where that is -1."""

    weights = np.ones(())

    def __init__(self, places: npt.NDArray[np.int64], size: int):
        self.size, self._places, self._back = size, places, np.full(size + 1, -1)
        used = places[places >= 0]
        need(len(np.unique(used)) == len(used), "repeating an entry of a value is not supported")
        need(((places >= -1) & (places < size)).all(), "the places are not those of entries")
        self._back[places] = np.arange(len(places))
        self.terms = self.back = 1

    # Behind the last entry, at -1, there is a 0.

    def apply(self, x: Array) -> Array:
        return np.pad(x, ((0, 0), (0, 1)))[:, self._places]

    def transpose(self, a: Array) -> Array:
        return np.pad(a, ((0, 0), (0, 1)))[:, self._back[:-1]]


class Convolution(_Map):
    """A two-dimensional convolution of ``(channels, height, width)``, as ONNX defines it.

    Args:
        weights: ``(outputs, channels / groups, height, width)``.
        shape: Of the input.
        strides: Two numbers, as the dilations.
        dilations: Distances of the kernel's entries.
        pads: Zeros above, left, below and right of the input.
        groups: Groups of channels.
    """

    def __init__(
        self, weights: Array, shape: Any, strides: Any, dilations: Any, pads: Any, groups: int
    ):
        self.weights, self.shape, self.pads, self.groups = weights, shape, pads, groups
        outputs, channels, *kernel = weights.shape
        whole = np.add(shape[1:], pads[:2]) + pads[2:]
        room = (whole - np.multiply(dilations, np.subtract(kernel, 1)) - 1).tolist()
        fits = outputs % groups == 0 and channels * groups == shape[0]
        fits = fits and min(*room, *pads) >= 0 and min(*strides, *dilations) > 0
        need(fits, f"a kernel of {weights.shape} for an input of {shape} is not supported")
        self.out = (outputs, room[0] // strides[0] + 1, room[1] // strides[1] + 1)
        self.size, self.terms = math.prod(shape), channels * math.prod(kernel)
        self.back = outputs // groups * math.prod(kernel)
        # Where the input is, for each entry of the kernel: slices of its rows and columns.
        self._windows = []
        for i, j in np.ndindex(*kernel):
            first = np.multiply(dilations, (i, j))
            last = first + np.multiply(strides, np.subtract(self.out[1:], 1))
            self._windows.append((i, j, *map(slice, first, last + 1, strides)))

    def _padded(self, count: int) -> tuple[Array, Array]:
        """Zeros of the padded size, and the part of them that is the input."""
        (channels, height, width), (top, left, below, right) = self.shape, self.pads
        zeros = np.zeros((count, channels, height + top + below, width + left + right))
        return zeros, zeros[:, :, top : top + height, left : left + width]

    def _kernel(self, i: int, j: int) -> Array:
        """The factors of one place, ``(groups, outputs / groups, channels / groups)``."""
        return self.weights[:, :, i, j].reshape(self.groups, -1, self.weights.shape[1])

    def apply(self, x: Array) -> Array:
        padded, inner = self._padded(len(x))
        inner[:] = x.reshape(-1, *self.shape)
        total = np.zeros(())
        for i, j, rows, columns in self._windows:
            part = padded[:, :, rows, columns].reshape(
                len(x), self.groups, -1, math.prod(self.out[1:])
            )
            total = total + self._kernel(i, j) @ part
        return total.reshape(len(x), -1)

    def transpose(self, a: Array) -> Array:
        padded, inner = self._padded(len(a))
        shaped = a.reshape(len(a), self.groups, self.out[0] // self.groups, -1)
        for i, j, rows, columns in self._windows:
            part = self._kernel(i, j).transpose(0, 2, 1) @ shaped
            padded[:, :, rows, columns] += part.reshape(len(a), self.shape[0], *self.out[1:])
        return inner.reshape(len(a), -1)


Linear = Matrix | Scale | Pick | Convolution
