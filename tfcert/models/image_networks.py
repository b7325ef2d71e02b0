"""Image classifiers that are no plain stacks: LeNet, CIFAR's ResNets and DenseNet, transformers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["densenet", "lenet", "resnet", "vit"]


def lenet(x: Any, classes: int) -> Any:
    """Two 5x5 convolutions with pooling, 500 hidden units.

    Reference: the MNIST network of Jeong and Shin, 2020, https://arxiv.org/abs/2006.04062
    """
    for filters in (20, 50):
        x = layers.MaxPooling2D(2)(layers.Conv2D(filters, 5, activation="relu")(x))
    x = layers.Dense(500, activation="relu")(layers.Flatten()(x))
    return layers.Dense(classes)(x)


def resnet(x: Any, classes: int, depth: int) -> Any:
    """The CIFAR ResNet of ``depth = 6 n + 2`` layers: n basic blocks each of 16, 32, 64 channels.

    Shortcuts that change the shape are 1x1 convolutions.

    Reference: He et al., 2016, https://arxiv.org/abs/1512.03385, section 4.2
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6 n + 2. Received: depth={depth}.")
    x = layers.ReLU()(_conv_norm(x, 16, 3, 1))
    for filters in (16, 32, 64):
        for block in range((depth - 2) // 6):
            stride = 2 if filters > 16 and block == 0 else 1
            inner = layers.ReLU()(_conv_norm(x, filters, 3, stride))
            inner = _conv_norm(inner, filters, 3, 1)
            if stride > 1 or x.shape[-1] != filters:
                x = _conv_norm(x, filters, 1, stride)
            x = layers.ReLU()(layers.Add()([x, inner]))
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def densenet(x: Any, classes: int, depth: int = 40, growth: int = 12) -> Any:
    """The CIFAR DenseNet of ``depth = 3 n + 4`` layers without bottlenecks.

    Reference: Huang et al., 2017, https://arxiv.org/abs/1608.06993, table 2 (k = 12)
    """
    if depth < 7 or (depth - 4) % 3:
        raise ValueError(f"`depth` must be 3 n + 4. Received: depth={depth}.")
    x = _conv(x, 16, 3, 1)
    for block in range(3):
        if block:
            x = _conv(_norm_relu(x), x.shape[-1], 1, 1)
            x = layers.AveragePooling2D(2)(x)
        for _ in range((depth - 4) // 3):
            more = _conv(_norm_relu(x), growth, 3, 1)
            x = layers.Concatenate()([x, more])
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(_norm_relu(x)))


def vit(x: Any, classes: int, depth: int, heads: int, patch: int) -> Any:
    """A vision transformer, with 16 numbers of a token for each head.

    Patches with learned positions; blocks of attention and of a GELU layer, which normalise before;
    the scores are a linear function of all tokens.

    Reference: Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929
    """
    width = 16 * heads
    x = layers.Conv2D(width, patch, patch)(x)
    x = layers.Reshape((-1, width))(x)
    # Positions: the kernel of a layer that reads constants, as Keras has no layer of them alone.
    places = ops.ones_like(x[:, :, :1]) * np.eye(x.shape[1], dtype="float32")
    x = layers.Add()([x, layers.Dense(width, use_bias=False)(places)])
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    return layers.Dense(classes)(layers.Flatten()(x))


def _conv(x: Any, filters: int, kernel: int, stride: int) -> Any:
    return layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(),
    )(x)


def _conv_norm(x: Any, filters: int, kernel: int, stride: int) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(_conv(x, filters, kernel, stride))


def _norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
