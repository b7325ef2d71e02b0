"""Random small networks, inputs and regions, drawn from a NumPy generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import tfcert
from tests import rule_cases
from tfcert import layers as linf

__all__ = ["random_inputs", "random_model", "random_region"]

_ACTIVATIONS = [
    "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "hard_silu", "mish", "sigmoid",
    "hard_sigmoid", "tanh", "hard_tanh", "softplus", "softsign", "soft_shrink", "log_sigmoid",
]  # fmt: skip
# What a map may have at most: every step costs time.
_ENTRIES = 48


def _activation(rng: np.random.Generator, x: Any) -> Any:
    kind = int(rng.integers(4))
    if kind == 0:
        return layers.ReLU()(x)
    if kind == 1:
        return layers.LeakyReLU(float(rng.uniform(0.0, 1.5)))(x)
    if kind == 2:
        spatial = range(1, len(x.shape) - 1)
        return layers.PReLU(shared_axes=[a for a in spatial if rng.integers(2)] or None)(x)
    return layers.Activation(str(rng.choice(_ACTIVATIONS)))(x)


def _any_rank(rng: np.random.Generator, x: Any) -> Any:
    """A layer or operator for values of any shape."""
    steps: list[Callable[[], Any]] = [
        lambda: _activation(rng, x),
        lambda: _activation(rng, x),
        lambda: layers.BatchNormalization()(x),
        lambda: layers.Rescaling(float(rng.normal()), float(rng.normal()))(x),
        lambda: 1.0 - 0.5 * x,
        lambda: ops.abs(x),
        lambda: ops.clip(x, -0.5, 1.0),
        lambda: ops.maximum(x, 0.25 * x + 0.1),
        lambda: layers.Minimum()([x, layers.Dense(x.shape[-1])(x)]),
        lambda: layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(x)]),
        lambda: layers.Dropout(0.5)(x),
        lambda: linf.MeanShift()(x),
    ]
    return steps[int(rng.integers(len(steps)))]()


def _on_vector(rng: np.random.Generator, x: Any) -> Any:
    size = x.shape[-1]
    width = int(rng.integers(2, 7))
    steps: list[Callable[[], Any]] = [
        lambda: layers.Dense(width)(x),
        lambda: layers.Dense(width, activation=str(rng.choice(_ACTIVATIONS)))(x),
        lambda: x + layers.Dense(size)(_activation(rng, layers.Dense(width)(x))),
        lambda: layers.Concatenate()([x, layers.Dense(2)(x)]),
        lambda: layers.Average()([x, layers.Dense(size)(x)]),
        lambda: x[:, ::-1],
        lambda: layers.Softmax()(x),
        lambda: layers.LayerNormalization(epsilon=0.05)(x),
        lambda: layers.RepeatVector(2)(x),
        lambda: ops.square(x),
        lambda: linf.LInfDistance(width, p=_exponent(rng), use_bias=bool(rng.integers(2)))(x),
    ]
    return steps[int(rng.integers(len(steps)))]()


def _on_map(rng: np.random.Generator, x: Any) -> Any:
    rank = len(x.shape) - 2
    channels = x.shape[-1]

    def name(base: str) -> Any:
        return getattr(layers, f"{base}{rank}D")

    def size(most: int = 3) -> tuple[int, ...]:
        return tuple(int(rng.integers(1, min(most, n) + 1)) for n in x.shape[1:-1])

    padding = str(rng.choice(["valid", "same"]))
    filters = int(rng.integers(1, 4))

    def convolution(value: Any, filters: int, **options: Any) -> Any:
        return name("Conv")(filters, size(), **options)(value)

    steps: list[Callable[[], Any]] = [
        lambda: convolution(x, filters, padding=padding, strides=size(2)),
        lambda: convolution(x, filters, padding=padding, activation="relu"),
        lambda: convolution(x, filters, padding="same", dilation_rate=2),
        lambda: x + convolution(_activation(rng, x), channels, padding="same"),
        lambda: layers.GroupNormalization(-1, epsilon=0.05)(x),
        lambda: layers.Concatenate()([x, convolution(x, 1, padding="same")]),
        lambda: layers.Multiply()([x, layers.Reshape((1,) * rank + (channels,))(_gate(rng, x))]),
        lambda: name("SeparableConv")(filters, size(), padding=padding)(x),
        lambda: name("DepthwiseConv")(size(), padding=padding)(x),
        lambda: name("MaxPooling")(size(), strides=size(2), padding=padding)(x),
        lambda: name("MaxPooling")(size(), strides=1, padding="same")(x),
        lambda: name("AveragePooling")(size(), strides=size(2), padding=padding)(x),
        lambda: getattr(layers, f"Conv{rank}DTranspose")(filters, size(2), strides=size(2))(x),
        lambda: name("ZeroPadding")(1)(x),
        lambda: name("UpSampling")(2)(x),
        lambda: name(str(rng.choice(["GlobalAveragePooling", "GlobalMaxPooling"])))()(x),
        lambda: layers.Flatten()(x),
    ]
    if rank == 1:
        steps += [
            lambda: x + layers.MultiHeadAttention(1, 2)(x, x, use_causal_mask=_coin(rng)),
            lambda: layers.Attention()([x, layers.Dense(channels)(x)]),
            lambda: ops.matmul(ops.einsum("bij,bkj->bik", x, layers.Dense(channels)(x)), x),
        ]
    if rank == 2:
        steps.append(
            lambda: linf.LInfDistanceConv2D(
                filters, size(), strides=size(2), padding=padding, p=_exponent(rng)
            )(x)
        )
    return steps[int(rng.integers(len(steps)))]()


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _exponent(rng: np.random.Generator) -> float:
    """Of a distance."""
    return float(rng.choice([math.inf, math.inf, 1.0, 2.0, 6.5, 300.0]))


def _gate(rng: np.random.Generator, x: Any) -> Any:
    return layers.Dense(x.shape[-1], activation="sigmoid")(layers.Flatten()(x))


def random_model(rng: np.random.Generator, dtype: str, classes: int | None = 3) -> keras.Model:
    """A network of 3 to 7 random steps with random weights.

    Args:
        rng: Where all choices come from.
        dtype: The type of the model.
        classes: Size of the last dense layer; None leaves the output as it comes.
    """
    shapes = [(3,), (5,), (8,), (5, 2), (6, 1), (3, 3, 1), (4, 3, 1), (2, 3, 2)]
    with rule_cases.dtype_of_new_layers(dtype):
        entry = x = keras.Input(shapes[int(rng.integers(len(shapes)))])
        for _ in range(int(rng.integers(3, 8))):
            by_rank = _on_vector if len(x.shape) == 2 else _on_map
            step = by_rank if rng.uniform() < 0.6 else _any_rank
            grown = step(rng, x)
            if 0 < math.prod(grown.shape[1:]) <= _ENTRIES:
                x = grown
        if classes is not None:
            x = layers.Flatten()(x) if len(x.shape) > 2 else x
            x = layers.Dense(classes)(x)
        model = keras.Model(entry, x)
    seed, scale = int(rng.integers(2**31)), float(10 ** rng.uniform(-0.5, 0.5))
    return rule_cases.randomise(model, seed, scale)


def random_inputs(rng: np.random.Generator, model: keras.Model, batch: int = 2) -> np.ndarray:
    """Inputs of size 1 around 0."""
    shape = (batch, *model.input_shape[1:])
    return rng.uniform(-1.0, 1.0, size=shape).astype(model.inputs[0].dtype)


def random_region(rng: np.random.Generator, x: np.ndarray, radius: float) -> Any:
    """A ball of any norm, with or without a clip range, or a box, that holds x."""
    kind = int(rng.integers(7))
    if kind == 0:
        return tfcert.LpBall(min(radius, 2.0), clip=(-1.0, 1.0))
    if kind == 1:
        return tfcert.LpBall(radius * rng.uniform(0.0, 1.0, size=x.shape[1:]))
    if kind == 2:
        low = x - radius * rng.uniform(0.0, 1.0, size=x.shape)
        return tfcert.Box(np.minimum(low, x), x + radius * rng.uniform(0.0, 1.0, size=x.shape))
    if kind == 3:
        return tfcert.LpBall(radius)
    return tfcert.LpBall(radius, norm=(1, 2, 3.5)[kind - 4])
