"""Files that each hold a part of a data set, with the number of every input."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert import files

__all__ = ["Shard", "read_shard", "write_shards"]

ENDINGS = (".npz", ".tfrecord")
_KEYS = ("idx", "x", "y")


class Shard(NamedTuple):
    """A part of a data set's inputs.

    Attributes:
        idx: The number of each input in the data set, ``(n,)``. Each number occurs once in all
            shards.
        x: Inputs as float32, ``(n, ...)``.
        y: Labels, ``(n,)``.
    """

    idx: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]


def write_shards(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    folder: str | os.PathLike[str],
    shards: int,
    ending: str = ".npz",
) -> list[pathlib.Path]:
    """Writes inputs and labels as files ``part-00000-of-00004.npz`` and so on.

    Args:
        x: Inputs, ``(n, ...)``.
        y: Integer labels, ``(n,)``.
        folder: The folder for the files; created if necessary.
        shards: The number of files, of about the same size.
        ending: ".npz" (arrays idx, x and y) or ".tfrecord" (an Example for each input, with the
            integers idx, label and shape, and the float32 bytes of x; needs TensorFlow).

    Returns:
        The paths.

    Example:

    >>> write_shards(x_test, y_test, "shards", 4)
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if ending not in ENDINGS:
        raise ValueError(f"`ending` must be one of {ENDINGS}. Received: ending={ending!r}.")
    if not isinstance(shards, int) or not 1 <= shards <= max(len(x), 1):
        raise ValueError(
            f"`shards` must be an integer from 1 to {len(x)}, the number of inputs. "
            f"Received: shards={shards}."
        )
    whole = _checked(np.arange(len(x)), x, y)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, places in enumerate(np.array_split(np.arange(len(x)), shards)):
        path = folder / f"part-{number:05d}-of-{shards:05d}{ending}"
        part = path.with_name(f".{path.name}.part")  # No pattern finds it half-written.
        _write(part, _piece(whole, places), ending)
        os.replace(part, path)
        paths.append(path)
    return paths


def read_shard(path: str | os.PathLike[str], size: int) -> Iterator[Shard]:
    """Reads the inputs of a shard in pieces, in the file's order.

    Args:
        path: A file written by ``write_shards``. The ending decides its format.
        size: Number of inputs in a piece. The last piece may be smaller.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        yield from _read_npz(path, size)
    elif path.suffix == ".tfrecord":
        yield from _read_records(path, size)
    else:
        raise ValueError(f"A shard must end in .npz or .tfrecord. Received: {path}.")


def _checked(idx: Any, x: Any, y: Any) -> Shard:
    """A shard of arrays that fit together."""
    if x.ndim < 2 or x.dtype.kind != "f":
        raise ValueError(
            f"x must be floats of shape (n, ...). Received: {x.dtype} of shape {x.shape}"
        )
    for name, array in (("idx", idx), ("y", y)):
        if array.shape != (len(x),) or array.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be integers of shape ({len(x)},), one for each input. "
                f"Received: {array.dtype} of shape {array.shape}"
            )
    if len(idx) and idx.min() < 0:
        raise ValueError(f"idx must not be negative. Received: {idx.min()}")
    return Shard(idx.astype(np.int64), x.astype(np.float32), y.astype(np.int64))


def _piece(shard: Shard, places: Any) -> Shard:
    return Shard(shard.idx[places], shard.x[places], shard.y[places])


def _write(path: pathlib.Path, shard: Shard, ending: str) -> None:
    if ending == ".npz":
        with open(path, "wb") as file:
            np.savez(file, **shard._asdict())
        return
    tf = _tensorflow()
    feature = tf.train.Feature
    with tf.io.TFRecordWriter(str(path)) as writer:
        for idx, x, y in zip(*shard, strict=True):
            integers = {"idx": [idx], "label": [y], "shape": x.shape}
            features = {
                name: feature(int64_list=tf.train.Int64List(value=value))
                for name, value in integers.items()
            }
            data = x.astype("<f4").tobytes()
            features["x"] = feature(bytes_list=tf.train.BytesList(value=[data]))
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def _read_npz(path: pathlib.Path, size: int) -> Iterator[Shard]:
    arrays = files.read_arrays(path, _KEYS)
    try:
        shard = _checked(**arrays)
    except ValueError as error:
        raise ValueError(
            f"{path} must be a shard as of write_shards. Received: {error}."
        ) from error
    for start in range(0, len(shard.y), size):
        yield _piece(shard, slice(start, start + size))


def _read_records(path: pathlib.Path, size: int) -> Iterator[Shard]:
    tf = _tensorflow()
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file", str(path))
    try:
        rows = []
        for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
            rows.append(_row(tf, record.numpy(), number))
            if len(rows) == size:
                yield _stacked(rows)
                rows = []
        if rows:
            yield _stacked(rows)
    except (ValueError, tf.errors.DataLossError) as error:
        message = getattr(error, "message", error)
        raise ValueError(
            f"{path} must be a shard as of write_shards. Received: {message}."
        ) from error


def _row(tf: Any, record: bytes, number: int) -> tuple[int, np.ndarray, int]:
    """One input of a record; a malformed record is a ValueError."""
    import google.protobuf.message

    example = tf.train.Example()
    try:
        example.ParseFromString(record)
    except google.protobuf.message.DecodeError as error:
        raise ValueError(f"record {number} is no Example: {error}") from error
    features = example.features.feature
    index, label, shape = (
        list(features[name].int64_list.value) for name in ("idx", "label", "shape")
    )
    data = features["x"].bytes_list.value
    if len(index) != 1 or len(label) != 1 or len(data) != 1 or not shape or min(shape) < 0:
        raise ValueError(f"record {number} lacks one of idx, label, shape and x")
    x = np.frombuffer(data[0][: len(data[0]) // 4 * 4], "<f4")
    if x.nbytes != len(data[0]) or x.size != np.prod(shape, dtype=object):
        raise ValueError(f"record {number} has {len(data[0])} bytes for floats of shape {shape}")
    return index[0], x.reshape(shape), label[0]


def _stacked(rows: list[tuple[int, np.ndarray, int]]) -> Shard:
    shapes = {x.shape for _, x, _ in rows}
    if len(shapes) > 1:
        raise ValueError(f"its inputs have several shapes: {sorted(shapes)[:4]}")
    index, x, y = zip(*rows, strict=True)
    return _checked(np.array(index), np.stack(x), np.array(y))


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("Shards of TFRecords need TensorFlow; npz shards do not.") from error
    return tf
