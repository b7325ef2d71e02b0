"""What ends each operation of an integer network: a new scale, rounding, and a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = ["Requantize"]


@keras.saving.register_keras_serializable(package="tfcert")
class Requantize(keras.layers.Layer):
    """Returns ``clip(round(multiplier * x), *limits)``: whole numbers, as an integer network has.

    Kernels of integer networks round in different ways. The layer itself rounds to the nearest
    number. Bounds of the layer hold for every kernel whose result lies at most `radius` away from
    ``multiplier * x`` before the clip. Gradients pass as if nothing was rounded.

    Args:
        multiplier: A positive number, or one for each channel of the last axis.
        limits: The smallest and the largest result, whole numbers.
        radius: How far a kernel's result may lie from ``multiplier * x``, at least 0.5.
        zero_point: The stored integer that stands for 0. Results are stored integers minus this
            number. Halves of stored integers are rounded away from 0.
        **kwargs: Arguments of ``keras.layers.Layer``.

    Example:

    >>> layer = tfcert.layers.Requantize(multiplier=0.5, limits=(-128, 127))
    >>> np.asarray(layer(np.array([[-2.9, 0.4, 300.0]], "float32"))).tolist()
    [[-1.0, 0.0, 127.0]]
    """

    def __init__(
        self,
        multiplier: float | Sequence[float] = 1.0,
        limits: Sequence[int] = (-128, 127),
        radius: float = 0.5,
        zero_point: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        factors = np.asarray(multiplier, "float64")
        if factors.ndim > 1 or not (np.isfinite(factors) & (factors > 0)).all():
            raise ValueError(
                "`multiplier` must be a positive number, or a list of such numbers. "
                f"Received: multiplier={multiplier!r}."
            )
        low, high = limits
        if low != int(low) or high != int(high) or low > high:
            raise ValueError(
                f"`limits` must be two whole numbers in order. Received: limits={limits!r}."
            )
        if not 0.5 <= radius < float("inf"):
            raise ValueError(
                "`radius` must be a number of at least 0.5, since rounding moves a number by up to "
                f"half a step. Received: radius={radius!r}."
            )
        self.multiplier: float | list[float] = factors.tolist()
        self.limits = (int(low), int(high))
        self.radius = float(radius)
        self.zero_point = int(zero_point)

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the whole numbers that the inputs become."""
        if self.multiplier == 1:
            return self.rounded(inputs)
        return self.rounded(inputs * ops.cast(np.asarray(self.multiplier), inputs.dtype))

    def rounded(self, x: Tensor) -> Tensor:
        """Returns the nearest whole numbers within the limits."""
        below = ops.floor(x)
        rest = x - below
        # Halves go up from stored integers that are not negative.
        up = (rest > 0.5) | ((rest == 0.5) & (below >= -self.zero_point))
        whole = below + ops.cast(up, below.dtype)
        # The sum is exact: the nearest whole number of x is 0, or between x / 2 and 2 x.
        whole = x + ops.stop_gradient(whole - x)
        return ops.clip(whole, *map(float, self.limits))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "multiplier": self.multiplier,
            "limits": self.limits,
            "radius": self.radius,
            "zero_point": self.zero_point,
        }
