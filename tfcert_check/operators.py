"""Linear maps with their exact transpose, for many flat vectors at once.

``apply`` gives ``L x`` for each row of x, ``(n, size) -> (n, outputs)``, ``transpose`` gives
``transpose(L) a``, ``(n, outputs) -> (n, size)``, and ``absolute`` the map with the absolute values
of all factors. They compute in float64. Each entry of a result is a sum of products, which decides
how far rounding may have moved it (see ``rounding``): ``terms`` says how many products, and
roundings of their factors, there are at most in ``L x``, and ``back`` in ``transpose(L) a``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcert_check.refusal import need

__all__ = ["Array", "Convolution", "Linear", "Matrix", "Pick", "Scale"]

Array = npt.NDArray[np.float64]


class Matrix:
    """A dense matrix, ``(outputs, inputs)``."""

    def __init__(self, weights: Array):
        self.weights = weights
        self.back, self.size = weights.shape
        self.terms = self.size

    def apply(self, x: Array) -> Array:
        return x @ self.weights.T

    def absolute(self) -> Matrix:
        return Matrix(np.abs(self.weights))

    def transpose(self, a: Array) -> Array:
        return a @ self.weights


class Scale:
    """Each entry times a factor of its own, which ``roundings`` roundings have led to."""

    def __init__(self, factors: Array, roundings: int = 0):
        self.factors, self.size = factors, len(factors)
        self.terms = self.back = 1 + roundings

    def apply(self, x: Array) -> Array:
        return x * self.factors

    def absolute(self) -> Scale:
        return Scale(np.abs(self.factors), self.terms - 1)

    def transpose(self, a: Array) -> Array:
        return a * self.factors


class Pick:
    """Entries in another order: y_i is x at ``places[i]``, no entry twice; 0 where that is -1."""

    def __init__(self, places: npt.NDArray[np.int64], size: int):
        self.size, self.outputs = size, len(places)
        self._to = np.flatnonzero(places >= 0)
        self._from = places[self._to]
        need(len(np.unique(self._from)) == len(self._from), "an entry is picked twice")
        self.terms = self.back = 1

    def apply(self, x: Array) -> Array:
        y = np.zeros((len(x), self.outputs))
        y[:, self._to] = x[:, self._from]
        return y

    def absolute(self) -> Pick:
        return self

    def transpose(self, a: Array) -> Array:
        x = np.zeros((len(a), self.size))
        x[:, self._from] = a[:, self._to]
        return x


class Convolution:
    """A two-dimensional convolution of ``(channels, height, width)``, as ONNX defines it.

    Args:
        kernel: ``(outputs, channels / groups, height, width)``.
        shape: Of the input.
        strides: Two numbers, as the dilations.
        dilations: Distances of the kernel's entries.
        pads: Zeros above, left, below and right of the input.
        groups: Groups of channels.
    """

    def __init__(
        self, kernel: Array, shape: Any, strides: Any, dilations: Any, pads: Any, groups: int
    ):
        self.kernel, self.shape, self.groups = kernel, tuple(shape), groups
        self._arguments = (shape, strides, dilations, pads, groups)
        self.pads = pads
        high, wide = kernel.shape[2:]
        rows = shape[1] + pads[0] + pads[2] - dilations[0] * (high - 1) - 1
        columns = shape[2] + pads[1] + pads[3] - dilations[1] * (wide - 1) - 1
        fits = kernel.shape[0] % groups == 0 and kernel.shape[1] * groups == shape[0]
        fits = fits and min(rows, columns, *pads) >= 0 and min(*strides, *dilations) > 0
        need(fits, f"a kernel of {kernel.shape} for an input of {shape} is not supported")
        self.out = (kernel.shape[0], rows // strides[0] + 1, columns // strides[1] + 1)
        self.size = math.prod(shape)
        self.terms = math.prod(kernel.shape[1:])
        self.back = kernel.shape[0] // groups * high * wide
        # Where the input is, for each entry of the kernel: slices of its rows and columns.
        self._steps = [
            (i, j, slice(top, top + strides[0] * (self.out[1] - 1) + 1, strides[0]),
             slice(left, left + strides[1] * (self.out[2] - 1) + 1, strides[1]))
            for i, top in enumerate(dilations[0] * np.arange(high))
            for j, left in enumerate(dilations[1] * np.arange(wide))
        ]  # fmt: skip

    def _padded(self, count: int) -> tuple[Array, Array]:
        """Zeros of the padded size, and the part of them that is the input."""
        channels, height, width = self.shape
        top, left, below, right = self.pads
        zeros = np.zeros((count, channels, height + top + below, width + left + right))
        return zeros, zeros[:, :, top : top + height, left : left + width]

    def _kernel(self, i: int, j: int) -> Array:
        """The factors of one place, ``(groups, outputs / groups, channels / groups)``."""
        return self.kernel[:, :, i, j].reshape(self.groups, -1, self.kernel.shape[1])

    def apply(self, x: Array) -> Array:
        padded, inner = self._padded(len(x))
        inner[:] = x.reshape(-1, *self.shape)
        area = self.out[1] * self.out[2]
        y = np.zeros((len(x), self.groups, self.out[0] // self.groups, area))
        for i, j, rows, columns in self._steps:
            part = padded[:, :, rows, columns].reshape(len(x), self.groups, -1, area)
            y += self._kernel(i, j) @ part
        return y.reshape(len(x), -1)

    def absolute(self) -> Convolution:
        return Convolution(np.abs(self.kernel), *self._arguments)

    def transpose(self, a: Array) -> Array:
        padded, inner = self._padded(len(a))
        shaped = a.reshape(len(a), self.groups, self.out[0] // self.groups, -1)
        for i, j, rows, columns in self._steps:
            part = self._kernel(i, j).transpose(0, 2, 1) @ shaped
            padded[:, :, rows, columns] += part.reshape(len(a), self.shape[0], *self.out[1:])
        return inner.reshape(len(a), -1)


Linear = Matrix | Scale | Pick | Convolution
