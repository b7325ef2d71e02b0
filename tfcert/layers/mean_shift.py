"""Subtraction of a running mean."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = ["MeanShift"]


@keras.saving.register_keras_serializable(package="tfcert")
class MeanShift(keras.layers.Layer):
    """A layer that subtracts each feature's mean, ``x - mean(x)``, without scaling.

    Distances are never negative, and grow from layer to layer. This layer centres them at 0. During
    training the mean is the mean of the batch over all axes except the last, and gradients flow
    through the mean. At inference the layer subtracts the running mean, a constant. Under a
    strategy with several devices, each device uses the mean of its own part of the batch, as
    ``keras.layers.BatchNormalization`` does by default.

    Args:
        momentum: Share of the old running mean that a training step keeps, in [0, 1): ``running =
            momentum running + (1 - momentum) mean``. The default is the paper's (0.1, as PyTorch
            counts).
        **kwargs: Arguments of ``keras.layers.Layer``, such as ``name``.

    Example:

    >>> import numpy as np
    >>> layer = tfcert.layers.MeanShift()
    >>> y = layer(np.array([[1.0, 5.0], [3.0, 7.0]], "float32"), training=True)
    >>> np.asarray(y).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> [round(float(mean), 3) for mean in np.asarray(layer.moving_mean)]
    [0.2, 0.6]

    Reference: Zhang et al., 2021, https://arxiv.org/abs/2102.05363, section 5.1
    """

    def __init__(self, momentum: float = 0.9, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        self.momentum = float(momentum)
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                "MeanShift needs inputs of shape (batch, ..., features) with a known last size. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        self.moving_mean = self.add_weight(
            name="moving_mean",
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not training:
            return inputs - ops.cast(self.moving_mean, inputs.dtype)
        mean = ops.mean(inputs, axis=tuple(range(len(inputs.shape) - 1)))
        kept = self.momentum * ops.convert_to_tensor(self.moving_mean)
        new = ops.cast(mean, self.moving_mean.dtype)
        self.moving_mean.assign(ops.stop_gradient(kept + (1.0 - self.momentum) * new))
        return inputs - mean

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}
