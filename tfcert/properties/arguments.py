"""Reads and checks what users give to properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.types import ArrayLike

__all__ = ["broadcast", "classes", "numbers", "plain", "restored", "shown", "spread"]

Array = npt.NDArray[np.float64]


def classes(name: str, value: ArrayLike) -> npt.NDArray[np.int64]:
    """Classes: one, or one an input."""
    found = np.asarray(ops.convert_to_numpy(value) if ops.is_tensor(value) else value)
    if found.dtype.kind not in "iu" or found.ndim > 1 or not found.size or (found < 0).any():
        raise ValueError(
            f"`{name}` must be an integer >= 0, or one for each input. "
            f"Received: {name}={shown(found)}."
        )
    return found.astype(np.int64)


def numbers(name: str, value: ArrayLike | None) -> Array | None:
    """Numbers, of which none is NaN; None stays None."""
    if value is None:
        return None
    found = np.asarray(ops.convert_to_numpy(value) if ops.is_tensor(value) else value)
    if found.dtype.kind not in "fiu" or not found.size or np.isnan(found).any():
        raise ValueError(f"`{name}` must hold numbers. Received: {name}={shown(found)}.")
    return found.astype(np.float64)


def broadcast(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    """Numbers for each output, or for each output of each input."""
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(
            f"`{name}` must broadcast against outputs of shape {shape}. "
            f"Received: {name} of shape {value.shape}."
        ) from None


def spread(
    name: str, value: npt.NDArray[np.int64], inputs: int, outputs: int
) -> npt.NDArray[np.int64]:
    """One class an input."""
    if value.max() >= outputs:
        raise ValueError(
            f"`{name}` must lie in [0, {outputs}), the model's outputs. "
            f"Received: classes up to {value.max()}."
        )
    return np.broadcast_to(value, (inputs,))


def shown(value: Any) -> str:
    """A value as Python reads it, if it is short."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    return repr(value.tolist()) if value.size <= 12 else f"<array of shape {value.shape}>"


def plain(value: Any) -> Any:
    """A value for a configuration: JSON knows no infinity, which is written as a text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and np.isinf(value) else value


def restored(value: Any) -> Any:
    """What ``plain`` was given."""
    if isinstance(value, list):
        return [restored(entry) for entry in value]
    return float(value) if value in ("inf", "-inf") else value
