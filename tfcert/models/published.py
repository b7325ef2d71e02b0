"""Trained networks that are published beside the package, each with its checksum."""

from __future__ import annotations

import hashlib
import os
import pathlib

import keras

from tfcert import files
from tfcert.types import PathLike

__all__ = ["pretrained"]

_VARIABLE = "TFCERT_PRETRAINED"
_INDEX = "index.json"


def pretrained(name: str, folder: PathLike | None = None) -> keras.Model:
    """Loads a trained and certified network, after a check of its file's SHA-256.

    The folder ``pretrained`` of a checkout holds the files. An installed wheel has no such folder:
    copy the folder from a checkout, and pass its path. The file ``<name>.json`` beside a network
    describes the training, the errors and the certificates of that network.

    Args:
        name: The name of the network, such as "mnist_0.3": the data set and the certified radius.
        folder: The folder with the files. Default: the environment variable TFCERT_PRETRAINED, or
            else the folder of the checkout.

    Returns:
        The model, which takes pixels in [0, 1] and ends in logits.

    Raises:
        FileNotFoundError: The folder is not there. The message says where to get it.
        ValueError: The folder holds no network of this name, or the file has another checksum.

    Example:

    >>> model = tfcert.models.pretrained("mnist_0.3")
    >>> model.output_shape
    (None, 10)
    """
    place = _place(folder)
    checksums = files.read_json(place / _INDEX)
    if name not in checksums:
        raise ValueError(
            f"`name` must be one of {', '.join(sorted(checksums))}, the networks in {place}. "
            f"Received: name={name!r}."
        )
    path = place / f"{name}.keras"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != checksums[name]:
        raise ValueError(
            f"{path} must have the SHA-256 {checksums[name]} of {_INDEX}: the file was changed, or "
            f"copied in part. Copy the folder again. Received: a file with the SHA-256 {found}."
        )
    return files.load_model(path)


def _place(folder: PathLike | None) -> pathlib.Path:
    """The folder with the networks."""
    beside = pathlib.Path(__file__).parents[2] / "pretrained"
    place = pathlib.Path(folder or os.environ.get(_VARIABLE) or beside)
    if not (place / _INDEX).is_file():
        raise FileNotFoundError(
            f"`folder` must hold the published networks and {_INDEX}. An installed tfcert has no "
            "networks: copy the folder `pretrained` of a checkout, then pass its path as `folder` "
            f"or set the environment variable {_VARIABLE}. Received: folder={str(place)!r}."
        )
    return place
