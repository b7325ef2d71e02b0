"""Networks of l-infinity distances."""

from __future__ import annotations

import re
from typing import Any

from keras import layers

from tfcert.layers import LInfDistance, LInfDistanceConv2D, MeanShift

__all__ = ["DENSE", "layers_of"]

# What names of networks begin with that take inputs of any shape.
DENSE = ("linf_mlp_", "linf_hybrid_")

_DENSE = re.compile(r"linf_(mlp|hybrid)_(\d+)x(\d+)$")


def layers_of(name: str, classes: int) -> list[Any] | None:
    """The layers of a network by its name, None where it is none of these.

    ``linf_mlp_<depth>x<width>``: depth layers of distances, width units each but for the last, with
    a mean shift behind each but the last. Scores are negative distances, with a bias: the class
    whose weights are nearest wins.

    ``linf_hybrid_<depth>x<width>``: depth - 1 such layers, then 512 ReLU units and dense scores.

    ``linf_conv``: convolutions of distances with 32 and 64 filters, 512 units, and the last layer.

    References: Zhang et al., 2022, https://arxiv.org/abs/2110.06850 (linf_mlp); Zhang et al., 2021,
    https://arxiv.org/abs/2102.05363 (the hybrid).
    """
    if name == "linf_conv":
        stack = [
            *_shifted(LInfDistanceConv2D(32, 5, strides=2, padding="same")),
            *_shifted(LInfDistanceConv2D(64, 3, strides=2, padding="same")),
        ]
        return [*stack, layers.Flatten(), *_shifted(LInfDistance(512)), *_scores(classes)]
    found = _DENSE.fullmatch(name)
    if found is None:
        return None
    depth, width = int(found[2]), int(found[3])
    if depth < 2 or width < 1:
        raise ValueError(
            "A network of distances has at least 2 layers, of at least 1 unit. "
            f"Received: name={name!r}."
        )
    stack = [layers.Flatten()]
    for _ in range(depth - 1):
        stack += _shifted(LInfDistance(width))
    if found[1] == "mlp":
        return [*stack, *_scores(classes)]
    return [*stack, layers.Dense(512, activation="relu"), layers.Dense(classes)]


def _shifted(layer: layers.Layer) -> list[layers.Layer]:
    return [layer, MeanShift()]


def _scores(classes: int) -> list[layers.Layer]:
    return [LInfDistance(classes, use_bias=True), layers.Rescaling(-1.0)]
