"""Checks and scales the arrays of a data set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["KEYS", "Split", "images", "labels", "splits"]

Split = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

KEYS = ("x_train", "y_train", "x_test", "y_test")


def splits(
    arrays: dict[str, np.ndarray],
    source: str,
    shape: tuple[int, ...] | None = None,
    brightest: int = 255,
    classes: int | None = None,
) -> tuple[Split, Split]:
    """The training and the test part of the arrays in ``KEYS``, checked and scaled.

    Args:
        arrays: The arrays by their keys.
        source: Where they are from, for messages.
        shape: The shape of one image; None for any.
        brightest: The integer that becomes 1.0.
        classes: The number of classes; None for any.
    """
    train, test = (
        (
            images(arrays[f"x_{split}"], f"x_{split} of {source}", shape, brightest),
            labels(arrays[f"y_{split}"], f"y_{split} of {source}", classes),
        )
        for split in ("train", "test")
    )
    for split, (x, y) in (("train", train), ("test", test)):
        if len(x) != len(y):
            raise ValueError(
                f"x_{split} and y_{split} of {source} must have the same length. "
                f"Received: {len(x)} images and {len(y)} labels."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"x_train and x_test of {source} must hold inputs of one shape. "
            f"Received: {train[0].shape[1:]} and {test[0].shape[1:]}."
        )
    return train, test


def images(
    x: np.ndarray, what: str, shape: tuple[int, ...] | None, brightest: int
) -> npt.NDArray[np.float32]:
    """Pixels as float32 in [0, 1], with the channels last."""
    if shape is None:
        if x.ndim < 2:
            raise ValueError(f"{what} must hold one input per row. Received: shape={x.shape}.")
        # Three axes are images without channels; two are rows of numbers.
        shape = (*x.shape[1:], 1) if x.ndim == 3 else x.shape[1:]
    if x.shape[1:] != shape and (*x.shape[1:], 1) != shape:
        raise ValueError(f"{what} must have the shape (n, *{shape}). Received: shape={x.shape}.")
    integers = np.issubdtype(x.dtype, np.integer)
    if not integers and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{what} must hold integers or floats. Received: dtype={x.dtype}.")
    if not len(x):
        raise ValueError(f"{what} is empty. Received: shape={x.shape}.")
    if integers and x.max() == 1:
        raise ValueError(
            f"{what} must hold integer pixels from 0 to {brightest}. Received: none above 1 "
            f"({x.dtype}). Save scaled images as floats."
        )
    high = brightest if integers else 1
    # Written so that NaN fails too.
    if x.size and not (x.min() >= 0 and x.max() <= high):
        raise ValueError(
            f"{what} must lie in [0, {high}] ({x.dtype}). Received: {x.min()} to {x.max()}."
        )
    scaled = x.astype(np.float32).reshape(len(x), *shape)
    return scaled / np.float32(brightest) if integers else scaled


def labels(y: np.ndarray, what: str, classes: int | None) -> npt.NDArray[np.int64]:
    """Labels as int64, one per image."""
    # Keras gives the CIFAR-10 labels as a column.
    if y.shape not in ((y.size,), (y.size, 1)) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{what} must be integers of the shape (n,) or (n, 1). "
            f"Received: shape={y.shape}, dtype={y.dtype}."
        )
    if y.size and not (y.min() >= 0 and (classes is None or y.max() < classes)):
        wanted = "be at least 0" if classes is None else f"lie in 0 to {classes - 1}"
        raise ValueError(f"{what} must {wanted}. Received: {y.min()} to {y.max()}.")
    return y.astype(np.int64).reshape(-1)
