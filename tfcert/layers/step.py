"""The step function, of which derivatives of ReLU networks are made."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = ["Step"]


@keras.saving.register_keras_serializable(package="tfcert")
class Step(keras.layers.Layer):
    """Returns 1 above 0, and 0 elsewhere: the derivative of a ReLU.

    Args:
        **kwargs: Arguments of ``keras.layers.Layer``.

    Example:

    >>> np.asarray(tfcert.layers.Step()(np.array([[-1.0, 0.0, 2.0]]))).tolist()
    [[0.0, 0.0, 1.0]]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        """The step of every entry."""
        return ops.cast(inputs > 0, inputs.dtype)
