"""Maps that are linear in their input and in their kernel, and their transposes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.rules import phases
from tfcert.types import Tensor

__all__ = ["Convolution", "Linear"]


# Rows up to which that is so. Measured on one core, with and without gradients.
_FEW = 64


class Linear:
    """``function(x, kernel)``, linear in both; its transpose is its vector-Jacobian product."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor]):
        self._function = function

    def __call__(self, value: Tensor, kernel: Any) -> Tensor:
        return self._function(value, kernel)

    def transpose(self, coefficients: Tensor, kernel: Any, shape: tuple[int, ...]) -> Tensor:
        """``W^T a``, ``(n, *shape)``.

        Args:
            coefficients: ``(n, *shape of the output)``.
            kernel: The kernel.
            shape: Of the input, without its batch axis.
        """
        zeros = ops.zeros((ops.shape(coefficients)[0], *shape), coefficients.dtype)
        (result,) = backend.vector_jacobian(lambda z: self(z, kernel), [zeros], coefficients)
        return result


class Convolution(Linear):
    """A convolution, channels last.

    Args:
        strides: Steps, one per spatial axis.
        padding: "valid", "same" or "causal".
        dilation: Distances of the places that a window reads, one per spatial axis.
        before: Zeros that padding puts before the first entry of each axis.
        in_phases: Whether its transpose is to be written as a plain convolution
            (``tfcert.rules.phases``): for steps, without dilation and without groups.
    """

    def __init__(
        self,
        strides: tuple[int, ...],
        padding: str,
        dilation: tuple[int, ...],
        before: tuple[int, ...],
        *,
        in_phases: bool = False,
    ):
        self._strides, self._padding, self._dilation = strides, padding, dilation
        self._before, self._in_phases = before, in_phases

    def unpadded(self) -> Convolution:
        """The same map of an input that has its padding already."""
        start = (0,) * len(self._before)
        return Convolution(self._strides, "valid", self._dilation, start, in_phases=self._in_phases)

    def __call__(self, value: Tensor, kernel: Tensor) -> Tensor:
        padding = self._padding
        if padding == "causal":
            value = ops.pad(value, [(0, 0), (self._before[0], 0), (0, 0)])
            padding = "valid"
        return ops.conv(
            value,
            _ungrouped(kernel, int(value.shape[-1])),
            strides=list(self._strides),
            padding=padding,
            dilation_rate=self._dilation,
            data_format="channels_last",
        )

    def transpose(self, coefficients: Tensor, kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
        # One by one, the operations of the phases take longer than a slow kernel on few rows.
        if self._in_phases and not (backend.runs_at_once() and coefficients.shape[0] <= _FEW):
            return phases.transpose(self, coefficients, kernel, self._strides, self._before, shape)
        if self._padding == "causal" or math.prod(self._dilation) > 1:
            return super().transpose(coefficients, kernel, shape)
        kernel = _ungrouped(kernel, shape[-1])
        return backend.convolution_transpose(
            coefficients, kernel, shape, self._strides, self._padding
        )


def _ungrouped(kernel: Tensor, channels: int) -> Tensor:
    """The kernel of a convolution in groups as that of a plain one, with zeros between groups.

    TensorFlow has no gradients of grouped convolutions on a CPU.
    """
    size, filters = int(kernel.shape[-2]), int(kernel.shape[-1])
    groups = channels // size
    if groups == 1:
        return kernel
    same = np.arange(channels)[:, None] // size == np.arange(filters) // (filters // groups)
    wide = ops.concatenate([kernel] * groups, axis=-2)
    return wide * ops.cast(same, kernel.dtype)
