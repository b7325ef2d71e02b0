"""Checks that inputs and labels fit a model and each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.types import Tensor

__all__ = [
    "as_labels",
    "check_finite",
    "check_inputs",
    "check_labels",
    "check_not_empty",
    "check_real",
    "integer_labels",
]


def check_inputs(x: Any, expected: tuple[int | None, ...], model: str) -> None:
    """Raises unless x holds inputs of a model.

    Args:
        x: An array or a tensor, ``(batch, *expected)`` with a batch of at least one.
        expected: The shape of one input; None where any size fits.
        model: The model's name.
    """
    shape = tuple(x.shape)
    fits = len(shape) == len(expected) + 1 and all(
        wanted in (None, size) for wanted, size in zip(expected, shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"`x` must have the shape (batch, {', '.join(map(str, expected))}) that model "
            f"{model!r} takes. Received: x of shape {shape}.{_batch_hint(shape, expected)}"
        )
    check_not_empty(x)


def _batch_hint(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    """What to do about one input without a batch axis."""
    alone = len(shape) == len(expected) and all(
        wanted in (None, size) for wanted, size in zip(expected, shape, strict=True)
    )
    return " This is one input: pass x[None]." if alone else ""


def check_not_empty(x: Any) -> None:
    """Raises unless there is at least one input in x."""
    if len(x.shape) == 0 or x.shape[0] == 0:
        raise ValueError(f"`x` is empty. Received: x of shape {tuple(x.shape)}.")


def check_real(x: np.ndarray) -> None:
    """Raises unless the type of x is one of real numbers."""
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise ValueError(f"`x` must hold real numbers. Received: x of type {x.dtype}.")


def check_finite(x: np.ndarray) -> None:
    """Raises unless all numbers in x are finite."""
    bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"`x` must be finite. Received: NaN or infinite values in input {np.argmax(bad)} and "
            f"{int(bad.sum()) - 1} others."
        )


def check_labels(y: Any, inputs: int | None, classes: int) -> None:
    """Raises unless y holds one integer label per input; values are checked where they are known.

    Args:
        y: An array or a tensor.
        inputs: The number of inputs; None where it is not known yet.
        classes: The number of the model's classes.
    """
    shape, kind = tuple(y.shape), str(getattr(y.dtype, "name", y.dtype))
    alone = len(shape) == 1 and (inputs is None or shape[0] in (None, inputs))
    if kind == "object" and shape == ():
        raise ValueError(
            f"`y` must be one-hot, or hold one integer label per input. Received: y={y.item()!r}."
        )
    if not alone or not kind.startswith(("int", "uint")):
        hint = " Labels 0.0, 1.0, ...: pass y.astype('int32')." if alone else ""
        raise ValueError(
            f"`y` must be one-hot, or hold one integer label per input, shape ({inputs},). "
            f"Received: y of shape {shape} and type {kind}.{hint}"
        )
    if backend.is_symbolic(y):
        return
    values = ops.convert_to_numpy(y)
    if values.size and (values.min() < 0 or values.max() >= classes):
        raise ValueError(
            f"`y` must lie in [0, {classes}), the model's classes. "
            f"Received: labels from {values.min()} to {values.max()}."
        )


def integer_labels(y: Any, classes: int) -> Any:
    """Labels ``(batch,)`` from one-hot rows, or from a column of labels; others as they are."""
    shape = tuple(y.shape)
    if len(shape) == 2 and shape[1] == 1:
        return y[:, 0]
    if len(shape) != 2 or shape[1] != classes:
        return y
    if not backend.is_symbolic(y):
        rows = ops.convert_to_numpy(y)
        bad = ((rows != 0) & (rows != 1)).any(axis=1) | (rows.sum(axis=1) != 1)
        if bad.any():
            raise ValueError(
                "`y` must be one-hot if it has one column for each class: a single 1 and zeros "
                f"in each row. Received: y with the row {rows[np.argmax(bad)].tolist()}."
            )
    return y.argmax(axis=-1) if isinstance(y, np.ndarray) else ops.argmax(y, axis=-1)


def as_labels(y: Any, inputs: int | None, classes: int) -> Tensor:
    """Labels as an int32 tensor, after `integer_labels` and `check_labels`."""
    y = integer_labels(ops.convert_to_tensor(y), classes)
    check_labels(y, inputs, classes)
    return ops.cast(y, "int32")
