"""Architectures of the certified-training literature. All end in logits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfcert.models import distance_networks, image_networks
from tfcert.types import ArrayLike

__all__ = ["NAMES", "get"]

# One convolution: filters, kernel size, stride, padding in pixels.
_Conv = tuple[int, int, int, int]


def _convolutions(
    layers: Sequence[_Conv], dense: Sequence[int], batch_norm: bool = False
) -> list[Any]:
    """Convolutions, then dense layers, ReLU behind each."""
    stack: list[Any] = []

    def close(unit: keras.layers.Layer) -> None:
        stack.append(unit)
        if batch_norm:
            # With Keras's own epsilon, the variances of such initial weights would vanish in it.
            stack.append(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        stack.append(keras.layers.ReLU())

    for filters, kernel, stride, padding in layers:
        # Keras's "same" pads more on one side where the stride is 2; the papers pad alike.
        if padding:
            stack.append(keras.layers.ZeroPadding2D(padding))
        close(keras.layers.Conv2D(filters, kernel, stride, use_bias=not batch_norm))
    stack.append(keras.layers.Flatten())
    for units in dense:
        close(keras.layers.Dense(units, use_bias=not batch_norm))
    return stack


def _cnn2(width: int) -> list[Any]:
    return _convolutions([(4 * width, 4, 2, 1), (8 * width, 4, 2, 1)], [64 * width])


def _cnn4(width: int) -> list[Any]:
    layers = [
        (4 * width, 3, 1, 1),
        (4 * width, 4, 2, 1),
        (8 * width, 3, 1, 1),
        (8 * width, 4, 2, 1),
    ]
    return _convolutions(layers, [64 * width, 64 * width])


def _cnn7(width: int, batch_norm: bool = True, units: int = 512) -> list[Any]:
    layers = [
        (width, 3, 1, 1),
        (width, 3, 1, 1),
        (2 * width, 3, 2, 1),
        (2 * width, 3, 1, 1),
        (2 * width, 3, 1, 1),
    ]
    return _convolutions(layers, [units], batch_norm)


_ARCHITECTURES: Mapping[str, Callable[[], list[Any]]] = {
    "dm_small": lambda: _convolutions([(16, 4, 2, 1), (32, 4, 1, 1)], [100]),
    "dm_medium": lambda: _convolutions(
        [(32, 3, 1, 1), (32, 4, 2, 1), (64, 3, 1, 1), (64, 4, 2, 1)], [512, 512]
    ),
    "dm_large": lambda: _cnn7(64, batch_norm=False),
    "cnn2_w2": lambda: _cnn2(2),
    "cnn2_w4": lambda: _cnn2(4),
    "cnn2_w8": lambda: _cnn2(8),
    "cnn4_w2": lambda: _cnn4(2),
    "cnn4_w4": lambda: _cnn4(4),
    "cnn4_w8": lambda: _cnn4(8),
    "cnn7": lambda: _cnn7(64),
    "cnn7_narrow": lambda: _cnn7(16),
    "cnn7_w8": lambda: _cnn7(8, units=128),
}

# Those that are no plain stacks: functions of the input.
_GRAPHS: Mapping[str, Callable[[Any, int], Any]] = {
    "lenet": image_networks.lenet,
    "resnet20": lambda x, classes: image_networks.resnet(x, classes, 20),
    "resnet110": lambda x, classes: image_networks.resnet(x, classes, 110),
    "densenet40": image_networks.densenet,
    # Blocks, heads, and the side of a patch in pixels.
    "vit_1_1_4": lambda x, classes: image_networks.vit(x, classes, 1, 1, 4),
    "vit_2_3_16": lambda x, classes: image_networks.vit(x, classes, 2, 3, 16),
    "vit_3_3_8": lambda x, classes: image_networks.vit(x, classes, 3, 3, 8),
}

# "mlp_3x100" and the like are understood besides.
NAMES: tuple[str, ...] = (*_ARCHITECTURES, *_GRAPHS, "linf_conv")

_MLP = re.compile(r"mlp_(\d+)x(\d+)$")


def get(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
) -> keras.Model:
    """Returns a new model with random weights.

    ``dm_small``, ``dm_medium`` and ``dm_large`` are the networks of Gowal et al. ``cnn2_w*`` and
    ``cnn4_w*`` have two and four convolutions in widths 2, 4 and 8; ``cnn7`` has five convolutions
    and two dense layers with batch normalisation (Shi et al.), ``cnn7_narrow`` a quarter of its
    channels, ``cnn7_w8`` an eighth, and a quarter of its units. ``lenet``, ``resnet20``,
    ``resnet110`` and ``densenet40`` are the networks that smoothing is measured on.
    ``vit_2_3_16`` is a vision transformer of 2 blocks with 3 heads on patches of 16 x 16; so are
    ``vit_3_3_8`` and ``vit_1_1_4``. ``mlp_3x100`` has three hidden layers of 100 units; any
    numbers go.

    ``linf_mlp_5x5120`` is a network of l-inf distances with 5 layers, 4 of them of 5120 units;
    ``linf_hybrid_5x5120`` has the 4, and two dense layers behind them; ``linf_conv`` has two
    convolutions of distances. ``sort_mlp_5x5120`` and ``sort_hybrid_7x5120`` sort their distances
    behind the first layer, and keep 75 % of them in training; ``sort_mlp_6x5120_keep85`` keeps
    85 %. See ``tfcert.models.distance_networks``.

    Args:
        name: One of ``NAMES``, ``mlp_<layers>x<units>``, or a network of distances:
            ``linf_mlp_<layers>x<units>``, ``linf_hybrid_...``, ``sort_mlp_...``,
            ``sort_hybrid_...``.
        input_shape: Shape of one input.
        classes: Number of logits.
        mean: The mean of the inputs, which is subtracted first: one number, or one per channel.
            Default: 0.
        std: The divisor of the inputs after that. Default: 1. With `mean` and `std` inside the
            model, radii keep the units of the raw input.

    Returns:
        A built Sequential or Functional model.

    Example:

    >>> from tfcert import models
    >>> models.get("dm_small", input_shape=(28, 28, 1), classes=10).count_params()
    550406

    References: Gowal et al., 2018, https://arxiv.org/abs/1810.12715, table 1; Shi et al., 2021,
    https://arxiv.org/abs/2103.17268.
    """
    if not isinstance(name, str):
        raise ValueError(f"`name` must be a string, one of {', '.join(NAMES)}. Received: {name!r}.")
    if not isinstance(input_shape, Sequence):
        raise ValueError(
            f"`input_shape` must be a tuple, such as (28, 28, 1). Received: {input_shape!r}."
        )
    mlp, linf = _MLP.fullmatch(name), distance_networks.layers_of(name, classes)
    if not mlp and not linf and name not in NAMES:
        raise ValueError(
            f"`name` must be one of {', '.join(NAMES)}, or mlp_<layers>x<units>, with linf_mlp, "
            "linf_hybrid, sort_mlp or sort_hybrid in place of mlp for networks of distances. "
            f"Received: name={name!r}."
        )
    if not mlp and not name.startswith(distance_networks.DENSE) and len(input_shape) != 3:
        raise ValueError(
            f"Model {name!r} takes images, input_shape (height, width, channels). "
            f"Received: input_shape={tuple(input_shape)}."
        )
    first: list[Any] = []
    if mean is not None or std is not None:
        mean, std = 0.0 if mean is None else mean, 1.0 if std is None else std
        first.append(_normalization(mean, std, input_shape[-1]))
    try:
        return _built(name, tuple(input_shape), [*first, *(linf or [])], classes)
    except ValueError as error:
        raise ValueError(
            f"Model {name!r} does not fit inputs of shape {tuple(input_shape)}: {error}"
        ) from error


def _built(name: str, input_shape: tuple, first: list, classes: int) -> keras.Model:
    """The model; of networks of distances `first` holds all layers."""
    mlp, inputs = _MLP.fullmatch(name), keras.Input(input_shape)
    if name in _GRAPHS:
        x = first[0](inputs) if first else inputs
        return keras.Model(inputs, _GRAPHS[name](x, classes), name=name)
    if name.startswith(("linf_", "sort_")):
        return keras.Sequential([inputs, *first], name=name)
    stack = _convolutions([], [int(mlp[2])] * int(mlp[1])) if mlp else _ARCHITECTURES[name]()
    return keras.Sequential([inputs, *first, *stack, keras.layers.Dense(classes)], name=name)


def _normalization(mean: Any, std: Any, channels: int) -> keras.layers.Layer:
    def vector(name: str, value: Any) -> list[float]:
        values = [float(v) for v in value] if hasattr(value, "__len__") else [float(value)]
        if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
            raise ValueError(
                f"`{name}` must be a finite number, or one for each of {channels} channels. "
                f"Received: {name}={value!r}."
            )
        return values * channels if len(values) == 1 else values

    deviations = vector("std", std)
    if not all(v > 0 for v in deviations):
        raise ValueError(f"`std` must be > 0. Received: std={std!r}.")
    variance = [v**2 for v in deviations]
    return keras.layers.Normalization(mean=vector("mean", mean), variance=variance)
