"""Reads the data sets from the package, from npz files or through Keras's downloaders."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from tfcert import files
from tfcert.types import DatasetName

__all__ = ["NAMES", "load"]

Split = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CLASSES = 10


class _Spec(NamedTuple):
    """What the arrays of one data set must look like."""

    image_shape: tuple[int, int, int]
    brightest: int  # the integer that stands for 1.0


_SPECS: Mapping[str, _Spec] = {
    "digits": _Spec((8, 8, 1), 16),
    "mnist": _Spec((28, 28, 1), 255),
    "fashion_mnist": _Spec((28, 28, 1), 255),
    "cifar10": _Spec((32, 32, 3), 255),
}
NAMES: tuple[str, ...] = tuple(_SPECS)


def load(name: DatasetName, data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """The images and labels of a data set, pixels scaled to [0, 1].

    ``digits`` (8x8 pixels, 1,437 images for training and 360 for testing) is a part of the
    package. The others come from ``<data_dir>/<name>.npz``, or are downloaded and cached by
    ``keras.datasets`` where no `data_dir` is given.

    Args:
      name: "digits", "mnist", "fashion_mnist" or "cifar10".
      data_dir: folder of npz files with the arrays x_train, y_train, x_test and y_test; pixels
        either integers (0 to 255) or floats in [0, 1]. Not used for "digits".

    Returns:
      ``(x_train, y_train), (x_test, y_test)``: images as float32 of shape (n, height, width,
      channels), labels 0 to 9 as int64 of shape (n,).

    Raises:
      ValueError: the name is unknown, or the file holds something else than it should.
      FileNotFoundError: there is no such file in `data_dir`.
      ConnectionError: the download failed; the message says which file to put where.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = load("digits")
      >>> x_train.shape, x_test.shape
      ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    if name not in _SPECS:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}. Received: name={name!r}.")
    spec = _SPECS[name]
    if name == "digits":
        source = str(pathlib.Path(__file__).parent / "data" / "digits.npz")
        arrays = files.read_arrays(source, _KEYS)
    elif data_dir is not None:
        source = os.path.join(os.fspath(data_dir), f"{name}.npz")
        if not os.path.isfile(source):
            raise FileNotFoundError(
                f"`data_dir` must hold {name}.npz with the arrays {', '.join(_KEYS)}. "
                f"Received: data_dir={os.fspath(data_dir)!r}, where there is no such file."
            )
        arrays = files.read_arrays(source, _KEYS)
    else:
        source = f"keras.datasets.{name}"
        arrays = _download(name)
    train, test = (
        (
            _images(arrays[f"x_{split}"], spec, f"x_{split} of {source}"),
            _labels(arrays[f"y_{split}"], f"y_{split} of {source}"),
        )
        for split in ("train", "test")
    )
    for split, (x, y) in (("train", train), ("test", test)):
        if len(x) != len(y):
            raise ValueError(
                f"x_{split} and y_{split} of {source} must have the same length. "
                f"Received: {len(x)} images and {len(y)} labels."
            )
    return train, test


def _download(name: str) -> dict[str, np.ndarray]:
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    # keras.utils.get_file raises a bare Exception where the server cannot be reached.
    except Exception as error:
        raise ConnectionError(
            f"{name} could not be downloaded ({error}). Without a network, put a file "
            f"{name}.npz with the arrays {', '.join(_KEYS)} into a folder and call "
            f"load({name!r}, data_dir=<that folder>); the data set 'digits' needs no download."
        ) from error
    return dict(zip(_KEYS, (x_train, y_train, x_test, y_test), strict=True))


def _images(x: np.ndarray, spec: _Spec, what: str) -> npt.NDArray[np.float32]:
    shape = spec.image_shape
    if x.shape[1:] != shape and (*x.shape[1:], 1) != shape:
        raise ValueError(f"{what} must have the shape (n, *{shape}). Received: shape={x.shape}.")
    integers = np.issubdtype(x.dtype, np.integer)
    if not integers and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{what} must hold integers or floats. Received: dtype={x.dtype}.")
    if not len(x):
        raise ValueError(f"{what} is empty. Received: shape={x.shape}.")
    if integers and x.max() == 1:
        raise ValueError(
            f"{what} must hold pixels from 0 to {spec.brightest} where they are integers. "
            f"Received: none above 1 ({x.dtype}). Save images that are scaled already as floats."
        )
    high = spec.brightest if integers else 1
    # Written so that NaN fails too.
    if x.size and not (x.min() >= 0 and x.max() <= high):
        raise ValueError(
            f"{what} must lie in [0, {high}] ({x.dtype}). Received: {x.min()} to {x.max()}."
        )
    scaled = x.astype(np.float32).reshape(len(x), *shape)
    return scaled / np.float32(spec.brightest) if integers else scaled


def _labels(y: np.ndarray, what: str) -> npt.NDArray[np.int64]:
    # Keras gives the CIFAR-10 labels as a column.
    if y.shape not in ((y.size,), (y.size, 1)) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{what} must be integers of the shape (n,) or (n, 1). "
            f"Received: shape={y.shape}, dtype={y.dtype}."
        )
    if y.size and not (y.min() >= 0 and y.max() < _CLASSES):
        raise ValueError(
            f"{what} must lie in 0 to {_CLASSES - 1}. Received: {y.min()} to {y.max()}."
        )
    return y.astype(np.int64).reshape(-1)
