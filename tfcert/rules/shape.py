"""Rules of layers that only move, repeat, cut or pad values, and of those that do nothing."""

from __future__ import annotations

from typing import Any

import keras

from tfcert.rules import building
from tfcert.rules.primitives import Node
from tfcert.rules.registry import register_rule
from tfcert.rules.windows import Shift

__all__: list[str] = []


def _moved(layer: Any, x: Node) -> Node:
    return building.rearrange(layer.call, x)


def _identity(layer: Any, x: Node) -> Node:
    del layer
    return x


def _pairs(amount: Any) -> list[tuple[int, int]]:
    """Padding or cropping as one pair per axis; the 1-D layers keep a bare pair."""
    return [tuple(amount)] if isinstance(amount[0], int) else [tuple(p) for p in amount]


def _zero_padding(layer: Any, x: Node) -> Node:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    amounts = [-before for before, _ in _pairs(layer.padding)]
    return building.rearrange(layer.call, x, windowed=Shift(tuple(amounts)) if last else None)


def _cropping(layer: Any, x: Node) -> Node:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    amounts = [before for before, _ in _pairs(layer.cropping)]
    return building.rearrange(layer.call, x, windowed=Shift(tuple(amounts)) if last else None)


def _up_sampling(layer: Any, x: Node) -> Node:
    method = getattr(layer, "interpolation", "nearest")
    if method not in ("nearest", "bilinear"):
        raise NotImplementedError(
            f"interpolation={method!r} has negative weights, for which there is no rule. "
            "Use 'nearest' or 'bilinear'."
        )
    # Bilinear weights: four products and three sums per output.
    return building.rearrange(layer.call, x, terms=1 if method == "nearest" else 8)


for _kind in (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.RepeatVector,
):
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
