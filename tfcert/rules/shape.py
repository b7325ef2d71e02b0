"""Rules of layers that only move, repeat, cut or pad values, and of those that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.rules import building
from tfcert.rules.linear import Rearrange
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.rounding import rounding_error
from tfcert.rules.windows import Shift
from tfcert.types import Tensor

__all__: list[str] = []


def _moved(layer: Any, x: Node) -> Node:
    return building.rearrange(layer.call, x)


def _reshape(layer: Any, x: Node) -> Node:
    return building.reshape(x, layer.compute_output_shape((1, *x.shape))[1:])


def _flatten(layer: Any, x: Node) -> Node:
    last = layer.data_format == "channels_last" or len(x.shape) == 1
    return _reshape(layer, x) if last else _moved(layer, x)


def _identity(layer: Any, x: Node) -> Node:
    del layer
    return x


def _pairs(amount: Any) -> list[tuple[int, int]]:
    """Padding or cropping as one pair per axis; the 1-D layers keep a bare pair."""
    return [tuple(amount)] if isinstance(amount[0], int) else [tuple(p) for p in amount]


def _zero_padding(layer: Any, x: Node) -> Node:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    amounts = tuple(-before for before, _ in _pairs(layer.padding))
    windowed = Shift(amounts, crops=False) if last else None
    return building.rearrange(layer.call, x, windowed=windowed)


def _cropping(layer: Any, x: Node) -> Node:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    amounts = tuple(before for before, _ in _pairs(layer.cropping))
    windowed = Shift(amounts, crops=True) if last else None
    return building.rearrange(layer.call, x, windowed=windowed)


def _up_sampling(layer: Any, x: Node) -> Node:
    method = getattr(layer, "interpolation", "nearest")
    if method not in ("nearest", "bilinear"):
        raise NotImplementedError(
            f"interpolation={method!r} has negative weights, for which there is no rule. "
            "Use 'nearest' or 'bilinear'."
        )
    if method == "nearest":
        return building.rearrange(layer.call, x)
    if layer.data_format == "channels_first":
        x = building.rearrange(lambda t: ops.transpose(t, [0, 2, 3, 1]), x)
    result = apply(Bilinear(x.shape[:2], layer.size), x)
    if layer.data_format == "channels_first":
        result = building.rearrange(lambda t: ops.transpose(t, [0, 3, 1, 2]), result)
    return result


class Bilinear(Rearrange):
    """Bilinear upsampling by whole factors, channels last.

    Written out as two matrices: TensorFlow's own computes in float32 whatever it is given.
    """

    def __init__(self, size: Sequence[int], factors: Sequence[int]):
        self.factors = tuple(int(factor) for factor in factors)
        self.weights = [_interpolation(n, k) for n, k in zip(size, factors, strict=True)]
        super().__init__(lambda t: _on_both_axes(t, self.weights), terms=4)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        if any(factor & (factor - 1) for factor in self.factors):
            # The places between pixels are rounded then. XLA even takes a wrong pixel where an
            # output lies exactly on one: resizing (0, 1, 2, 3) by 3 has a 2 for a 1 there.
            raise NotImplementedError(
                "bilinear upsampling has a rounding analysis for factors that are powers of two. "
                "Use float_safe=False, or interpolation='nearest'."
            )
        # Executions subtract neighbours before they weigh them.
        near = [(weights > 0).astype("float64") for weights in self.weights]
        return rounding_error(_on_both_axes(magnitudes[0], near), 16, unit)


def _interpolation(size: int, factor: int) -> np.ndarray:
    """The matrix ``(size * factor, size)`` of linear interpolation between pixel centres."""
    place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    distance = np.abs(place[:, None] - np.arange(size))
    return np.maximum(1.0 - distance, 0.0)


def _on_both_axes(t: Tensor, matrices: Sequence[np.ndarray]) -> Tensor:
    rows, columns = (ops.cast(ops.convert_to_tensor(m), t.dtype) for m in matrices)
    return ops.einsum("pi,bijc,qj->bpqc", rows, t, columns)


register_rule(keras.layers.Flatten, _flatten)
register_rule(keras.layers.Reshape, _reshape)
for _kind in (keras.layers.Permute, keras.layers.RepeatVector):
    register_rule(_kind, _moved)
for _kind in (
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
):
    register_rule(_kind, _zero_padding)
for _kind in (keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D):
    register_rule(_kind, _cropping)
for _kind in (keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D):
    register_rule(_kind, _up_sampling)
# Layers that act in training only.
for _kind in (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.RandomContrast,
    keras.layers.RandomBrightness,
):
    register_rule(_kind, _identity)
