"""Rules of pooling layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.rules import building
from tfcert.rules.linear_maps import Linear
from tfcert.rules.nonlinear import MaxReduce
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.windows import Sliding
from tfcert.types import Tensor

__all__: list[str] = []


def _padding(size: Sequence[int], layer: Any) -> list[tuple[int, int]]:
    """Entries that the pool adds before and after each spatial axis."""
    if layer.padding == "valid":
        return [(0, 0)] * len(size)
    pads = []
    for n, k, s in zip(size, layer.pool_size, layer.strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


class _Windows(Linear):
    """All entries of every pooling window of a padded map, on a new last axis."""

    def __init__(self, pool: tuple[int, ...], stride: tuple[int, ...]):
        self._pool, self._stride = pool, stride

    def __call__(self, value: Tensor, kernel: Any = None) -> Tensor:
        slices = []
        for start in itertools.product(*[range(k) for k in self._pool]):
            index = [slice(None)]
            places = zip(start, value.shape[1:-1], self._pool, self._stride, strict=True)
            for begin, size, k, s in places:
                index.append(slice(begin, begin + (size - k) // s * s + 1, s))
            slices.append(value[tuple(index)])
        return ops.stack(slices, axis=-1)

    def transpose(self, coefficients: Tensor, kernel: Any, shape: tuple[int, ...]) -> Tensor:
        """Where the windows tile the map, they are laid side by side."""
        pool, rank = self._pool, len(self._pool)
        if pool != self._stride or any(n % k for n, k in zip(shape[:-1], pool, strict=True)):
            return super().transpose(coefficients, kernel, shape)
        counts = [n // k for n, k in zip(shape[:-1], pool, strict=True)]
        apart = ops.reshape(coefficients, (-1, *counts, shape[-1], *pool))
        pairs = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
        return ops.reshape(ops.transpose(apart, [0, *pairs, 1 + rank]), (-1, *shape))


def _max_pooling(layer: Any, x: Node) -> Node:
    first = layer.data_format == "channels_first"
    if first:
        x = building.rearrange(_to_last(len(x.shape)), x)
    size = x.shape[:-1]
    pads = _padding(size, layer)
    pool, stride = tuple(layer.pool_size), tuple(layer.strides)
    windows = _Windows(pool, stride)
    slide = Sliding(windows, pool, stride, tuple(p[0] for p in pads))
    present = np.pad(np.ones(size, dtype=bool), pads)[None, ..., None]
    present = ops.convert_to_numpy(windows(present))[0]
    if any(map(sum, pads)):
        around = [(0, 0), *pads, (0, 0)]
        gathered = building.rearrange(lambda t: windows(ops.pad(t, around)), x, windowed=slide)
    else:
        gathered = building.rearrange(
            windows,
            x,
            windowed=slide,
            transposed=lambda coefficients, shape: windows.transpose(coefficients, None, shape),
        )
    result = apply(MaxReduce(None if present.all() else present), gathered)

    return building.rearrange(_to_first(len(result.shape)), result) if first else result


def _to_last(rank: int) -> Any:
    return lambda t: ops.transpose(t, [0, *range(2, rank + 1), 1])


def _to_first(rank: int) -> Any:
    return lambda t: ops.transpose(t, [0, rank, *range(1, rank)])


def _average_pooling(layer: Any, x: Node) -> Node:
    terms = math.prod(layer.pool_size)
    if layer.data_format == "channels_first":
        return building.rearrange(layer.call, x, terms=terms)
    pads = _padding(x.shape[:-1], layer)
    if any(map(sum, pads)):  # Windows at the edge average fewer entries: no sliding form.
        return building.rearrange(layer.call, x, terms=terms)
    pool, stride = tuple(layer.pool_size), tuple(layer.strides)

    def unpadded(t: Tensor, _: Any) -> Tensor:
        return ops.average_pool(t, pool, stride, "valid", data_format="channels_last")

    slide = Sliding(Linear(unpadded), pool, stride, (0,) * len(pool))
    return building.rearrange(layer.call, x, terms=terms, windowed=slide)


def _global_average(layer: Any, x: Node) -> Node:
    spatial = x.shape[:-1] if layer.data_format == "channels_last" else x.shape[1:]
    return building.rearrange(layer.call, x, terms=math.prod(spatial))


def _global_max(layer: Any, x: Node) -> Node:
    rank = len(x.shape)
    axes = range(1, rank) if layer.data_format == "channels_last" else range(2, rank + 1)
    return building.reduce_max(x, list(axes), keepdims=layer.keepdims)


register_rule(keras.layers.GlobalAveragePooling1D, _global_average)
register_rule(keras.layers.GlobalAveragePooling2D, _global_average)
register_rule(keras.layers.GlobalAveragePooling3D, _global_average)
register_rule(keras.layers.GlobalMaxPooling1D, _global_max)
register_rule(keras.layers.GlobalMaxPooling2D, _global_max)
register_rule(keras.layers.GlobalMaxPooling3D, _global_max)
for _kind in (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D):
    register_rule(_kind, _max_pooling)
for _kind in (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
):
    register_rule(_kind, _average_pooling)
