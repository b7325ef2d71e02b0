"""Distances of patches of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcert.layers import point_kernels
from tfcert.layers.distance import Distance, positive_integer
from tfcert.types import Initializer, Tensor

__all__ = ["LInfDistanceConv2D"]


@keras.saving.register_keras_serializable(package="tfcert")
class LInfDistanceConv2D(Distance):
    """A layer of distances ``y_f = ||patch - w_f||_p (+ b_f)`` for the patches of an image.

    The layer works as ``LInfDistance``, for images (batch, height, width, channels). Padding adds
    pixels with the value 0, which count in the distance.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of a patch, a number or a pair.
        strides: Steps from patch to patch, a number or a pair.
        padding: "valid", or "same" as ``keras.layers.Conv2D`` pads.
        groups: Number of groups of channels. The ``filters`` are split into as many groups, and
            each filter reads one group of channels.
        dilation_rate: Steps within a patch, a number or a pair.
        p: The first value of the exponent, from 1 to 1000, or inf. The variable ``layer.p`` holds
            the exponent; you may assign it at any time without compiling again.
        use_bias: Whether to add a bias.
        kernel_initializer: The initializer of ``layer.kernel``, with the shape (kernel height,
            kernel width, channels / groups, filters). Default: ``IdentityNormal()``.
        bias_initializer: The initializer of ``layer.bias``, with the shape (filters,).
        **kwargs: Arguments of ``keras.layers.Layer``, such as ``name``.

    Example:

    >>> import numpy as np
    >>> layer = tfcert.layers.LInfDistanceConv2D(8, 3, strides=2, padding="same")
    >>> layer(np.zeros((1, 28, 28, 1), "float32")).shape
    (1, 14, 14, 8)

    Reference: Zhang et al., 2021, https://arxiv.org/abs/2102.05363, section 5.1
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        groups: int = 1,
        dilation_rate: int | Sequence[int] = 1,
        p: float = math.inf,
        use_bias: bool = False,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer = "zeros",
        **kwargs: Any,
    ):
        super().__init__(p, use_bias, kernel_initializer, bias_initializer, **kwargs)
        self.filters = positive_integer("filters", filters)
        self.groups = positive_integer("groups", groups)
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.strides = _pair("strides", strides)
        self.dilation_rate = _pair("dilation_rate", dilation_rate)
        self.padding = padding
        if padding not in ("valid", "same"):
            raise ValueError(f'`padding` must be "valid" or "same". Received: padding={padding!r}.')
        if self.filters % self.groups:
            raise ValueError(
                "`filters` must be a multiple of `groups`. "
                f"Received: filters={filters}, groups={groups}."
            )

    def build(self, input_shape: tuple) -> None:
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "LInfDistanceConv2D needs inputs of shape (batch, height, width, channels) with "
                f"known sizes. Received: input_shape={tuple(input_shape)}."
            )
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(
                "The number of channels must be a multiple of `groups`. "
                f"Received: {channels} channels, groups={self.groups}."
            )
        self.compute_output_shape(input_shape)
        self.add_weights((*self.kernel_size, channels // self.groups, self.filters))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def call(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs)
        height, width = patches.shape[1:3]
        kernel = ops.convert_to_tensor(self.kernel)
        size = math.prod(kernel.shape[:3])
        filters = self.filters // self.groups
        parts = []
        for group in range(self.groups):
            channels = slice(group * kernel.shape[2], (group + 1) * kernel.shape[2])
            own = kernel[..., group * filters : (group + 1) * filters]
            rows = ops.reshape(patches[..., channels], (-1, size))
            found = point_kernels.distances(rows, ops.reshape(own, (size, filters)), self.p)
            parts.append(ops.reshape(found, (-1, height, width, filters)))
        whole = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
        return self.with_bias(whole)

    def patches(self, inputs: Tensor) -> Tensor:
        """Returns the patches, ``(batch, rows, columns, pixels of a patch, channels)``."""
        _, rows, columns, _ = self.compute_output_shape(tuple(inputs.shape))
        if self.padding == "same":
            around = [
                self._around(axis, size, count)
                for axis, size, count in zip(
                    (0, 1), inputs.shape[1:3], (rows, columns), strict=True
                )
            ]
            inputs = ops.pad(inputs, [(0, 0), *around, (0, 0)])
        parts = []
        for i in range(self.kernel_size[0]):
            for j in range(self.kernel_size[1]):
                top, left = i * self.dilation_rate[0], j * self.dilation_rate[1]
                bottom = top + (rows - 1) * self.strides[0] + 1
                right = left + (columns - 1) * self.strides[1] + 1
                parts.append(
                    inputs[:, top : bottom : self.strides[0], left : right : self.strides[1]]
                )
        return ops.stack(parts, axis=3)

    def _extent(self, axis: int) -> int:
        """Pixels from one end of a patch to the other."""
        return (self.kernel_size[axis] - 1) * self.dilation_rate[axis] + 1

    def _around(self, axis: int, size: int, count: int) -> tuple[int, int]:
        """Pixels that "same" adds before and behind."""
        needed = max((count - 1) * self.strides[axis] + self._extent(axis) - size, 0)
        return needed // 2, needed - needed // 2

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        sizes = []
        for axis in (0, 1):
            size, stride = input_shape[1 + axis], self.strides[axis]
            if self.padding == "valid":
                size = size - self._extent(axis) + 1
            if size <= 0:
                raise ValueError(
                    f"The patches, {self._extent(0)} x {self._extent(1)} pixels, are larger than "
                    f"the image. Received: input_shape={tuple(input_shape)}."
                )
            sizes.append(-(-size // stride))
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "groups": self.groups,
            "dilation_rate": self.dilation_rate,
        }


def _pair(name: str, value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise ValueError(
            f"`{name}` must be a positive integer or a pair of them. Received: {name}={value}."
        )
    return positive_integer(name, values[0]), positive_integer(name, values[1])
