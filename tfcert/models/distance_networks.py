"""Networks of l-infinity distances."""

from __future__ import annotations

import re
from typing import Any

from keras import layers

from tfcert.layers import LInfDistance, LInfDistanceConv2D, MeanShift, SortedDistance

__all__ = ["DENSE", "layers_of"]

# What names of networks begin with that take inputs of any shape.
DENSE = ("linf_mlp_", "linf_hybrid_", "sort_mlp_", "sort_hybrid_")

_DENSE = re.compile(r"(linf|sort)_(mlp|hybrid)_(\d+)x(\d+)(?:_keep(\d\d))?$")
_KEEP = 75  # Percent.


def layers_of(name: str, classes: int) -> list[Any] | None:
    """The layers of a network by its name, None where it is none of these.

    ``linf_mlp_<depth>x<width>``: depth layers of distances, width units each but for the last, with
    a mean shift behind each but the last. Scores are negative distances, with a bias: the class
    whose weights are nearest wins.

    ``linf_hybrid_<depth>x<width>``: depth - 1 such layers, then 512 ReLU units and dense scores.

    ``sort_mlp_<depth>x<width>``: as ``linf_mlp``, but all layers behind the first one sort their
    differences. Training keeps 75 % of them, or with the name ``sort_mlp_6x5120_keep85`` 85 %.

    ``sort_hybrid_<depth>x<width>``: depth - 2 such layers, then 512 tanh units and dense scores.

    ``linf_conv``: convolutions of distances with 32 and 64 filters, 512 units, and the last layer.

    References: Zhang et al., 2022, https://arxiv.org/abs/2110.06850 (linf_mlp); Zhang et al., 2021,
    https://arxiv.org/abs/2102.05363 (linf_hybrid); Zhang et al., 2022,
    https://arxiv.org/abs/2210.01787 (sort_mlp, sort_hybrid).
    """
    if name == "linf_conv":
        stack = [
            *_shifted(LInfDistanceConv2D(32, 5, strides=2, padding="same")),
            *_shifted(LInfDistanceConv2D(64, 3, strides=2, padding="same")),
        ]
        last = [LInfDistance(classes, use_bias=True), layers.Rescaling(-1.0)]
        return [*stack, layers.Flatten(), *_shifted(LInfDistance(512)), *last]
    found = _DENSE.fullmatch(name)
    if found is None:
        return None
    family, kind, depth, width = found[1], found[2], int(found[3]), int(found[4])
    sorts, least = family == "sort", 3 if (family, kind) == ("sort", "hybrid") else 2
    keep = int(found[5] or _KEEP) / 100
    if depth < least or width < 1 or keep == 0 or (found[5] and not sorts):
        raise ValueError(
            f"A network of this kind has at least {least} layers, of at least 1 unit, and only "
            f"sort_... keeps a share of its inputs. Received: name={name!r}."
        )

    def inner(units: int, **options: Any) -> layers.Layer:
        if sorts:
            return SortedDistance(units, keep=keep, **options)
        return LInfDistance(units, **options)

    stack = [layers.Flatten(), *_shifted(LInfDistance(width))]
    for _ in range(depth - least):
        stack += _shifted(inner(width))
    if kind == "mlp":
        return [*stack, inner(classes, use_bias=True), layers.Rescaling(-1.0)]
    activation = "tanh" if sorts else "relu"
    return [*stack, layers.Dense(512, activation=activation), layers.Dense(classes)]


def _shifted(layer: layers.Layer) -> list[layers.Layer]:
    return [layer, MeanShift()]
