"""Reads the data sets from the package, from files, or through Keras's downloaders."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from tfcert import files
from tfcert.datasets import arrays, own
from tfcert.types import DatasetName, PathLike

__all__ = ["NAMES", "load"]

_CLASSES = 10
_TFDS = "tfds:"


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


def load(
    name: DatasetName | PathLike, data_dir: PathLike | None = None
) -> tuple[arrays.Split, arrays.Split]:
    """Loads the images and labels of a data set, with pixels scaled to [0, 1].

    ``digits`` (8x8 pixels, 1,437 images for training and 360 for testing) is part of the package.
    Other names are read from ``<data_dir>/<name>.npz``. Without a `data_dir`, ``keras.datasets``
    downloads and caches them.

    Args:
      name: "digits", "mnist", "fashion_mnist" or "cifar10"; or data of your own: the path of an
        npz file, the path of a folder with one folder of images per class (below train/ and test/,
        or not split), or "tfds:<name>" for a data set of tensorflow-datasets.
      data_dir: folder of npz files with the arrays x_train, y_train, x_test and y_test; pixels
        either integers (0 to 255) or floats in [0, 1]. Not used for "digits", files and folders.

    Returns:
      ``(x_train, y_train), (x_test, y_test)``: images as float32 of shape (n, height, width,
      channels), labels from 0 on as int64 of shape (n,).

    Raises:
      ValueError: the name is unknown, or the file does not contain the expected arrays.
      FileNotFoundError: `data_dir` does not contain the file.
      ConnectionError: the download failed. The message says which file to put into which folder.
      ImportError: tensorflow-datasets is not installed.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = load("digits")
      >>> x_train.shape, x_test.shape
      ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    if name not in _SPECS:
        return _own(name, data_dir)
    name = str(name)
    spec = _SPECS[name]
    if name == "digits":
        source = str(pathlib.Path(__file__).parent / "data" / "digits.npz")
        found = files.read_arrays(source, arrays.KEYS)
    elif data_dir is not None:
        source = os.path.join(os.fspath(data_dir), f"{name}.npz")
        if not os.path.isfile(source):
            raise FileNotFoundError(
                f"`data_dir` must hold {name}.npz with the arrays {', '.join(arrays.KEYS)}. "
                f"Received: data_dir={os.fspath(data_dir)!r}, where there is no such file."
            )
        found = files.read_arrays(source, arrays.KEYS)
    else:
        source = f"keras.datasets.{name}"
        found = _download(name)
    return arrays.splits(found, source, spec.image_shape, spec.brightest, _CLASSES)


def _own(name: PathLike, data_dir: PathLike | None) -> tuple[arrays.Split, arrays.Split]:
    """A data set that is no part of tfcert."""
    if isinstance(name, str) and name.startswith(_TFDS):
        folder = None if data_dir is None else os.fspath(data_dir)
        return own.read_tfds(name.removeprefix(_TFDS), folder)
    if isinstance(name, (str, os.PathLike)) and os.fspath(name):
        path = pathlib.Path(name)
        if path.is_dir():
            return own.read_folder(path)
        if path.is_file():
            return own.read_file(path)
    raise ValueError(
        f"`name` must be one of {', '.join(NAMES)}, the path of an npz file or of a folder of "
        f"images, or tfds:<name>. Received: name={name!r}."
    )


def _download(name: str) -> dict[str, np.ndarray]:
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    # keras.utils.get_file raises a bare Exception where the server cannot be reached.
    except Exception as error:
        raise ConnectionError(
            f"{name} could not be downloaded ({error}). Without a network, put a file "
            f"{name}.npz with the arrays {', '.join(arrays.KEYS)} into a folder and call "
            f"load({name!r}, data_dir=<that folder>); the data set 'digits' needs no download."
        ) from error
    return dict(zip(arrays.KEYS, (x_train, y_train, x_test, y_test), strict=True))
