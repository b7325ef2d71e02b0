"""Files of the programs, written completely or not at all, with errors that name the file and the
cause."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcert.logs import writing

__all__ = ["check_writable", "load_model", "read_arrays", "read_json", "save", "write_json"]


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes the file as a whole or, after a kill or on a full disk, not at all."""
    writing.write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object that ``write_json`` has written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON object of this program. Received: {error}."
        ) from error
    return value


def save(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Writes a file as a whole or not at all.

    Args:
        path: The file.
        write: Writes it, given another name with the same ending.
    """
    part = path.with_name(f".part.{path.name}")
    try:
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # HDF5 has errors of its own.
        with contextlib.suppress(OSError):
            part.unlink()
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, f"could not be written ({error})", str(path)) from error


def read_arrays(path: str | os.PathLike[str], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz file.

    Raises:
        ValueError: The file is broken, holds other arrays, or objects that would have to be
            unpickled, which could run code.
        OSError: It cannot be read.
    """
    with open(path, "rb"):  # Errors that tell of the file itself.
        pass
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise ValueError(f"it holds {sorted(archive.files)} and lacks {missing}")
            return {key: archive[key] for key in keys}
    except (
        # What NumPy, zipfile and zlib raise where bytes are not what they should be.
        *(ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, RuntimeError),
        *(OverflowError, MemoryError, SyntaxError, struct.error, zlib.error),
        *(pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} must be an npz file with the arrays {', '.join(keys)}. Received: {reason}."
        ) from error


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model, and no code with it; of a saved trainer the model inside.

    Raises:
        ValueError: The file is no model, half of one, or brings code along.
        OSError: It cannot be read.
    """
    path = pathlib.Path(path)
    with open(path, "rb"):  # Keras would call an unreadable file a missing one.
        pass
    try:
        # safe_mode: code that a model file brings along, as in Lambda layers, is not loaded.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        inner = getattr(model, "model", None)
        trainer = hasattr(model, "objective") and isinstance(inner, keras.Model)
        return inner if trainer else model
    except (
        *(ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, EOFError),
        *(OSError, ImportError, NotImplementedError, UnicodeDecodeError),
        *(zipfile.BadZipFile, pickle.UnpicklingError),
    ) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} must be a Keras model, saved as .keras. Received: {reason}"
        ) from error


def check_writable(path: pathlib.Path) -> None:
    """Makes the folder of a file, and raises OSError now if the file could not be written later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "ab"):
        pass
    part.unlink()
