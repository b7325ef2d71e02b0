"""Rules of rescaling layers, and of those that normalise by fixed statistics."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.rules import building
from tfcert.rules.linear import Scale, read
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.rounding import HUGE, TINY, flushed, rounding_error
from tfcert.types import Tensor

__all__ = ["BatchNorm", "Normalizing"]


class Normalizing(Scale):
    """A layer that is affine for given statistics, which are those of the batch in training.

    Args:
        layer: The layer.
        rank: Axes of its input, without the batch axis.
        axis: The axis that keeps a number for each entry, counted with the batch axis.
    """

    def __init__(self, layer: Any, rank: int, axis: int):
        super().__init__(self._factors)
        self.layer, self.rank, self.axis = layer, rank, axis % (rank + 1)
        self._in_steps = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that statistics are taken over, batch axis included."""
        if self._in_steps:
            raise NotImplementedError(
                f"Layer {self.layer.name!r} would take statistics of each step of a sequence. Use "
                'statistics="moving", or apply the layer without TimeDistributed.'
            )
        return tuple(a for a in range(self.rank + 1) if a != self.axis)

    def for_steps(self) -> Normalizing:
        found = copy.copy(self)
        found._in_steps = True
        return found

    @property
    def uses_batch(self) -> bool:
        """Whether the layer takes the statistics of the batch in training."""
        raise NotImplementedError

    def from_moments(self, mean: Tensor, variance: Tensor, dtype: str) -> tuple:
        """Scale and shift for given statistics."""
        raise NotImplementedError

    def keep(self, mean: Any, variance: Any) -> None:
        """Makes statistics those that the layer has at inference."""
        self.layer.moving_mean.assign(mean)

    def _factors(self, dtype: str) -> tuple:
        raise NotImplementedError

    def _shaped(self, vector: Tensor) -> Tensor:
        return ops.reshape(vector, [-1 if a == self.axis else 1 for a in range(1, self.rank + 1)])


class BatchNorm(Normalizing):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` with fixed statistics."""

    @property
    def uses_batch(self) -> bool:
        return self.layer.trainable

    def _factors(self, dtype: str) -> tuple[Tensor, Tensor]:
        layer = self.layer
        return self.from_moments(
            read(layer.moving_mean, dtype), read(layer.moving_variance, dtype), dtype
        )

    def from_moments(self, mean: Tensor, variance: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
        layer = self.layer
        scale = ops.rsqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * read(layer.gamma, dtype)
        shift = -mean * scale
        if layer.center:
            shift = shift + read(layer.beta, dtype)
        return self._shaped(scale), self._shaped(shift)

    def keep(self, mean: Any, variance: Any) -> None:
        super().keep(mean, variance)
        self.layer.moving_variance.assign(variance)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        # The execution adds x*s and beta - mean*s, which may cancel: take the sizes of all parts.
        # Six roundings are allowed for s (variance + epsilon, an rsqrt good to two units in the
        # last place, gamma), three for the products and sums, one for a compiler that joins them.
        layer, dtype = self.layer, keras.backend.standardize_dtype(p[0].dtype)
        tiny, scale = flushed(10, unit), ops.abs(p[0])
        mean = self._shaped(ops.abs(read(layer.moving_mean, dtype)))
        size = (magnitudes[0] + mean + tiny) * (scale + tiny)
        if layer.center:
            size = size + self._shaped(ops.abs(read(layer.beta, dtype)))
        # What s is made of must not be flushed, or an rsqrt is infinite and a gamma lost.
        odd = read(layer.moving_variance, dtype) + layer.epsilon < 2 * TINY
        if layer.scale:
            factor = ops.abs(read(layer.gamma, dtype))
            odd = odd | ((factor < TINY) & (factor > 0))
        odd = self._shaped(odd) | (scale >= HUGE)
        return ops.where(odd, float("inf"), rounding_error(size, 10, unit))


def _batch_normalization(layer: Any, x: Node) -> Node:
    return apply(BatchNorm(layer, len(x.shape), layer.axis), x)


def _normalization(layer: Any, x: Node) -> Node:
    if layer.mean is None:
        raise ValueError(
            f"Layer {layer.name!r} (Normalization) has no statistics. Call its adapt(data), or "
            "give mean and variance, before asking for bounds."
        )
    mean = np.reshape(ops.convert_to_numpy(layer.mean), layer.mean.shape).astype("float64")
    variance = ops.convert_to_numpy(layer.variance).astype("float64")
    mean, variance = mean.reshape(mean.shape[1:]), variance.reshape(variance.shape[1:])
    spread = np.maximum(np.sqrt(variance), keras.config.epsilon())
    mean, spread = np.broadcast_to(mean, x.shape), np.broadcast_to(spread, x.shape)
    if layer.invert:
        factors, shift = spread, mean
    else:
        factors, shift = 1.0 / spread, -mean / spread

    def both(dtype: str) -> tuple[Tensor, Tensor]:
        return read(factors, dtype), read(shift, dtype)

    def error(unit: float, magnitude: Tensor) -> Tensor:
        # x - mean may cancel. One rounding each for that, variance, sqrt and quotient, more for
        # processors whose quotients are not the nearest.
        tiny = flushed(8, unit)
        size = (magnitude + tiny) * (np.abs(factors) + tiny)
        size = size + (np.abs(mean) if layer.invert else np.abs(mean * factors))
        large = magnitude + np.abs(mean) >= HUGE
        return ops.where(large, float("inf"), rounding_error(size, 8, unit))

    return apply(Scale(both, error), x)


def _rescaling(layer: Any, x: Node) -> Node:
    # As the layer rounds them: TensorFlow turns Python numbers to float32 on their way to float64.
    factor, offset = (
        ops.convert_to_numpy(ops.cast(value, layer.compute_dtype))
        for value in (layer.scale, layer.offset)
    )
    # The layer lines up its scale, and not its offset, with channels that come first.
    if factor.ndim and keras.config.image_data_format() == "channels_first":
        factor = factor.reshape(factor.shape + (1,) * (3 - factor.ndim))
    return building.scale(x, factor, offset)


register_rule(keras.layers.BatchNormalization, _batch_normalization)
register_rule(keras.layers.Normalization, _normalization)
register_rule(keras.layers.Rescaling, _rescaling)
