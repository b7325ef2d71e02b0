"""Writes logs so that a kill, a full disk or a second process loses and repeats nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfcert.logs import reading

try:
    import fcntl
except ImportError:  # Not on Windows, where a second writer goes unnoticed.
    fcntl = None  # type: ignore[assignment]

__all__ = ["Writer", "write_whole"]

FORMAT = 1


class Writer:
    """A log that is open for writing, either new or from an earlier part of the same run.

    A line is on the disk when `write` returns. Equal hashes mark the same run. A writer never
    changes a log of another run, or a file that is not a log.

    Args:
        path: The log file. The facts, ``<path>.json``, and counterexamples are beside it.
        kind: "certify" or "smoothing".
        run: The facts of the run, as plain values for JSON. ``run["hashes"]`` holds everything that
            decides the results, such as ``{"model": "sha256...", "data": ..., "settings": ...}``.
            The optional ``run["settings"]`` lets an error name the settings that differ.
        session: Facts that may change when a run resumes, such as versions and the commit. The list
            "sessions" keeps them for each start.
        more: More columns at the end.

    Attributes:
        entries: The lines of the log when it was opened, as from ``tfcert.logs.read``.
        done: The idx of all lines.

    Example:

    >>> with tfcert.logs.Writer("run.tsv", "certify", {"hashes": {"model": "..."}}) as log:
    ...     log.write(
    ...         [
    ...             {
    ...                 "idx": 0,
    ...                 "label": 7,
    ...                 "predict": 7,
    ...                 "verdict": "verified",
    ...                 "margin": 0.5,
    ...                 "method": "ibp",
    ...                 "seconds": 0.01,
    ...             }
    ...         ]
    ...     )
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        run: dict[str, Any],
        session: dict[str, Any] | None = None,
        more: Iterable[str] = (),
    ):
        self.path = pathlib.Path(path)
        self.columns = (*getattr(reading, kind.upper()), *more)
        self._kind, self._file = kind, -1
        if reading.kind_of(self.columns) != kind:
            raise ValueError(
                f"`more` must hold names of additional columns. Received: more={more!r}."
            )
        given = {"format": FORMAT, "kind": kind, "columns": list(self.columns), **run}
        self.facts: dict[str, Any] = json.loads(json.dumps(given, allow_nan=False))
        self._known()  # Before a file is made.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            known = self._known()
            if known is None:
                os.ftruncate(self._file, 0)
                known = self.facts
            sessions = [*known.get("sessions", []), *([session] if session else [])]
            self.facts = {**known, "sessions": sessions}
            self._write_facts()
            self.entries = self._recover()
        except BaseException:
            self.close()
            raise
        self.done = {entry["idx"] for entry in self.entries}

    def write(self, entries: Iterable[dict[str, Any]]) -> None:
        """Appends lines together, and waits until they are on the disk.

        Args:
            entries: A dictionary per line, by column; time and seconds in seconds.
        """
        lines, found = [], set[int]()
        for entry in entries:
            line = "\t".join(_format(name, entry[name]) for name in self.columns).encode()
            parsed = reading.parse_line(line, self.columns, self._kind)
            if b"\n" in line or b"\r" in line:
                raise ValueError(f"A line must be one line. Received: {entry!r}.")
            if parsed["idx"] in self.done | found:
                raise ValueError(f"{self.path} already has a line for input {parsed['idx']}.")
            found.add(parsed["idx"])
            lines.append(line + b"\n")
        self._append(b"".join(lines))
        self.done |= found

    def note(self, name: str, value: Any) -> None:
        """Adds one fact to the side file."""
        self.facts = {**self.facts, name: json.loads(json.dumps(value, allow_nan=False))}
        self._write_facts()

    def save_counterexample(self, idx: int, point: np.ndarray) -> None:
        """Stores the counterexample of an input, before the input's line is written."""
        path = reading.counterexample_path(self.path, idx)
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(point), allow_pickle=False)
        write_whole(path, buffer.getvalue())

    def close(self) -> None:
        """Closes the file, and lets others write."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _known(self) -> dict[str, Any] | None:
        """The facts of an existing run, which must be this one; None where nothing is there."""
        known = reading.read_facts(self.path)
        if known is None:
            if self.path.exists() and (not self.path.is_file() or self.path.stat().st_size):
                raise ValueError(
                    f"{self.path} exists, but there is no {reading.facts_path(self.path)} that "
                    "describes its run. Choose another file."
                )
            return None
        differ = [
            name
            for name in ("format", "kind", "columns")
            if known.get(name) != self.facts.get(name)
        ]
        old, new = _mapping(known, "hashes"), _mapping(self.facts, "hashes")
        differ += [name for name in {**new, **old} if old.get(name) != new.get(name)]
        if differ and self._has_no_line():
            return None  # Of a start that failed; there is nothing to lose.
        if differ:
            raise ValueError(
                f"{self.path} is the log of a different run, with other {', '.join(differ)}"
                f"{self._settings(known)}. Choose another file, or repeat the arguments of that "
                "run."
            )
        return known

    def _has_no_line(self) -> bool:
        """Whether the log holds a header at most."""
        if not self.path.exists():
            return True
        if not self.path.is_file() or self.path.stat().st_size > 1 << 16:
            return False
        first, _, more = self.path.read_bytes().partition(b"\n")
        columns = tuple(first.decode("utf-8", "replace").split("\t"))
        return not more and (not first or reading.kind_of(columns) is not None)

    def _settings(self, known: dict[str, Any]) -> str:
        """Which settings differ, as far as they were kept."""
        old, new = _mapping(known, "settings"), _mapping(self.facts, "settings")
        names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
        parts = [f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names]
        return f" ({'; '.join(parts)})"[:1000] if parts else ""

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(
                error.errno, f"{self.path} is being written by another process", str(self.path)
            ) from error

    def _recover(self) -> list[dict[str, Any]]:
        """Reads what is there, and takes away the line that a kill has cut."""
        header = ("\t".join(self.columns) + "\n").encode()
        start = os.pread(self._file, len(header), 0)
        if len(start) < len(header) and header.startswith(start):
            self._size = 0
            os.ftruncate(self._file, 0)
            self._append(header)
            return []
        log = reading.read(self.path)
        if log.columns != self.columns:
            raise ValueError(
                f"{self.path} must have the columns {' '.join(self.columns)}. "
                f"Received: {' '.join(log.columns)}."
            )
        self._size = log.size
        os.ftruncate(self._file, log.size)
        return log.entries

    def _append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError as error:
            # Half a line would be read as cut; none at all is cleaner.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise _explained(error, self.path) from error
        self._size += len(data)

    def _write_facts(self) -> None:
        text = json.dumps(self.facts, indent=1, allow_nan=False) + "\n"
        write_whole(reading.facts_path(self.path), text.encode())


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Writes a file so that it is there as a whole or, after a kill or on a full disk, not at all.

    Raises:
        OSError: The file could not be written; what stood there before is kept.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise _explained(error, path) from error
    if os.name == "posix":  # The name must last, too.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _explained(error: OSError, path: pathlib.Path) -> OSError:
    return OSError(
        error.errno,
        f"could not be written ({error.strerror}). What was written before is kept; the same run "
        "goes on from there",
        str(path),
    )


def _mapping(facts: dict[str, Any], name: str) -> dict[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _format(column: str, value: Any) -> str:
    if column == "time":
        return _format_time(float(value))
    if column == "correct":
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))  # The shortest text that is read back as the same number.
    return str(value)


def _format_time(seconds: float) -> str:
    """A duration as ``h:mm:ss.ffffff``.

    >>> _format_time(3725.5)
    '1:02:05.500000'
    """
    whole, micro = divmod(round(seconds * 1e6), 10**6)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}.{micro:06d}"
