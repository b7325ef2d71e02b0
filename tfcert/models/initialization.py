"""Initial weights under which intervals neither grow nor vanish."""

from __future__ import annotations

import math

import keras
import numpy as np

from tfcert import graph
from tfcert.network import network_of
from tfcert.rules.linear import Kernel, Matrix

__all__ = ["ibp_initialization", "kernels"]


def ibp_initialization(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws new kernels for dense and convolutional layers, for training with intervals.

    Entries are normal with mean 0 and standard deviation ``sqrt(2 pi) / n``, where n is the fan-in.
    So after a ReLU the expected width of an interval stays the same from layer to layer; usual
    initialisations let the width grow with ``sqrt(n)``. Biases and other weights stay. Use this
    function together with the regulariser of ``tfcert.objectives.IBP``, and with batch
    normalisation.

    Args:
        model: A built model; its weights are replaced.
        seed: The seed of the weights.

    Returns:
        The model.

    Reference: Shi et al., 2021, https://arxiv.org/abs/2103.17268, section 3.2.
    """
    generator = np.random.default_rng(seed)
    for layer, variable in kernels(model):
        fan_in = _fan_in(layer, variable.shape)
        values = generator.normal(scale=math.sqrt(2 * math.pi) / fan_in, size=variable.shape)
        variable.assign(values)
    return model


def kernels(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.Variable]]:
    """The weights of dense and convolutional layers, without biases; a ValueError without any."""
    nodes = network_of(model).nodes
    names = {node.name for node in nodes if isinstance(node.primitive, Kernel | Matrix)}
    found = [
        (layer, variable)
        for layer in graph.layers_of(model)
        if layer.name in names and not isinstance(layer, keras.Model)
        for variable in layer.weights
        if len(variable.shape) >= 2
    ]
    if not found:
        raise ValueError(
            f"`model` has no dense or convolutional layers. Received: model={model.name!r}."
        )
    return found


def _fan_in(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """How many entries of the input one output entry reads."""
    if "Depthwise" in type(layer).__name__:
        return math.prod(shape[:-2])  # (*window, channels, multiplier)
    if "Transpose" in type(layer).__name__:
        return math.prod(shape[:-2]) * shape[-1]  # (*window, out, in)
    return math.prod(shape[:-1])
