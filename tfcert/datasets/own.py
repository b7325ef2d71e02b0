"""Data sets of the user: an npz file, a folder of images, or one of TensorFlow Datasets."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from tfcert import files
from tfcert.datasets import arrays

__all__ = ["read_file", "read_folder", "read_tfds"]

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
# Of a folder that is not split, every fifth image of a class is for testing.
_TEST_EVERY = 5


def read_file(path: pathlib.Path) -> tuple[arrays.Split, arrays.Split]:
    """The arrays x_train, y_train, x_test and y_test of an npz file."""
    return arrays.splits(files.read_arrays(path, arrays.KEYS), str(path))


def read_tfds(name: str, data_dir: str | None) -> tuple[arrays.Split, arrays.Split]:
    """The splits "train" and "test" of a data set of the package tensorflow-datasets."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data set tfds:{name} needs the package tensorflow-datasets: "
            "pip install tensorflow-datasets"
        ) from error
    try:
        parts = tfds.load(
            name, split=["train", "test"], data_dir=data_dir, batch_size=-1, as_supervised=True
        )
    except ValueError as error:  # The other lines list a thousand names.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"tfds:{name} must be a classification data set of tensorflow-datasets with the splits "
            f"train and test. Received: {reason}"
        ) from error
    train, test = tfds.as_numpy(parts)
    found = dict(zip(arrays.KEYS, (*train, *test), strict=True))
    return arrays.splits(found, f"tfds:{name}")


def read_folder(path: pathlib.Path) -> tuple[arrays.Split, arrays.Split]:
    """Images in one folder per class, below train/ and test/ or directly in the folder.

    Labels count the class folders in the order of their names.
    """
    first, second = path / "train", path / "test"
    if first.is_dir() != second.is_dir():
        raise ValueError(f"{path} must hold train/ and test/, or one folder per class.")
    if first.is_dir():
        classes = _classes(first)
        if unknown := sorted(set(_classes(second)) - set(classes)):
            raise ValueError(f"{second} must hold classes of train/. Received: {unknown}.")
        train, test = ([_files(half / name) for name in classes] for half in (first, second))
    else:
        found = [_files(path / name) for name in _classes(path)]
        train = [[file for i, file in enumerate(part) if (i + 1) % _TEST_EVERY] for part in found]
        test = [part[_TEST_EVERY - 1 :: _TEST_EVERY] for part in found]
    (x_train, y_train), (x_test, y_test) = _read(train, path), _read(test, path)
    found_arrays = dict(zip(arrays.KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return arrays.splits(found_arrays, str(path))


def _classes(path: pathlib.Path) -> list[str]:
    """The names of the class folders, in their order."""
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if len(names) < 2:
        raise ValueError(f"{path} must hold one folder of images per class. Received: {names}.")
    return names


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """The images of one class, in the order of their names."""
    if not path.is_dir():  # A class without test images.
        return []
    found = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in found:
        if entry.suffix.lower() not in _ENDINGS:
            raise ValueError(f"{entry} is no image. Images end in {', '.join(_ENDINGS)}.")
    return found


def _read(classes: list[list[pathlib.Path]], path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """All images, and the numbers of their classes."""
    names = [name for part in classes for name in part]
    if not names:
        raise ValueError(
            f"{path} must hold training and test images. Received: a part with no image. Without "
            f"train/ and test/, a class needs {_TEST_EVERY} images to have one for testing."
        )
    x = [_pixels(name) for name in names]
    for name, image in zip(names, x, strict=True):
        if image.shape != x[0].shape:
            raise ValueError(
                f"Images must have one size and kind. Received: {names[0]} of shape {x[0].shape} "
                f"and {name} of shape {image.shape}."
            )
    labels = [label for label, part in enumerate(classes) for _ in part]
    return np.stack(x), np.array(labels)


def _pixels(path: pathlib.Path) -> np.ndarray:
    """One image as bytes, (height, width, 1) for grey and (height, width, 3) for colours."""
    try:
        with Image.open(path) as image:
            kind = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}.get(image.mode)
            if kind is None:
                raise ValueError(
                    f"{path} must be an image of 8 bits, grey or in colours, without transparency. "
                    f"Received: an image of the mode {image.mode}."
                )
            pixels = np.asarray(image.convert(kind))
    except OSError as error:  # Cut short, or no image.
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    return pixels.reshape(*pixels.shape[:2], -1)
