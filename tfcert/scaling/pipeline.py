"""The Beam pipeline: shards of inputs, certified block by block, gathered into logs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import posixpath
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import keras
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from tfcert import files, logs
from tfcert.certification import certify
from tfcert.regions import LpBall
from tfcert.runs import identity
from tfcert.scaling.shards import ENDINGS, Shard, read_shard
from tfcert.types import MethodName, Norm

__all__ = ["FIELDS", "Settings", "certify_shards"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of the certification, as for ``tfcert.certify``."""

    model_path: str
    eps: float
    norm: Norm
    clip: tuple[float, float] | None
    method: tuple[MethodName | Literal["auto", "complete"], ...]
    attack: bool
    float_safe: bool
    time_limit_per_input: float | None
    self_check: float
    seed: int
    block: int
    batch_size: int | None

    def region(self) -> LpBall:
        """The region around every input."""
        return LpBall(self.eps, self.norm, self.clip)


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


class Row(NamedTuple):
    """The result of one input.

    Attributes:
        entry: The line of the log, by column.
        point: The counterexample, None where there is none.
        digest: Of the input, its label and its number.
    """

    entry: dict[str, Any]
    point: np.ndarray | None
    digest: bytes


def certify_shards(
    settings: Settings,
    pattern: str,
    out: str,
    shards: int,
    options: list[str],
    facts: dict[str, Any],
) -> list[str]:
    """Certifies all inputs of some shards, each once, and writes the logs.

    All logs are written after all inputs are certified, each to a name of its own that is then
    changed into the final one. What a runner does twice, after a worker was lost, is dropped by
    the inputs' numbers.

    Args:
        settings: What is certified.
        pattern: Which shards, such as "gs://bucket/part-*"; any file system that Beam knows.
        out: Folder of the logs.
        shards: How many logs.
        options: Beam's own options, such as "--runner=FlinkRunner".
        facts: More facts for the logs' side files.

    Returns:
        The paths of the logs, ``<out>/log-00000-of-00004.tsv`` and so on.
    """
    paths = _found(pattern)
    names = [f"log-{number:05d}-of-{shards:05d}.tsv" for number in range(shards)]
    targets = [FileSystems.join(out, name) for name in names]
    taken = [target for target in targets if FileSystems.exists(target)]
    if taken:
        raise ValueError(f"{taken[0]} exists. Choose another folder.")
    model = _load(settings.model_path)
    run = {
        "hashes": {
            "model": identity.of_model(model),
            "region": identity.of_region(settings.region()),
            "settings": identity.of_settings(dataclasses.asdict(settings) | {"model_path": ""}),
        },
        "settings": dataclasses.asdict(settings),
        **facts,
    }
    if not FileSystems.exists(out):
        FileSystems.mkdirs(out)
    # At its usual level, Beam tells of every step and every type that it guesses.
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        rows = (
            pipeline
            | "Shards" >> beam.Create(paths)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_blocks, settings.block)
            | "Certify" >> beam.ParDo(_Certify(settings))
            | "ByInput" >> beam.GroupByKey()
            | "Once" >> beam.MapTuple(_once)
            | "ByLog" >> beam.Map(lambda row, count: (row.entry["idx"] % count, row), shards)
        )
        # A log that gets no input is written, too.
        empty = pipeline | "Logs" >> beam.Create([(number, None) for number in range(shards)])
        _ = (
            (rows, empty)
            | "Join" >> beam.Flatten()
            | "Gather" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write, targets, run)
        )
    return targets


def _found(pattern: str) -> list[str]:
    found = [file.path for match in FileSystems.match([pattern]) for file in match.metadata_list]
    if not found:
        raise ValueError(f"No file has a name like {pattern}.")
    other = [path for path in found if not path.endswith(ENDINGS)]
    if other:
        raise ValueError(f"Shards end in {' or '.join(ENDINGS)}. Received: {other[0]}.")
    return sorted(found)


