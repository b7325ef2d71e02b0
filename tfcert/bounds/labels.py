"""Labels as bounds take them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.types import Tensor

__all__ = ["checked_labels"]


def checked_labels(y: Any, batch: int | None, classes: int) -> Tensor:
    """Integer labels, one for each input; values are checked where they are known."""
    y = ops.convert_to_tensor(y)
    if len(y.shape) != 1 or None not in (batch, y.shape[0]) and y.shape[0] != batch:
        raise ValueError(
            f"`y` must hold one integer label per input, shape ({batch},). Received: y of shape "
            f"{tuple(y.shape)}. One-hot labels: pass y.argmax(-1)."
        )
    if not keras.backend.is_int_dtype(y.dtype):
        kind = keras.backend.standardize_dtype(y.dtype)
        raise ValueError(f"`y` must be integer class indices. Received: dtype={kind}.")
    if not backend.is_symbolic(y):
        values = ops.convert_to_numpy(y)
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"`y` must lie in [0, {classes}), the model's classes. "
                f"Received: labels from {values.min()} to {values.max()}."
            )
    return ops.cast(y, "int32")
