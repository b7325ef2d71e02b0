"""Writes complete SavedModels, with the facts about their certificates beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import provenance

__all__ = ["FACTS", "check_weights", "common_facts", "destination", "in_pieces", "write"]

# The name of the asset that holds the facts.
FACTS = "certificate.json"


def check_weights(model: keras.Model) -> None:
    """Raises where a weight is NaN or infinite: nothing can be promised about such a model."""
    for variable in model.variables:
        values = ops.convert_to_numpy(variable)
        if values.dtype.kind != "f":
            continue
        # The exponent of a norm is such a number, and may be infinite.
        setting = values.shape == () and not variable.trainable
        if np.isnan(values).any() or (np.isinf(values).any() and not setting):
            raise ValueError(
                f"Model {model.name!r} has NaN or infinite values in its weight {variable.path!r}. "
                "It cannot be exported."
            )


def common_facts(model: keras.Model) -> dict[str, Any]:
    """Returns the facts of every export: the model's name, a hash of its weights, versions,
    time."""
    digest = hashlib.sha256()
    for variable in model.variables:
        values = np.ascontiguousarray(ops.convert_to_numpy(variable))
        digest.update(f"{variable.path} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return {
        "model": model.name,
        "weights_sha256": digest.hexdigest(),
        "versions": provenance.versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextlib.contextmanager
def destination(path: Any, overwrite: bool) -> Iterator[pathlib.Path]:
    """A folder that takes the place of ``path`` when the block ends without an error.

    Until then nothing is at ``path``, or what was there before: a server that watches the folder
    above sees a whole model or none.
    """
    path = pathlib.Path(path).absolute()
    _check_path(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the path, so that a rename does not cross file systems; hidden from servers, which look
    # for folders whose names are numbers.
    room = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new = room / "new"
        yield new
        _check_path(path, overwrite)
        if path.exists():
            path.rename(room / "old")
        new.rename(path)
    finally:
        if (room / "old").exists() and not path.exists():
            (room / "old").rename(path)
        shutil.rmtree(room, ignore_errors=True)


def _check_path(path: pathlib.Path, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise ValueError(
            f"`path` already exists: {path}. Choose another one, or pass overwrite=True to "
            "replace the SavedModel in it."
        )
    if path.is_symlink() or not (path / "saved_model.pb").is_file():
        raise ValueError(f"`overwrite` replaces SavedModels only. Received: path={path}.")


def write(
    path: Any,
    models: Sequence[keras.Model],
    signatures: Mapping[str, Callable[..., Any]],
    facts: Mapping[str, Any],
    overwrite: bool,
) -> pathlib.Path:
    """Writes the signatures, the weights that they read, and the facts.

    Args:
        path: A folder that is not there yet.
        models: Whose variables the signatures read.
        signatures: ``tf.function`` objects with input signatures, which return dictionaries.
        facts: Plain numbers, texts, lists and dictionaries; written as an asset, and returned by
            the signature ``facts``.
        overwrite: Whether a SavedModel at ``path`` may be replaced.

    Returns:
        The path.
    """
    import tensorflow as tf

    text = json.dumps(facts, indent=2, allow_nan=False)

    @tf.function(input_signature=[])
    def describe() -> dict[str, Any]:
        return {"facts": tf.constant(text)}

    with destination(path, overwrite) as folder, tempfile.TemporaryDirectory() as scratch:
        note = pathlib.Path(scratch) / FACTS
        note.write_text(text + "\n", encoding="utf-8")
        module = tf.Module(name="certified")
        module.weights = [v.value for model in models for v in model.variables]
        module.facts_file = tf.saved_model.Asset(str(note))
        functions = {**signatures, "facts": describe}
        for name, function in functions.items():
            setattr(module, name, function)
        tf.saved_model.save(module, str(folder), signatures=functions)
    return pathlib.Path(path)


def in_pieces(function: Any, arguments: tuple[Any, ...], piece: int) -> dict[str, Any]:
    """What a concrete function of at most so many samples gives for any number of them."""
    import tensorflow as tf

    size, wanted = tf.shape(arguments[0])[0], function.structured_outputs
    names = sorted(wanted)

    def all_at_once() -> list[Any]:
        found = function(*arguments)
        return [found[name] for name in names]

    def one_by_one() -> list[Any]:
        count = -(-size // piece)
        arrays = [
            tf.TensorArray(
                wanted[name].dtype, count, infer_shape=False, element_shape=wanted[name].shape
            )
            for name in names
        ]

        def turn(i: Any, *arrays: Any) -> tuple:
            found = function(*[t[i * piece : (i + 1) * piece] for t in arguments])
            pairs = zip(arrays, names, strict=True)
            return i + 1, *[array.write(i, found[name]) for array, name in pairs]

        _, *arrays = tf.while_loop(
            lambda i, *_: i < count, turn, (0, *arrays), parallel_iterations=1
        )
        return [array.concat() for array in arrays]

    # Nothing of an empty batch is computed: reshapes to (-1, ...) could not tell its sizes.
    several = tf.logical_or(size > piece, size == 0)
    results = tf.cond(several, one_by_one, all_at_once)
    for name, value in zip(names, results, strict=True):
        value.set_shape([None, *wanted[name].shape[1:]])
    return dict(zip(names, results, strict=True))