@contextlib.contextmanager
def _nearby(path: str) -> Iterator[pathlib.Path]:
    """A file of any file system as one of this machine."""
    if FileSystems.get_scheme(path) is None:
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / posixpath.basename(path)
        with FileSystems.open(path) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


def _load(path: str) -> keras.Model:
    with _nearby(path) as near:
        return files.load_model(near)


def _blocks(path: str, size: int) -> Iterator[Shard]:
    with _nearby(path) as near:
        yield from read_shard(near, size)


# TensorFlow uses all cores by itself; threads of one process would only compile side by side.
_LOCK = threading.Lock()


class _Certify(beam.DoFn):
    """Certifies a block of inputs; every worker loads the model once."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def setup(self) -> None:
        """Loads the model."""
        with _LOCK:
            self._model = _load(self._settings.model_path)

    def process(self, block: Shard) -> Iterator[tuple[int, Row]]:
        """Rows by the inputs' numbers."""
        asked = self._settings
        with _LOCK:
            found = certify(
                self._model,
                block.x,
                block.y,
                asked.region(),
                asked.method,
                attack="auto" if asked.attack else None,
                float_safe=asked.float_safe,
                time_limit_per_input=asked.time_limit_per_input,
                self_check=asked.self_check,
                batch_size=asked.batch_size,
                index=block.idx,
                seed=asked.seed,
            )
        for place, index in enumerate(block.idx):
            entry = {
                "idx": int(index),
                "label": int(block.y[place]),
                "predict": int(found.predict[place]),
                "verdict": str(found.verdict[place]),
                "margin": float(found.margin[place]),
                "method": str(found.method[place]),
                "seconds": round(float(found.seconds[place]), 6),
            }
            point = found.counterexamples.get(place)
            text = f"{index} {block.y[place]} {block.x.shape[1:]} ".encode()
            digest = hashlib.sha256(text + block.x[place].tobytes()).digest()
            yield int(index), Row(entry, None if point is None else np.asarray(point), digest)


def _once(index: int, rows: Iterable[Row]) -> Row:
    """The row of an input, whatever a runner has done twice."""
    rows = list(rows)
    if len({row.digest for row in rows}) > 1:
        raise ValueError(f"Two different inputs have the number {index}.")
    return min(rows, key=lambda row: repr(row.entry))


def _write(
    gathered: tuple[int, Iterable[Row | None]], targets: list[str], run: dict[str, Any]
) -> str:
    """Writes a log with what belongs to it, in the order of the inputs' numbers."""
    number, found = gathered
    rows = sorted((row for row in found if row), key=lambda row: row.entry["idx"])
    digest = hashlib.sha256(b"".join(row.digest for row in rows)).hexdigest()
    run = {
        **run,
        "hashes": {**run["hashes"], "data": digest},
        "inputs": len(rows),
        "shard": f"{number} of {len(targets)}",
    }
    with tempfile.TemporaryDirectory() as folder:
        near = pathlib.Path(folder) / "log.tsv"
        with logs.Writer(near, "certify", run) as log:
            for row in rows:
                if row.point is not None:
                    log.save_counterexample(row.entry["idx"], row.point)
            log.write(row.entry for row in rows)
        for row in rows:
            if row.point is not None:
                index = row.entry["idx"]
                _put(
                    logs.counterexample_path(near, index),
                    f"{targets[number]}.counterexamples/{index}.npy",
                )
        _put(logs.facts_path(near), f"{targets[number]}.json")
        _put(near, targets[number])  # Last: where a log is, all that belongs to it is.
    return targets[number]


def _put(source: pathlib.Path, target: str) -> None:
    """Copies a file so that its final name stands for the whole."""
    folder, name = posixpath.split(target)
    with contextlib.suppress(beam.io.filesystem.BeamIOError, OSError):
        FileSystems.mkdirs(folder)  # It may be there, or need no making.
    part = FileSystems.join(folder, f".{name}.{uuid.uuid4().hex}.part")
    with FileSystems.create(part, mime_type="application/octet-stream") as file:
        file.write(source.read_bytes())
    FileSystems.rename([part], [target])
