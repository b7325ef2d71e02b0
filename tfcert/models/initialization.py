"""Initial weights under which intervals neither grow nor vanish."""

from __future__ import annotations

import math

import keras
import numpy as np

from tfcert import graph
from tfcert.network import network_of
from tfcert.rules.linear import Kernel, Matrix

__all__ = ["ibp_initialization"]


def ibp_initialization(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws the kernels of dense and convolutional layers anew, for interval training.

    Entries are normal with mean 0 and standard deviation ``sqrt(2 pi) / n``, n the fan-in, so that
    behind a ReLU the expected width of an interval stays the same from layer to layer; usual
    initialisations let it grow with ``sqrt(n)``. Biases and other weights stay. It goes with the
    regulariser of ``tfcert.objectives.IBP``, and with batch normalisation.

    Args:
        model: A built model; its weights are replaced.
        seed: Decides the weights.

    Returns:
        The model.

    Reference: Shi et al., 2021, https://arxiv.org/abs/2103.17268, section 3.2.
    """
    generator, drawn = np.random.default_rng(seed), 0
    kernels = {
        node.name for node in network_of(model).nodes if isinstance(node.primitive, Kernel | Matrix)
    }
    for layer in graph.layers_of(model):
        if layer.name not in kernels or isinstance(layer, keras.Model):
            continue
        for variable in layer.weights:
            if len(variable.shape) < 2:
                continue
            fan_in = _fan_in(layer, variable.shape)
            values = generator.normal(scale=math.sqrt(2 * math.pi) / fan_in, size=variable.shape)
            variable.assign(values)
            drawn += 1
    if not drawn:
        raise ValueError(
            f"Model {model.name!r} has no dense or convolutional layers, whose kernels this "
            "initialisation draws."
        )
    return model


def _fan_in(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """How many entries of the input one output entry reads."""
    if "Depthwise" in type(layer).__name__:
        return math.prod(shape[:-2])  # (*window, channels, multiplier)
    if "Transpose" in type(layer).__name__:
        return math.prod(shape[:-2]) * shape[-1]  # (*window, out, in)
    return math.prod(shape[:-1])
