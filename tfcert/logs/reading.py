"""Reads logs, whoever wrote them: nothing in them is trusted."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "CERTIFY",
    "SMOOTHING",
    "VERDICTS",
    "Log",
    "counterexample_path",
    "facts_path",
    "kind_of",
    "parse_line",
    "read",
    "read_counterexample",
    "read_facts",
]

CERTIFY = ("idx", "label", "predict", "verdict", "margin", "method", "seconds")
SMOOTHING = ("idx", "label", "predict", "radius", "correct", "time")
VERDICTS = ("verified", "falsified", "misclassified", "unknown")

_MARK = b"\xef\xbb\xbf"  # Before UTF-8 text that some editors wrote.
_MAX_LINE = 1 << 16
_MAX_FACTS = 1 << 24
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|-inf")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_TIME = re.compile(r"(?:([0-9]{1,6}) days?, )?([0-9]{1,9}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]+)?)")


class Log(NamedTuple):
    """The contents of a log file.

    Attributes:
        path: The file.
        kind: "certify" or "smoothing".
        columns: The header.
        entries: One dictionary per line, by column: integers for idx, label and predict; floats for
            margin, seconds, radius and time (in seconds); a bool for correct; text for verdict,
            method and unknown columns.
        facts: The contents of the side file, or None.
        cut: The text of a last line without an end, which a kill leaves; it counts as not written.
        size: The number of bytes up to the end of the last whole line that is not empty.
    """

    path: pathlib.Path
    kind: str
    columns: tuple[str, ...]
    entries: list[dict[str, Any]]
    facts: dict[str, Any] | None
    cut: str
    size: int

    def column(self, name: str) -> np.ndarray:
        """Returns one column as an array, in the order of the lines."""
        if name not in self.columns:
            raise ValueError(
                f"`name` must be one of {self.columns}, the columns of {self.path}. "
                f"Received: name={name!r}."
            )
        return np.array([entry[name] for entry in self.entries])


def read(path: str | os.PathLike[str]) -> Log:
    """Reads a log of tfcert, or a smoothing log of another program with the same columns.

    No value of a line serves as a path or as code. A last line without an end comes from a kill,
    and is dropped.

    Raises:
        ValueError: The header is unknown, or lines are malformed; the message lists them as
            ``file:line: why``.
        OSError: The file cannot be read.

    Example:

    >>> log = tfcert.logs.read("run.tsv")
    >>> log.kind, len(log.entries), log.column("verdict")
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file. Received: something else.")
    data = path.read_bytes()
    start = len(_MARK) if data.startswith(_MARK) else 0
    size = data.rfind(b"\n") + 1
    cut = data[size:][:_MAX_LINE].decode("utf-8", "replace")
    lines = data[start:size].split(b"\n")[:-1]
    while lines and not lines[-1].strip():  # Empty lines at the end, as editors leave them.
        size -= len(lines.pop()) + 1
    if not lines:
        raise ValueError(f"{path}:1: the header is missing. Received: {_short(cut)}.")
    # What is not UTF-8 becomes a sign that no header has.
    columns = tuple(lines[0].removesuffix(b"\r").decode("utf-8", "replace").split("\t"))
    kind = kind_of(columns)
    if kind is None or len(lines[0]) > _MAX_LINE or "\ufffd" in "".join(columns):
        raise ValueError(
            f"{path}:1: the header must begin with the columns {' '.join(CERTIFY)}, or "
            f"{' '.join(SMOOTHING)}, separated by tabs. Received: {_short(lines[0])}."
        )
    entries, problems, places = [], [], dict[int, int]()
    for number, line in enumerate(lines[1:], start=2):
        try:
            entry = parse_line(line, columns, kind)
            first = places.setdefault(entry["idx"], number)
            if first != number:
                raise ValueError(f"idx {entry['idx']} is already in line {first}")
            entries.append(entry)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise ValueError("Malformed lines:\n" + "\n".join([*problems[:20], *more]))
    return Log(path, kind, columns, entries, read_facts(path), cut, size)


def facts_path(log: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of the facts of a log's run."""
    return pathlib.Path(f"{os.fspath(log)}.json")


def counterexample_path(log: str | os.PathLike[str], idx: int) -> pathlib.Path:
    """Returns the path of an input's counterexample."""
    return pathlib.Path(f"{os.fspath(log)}.counterexamples") / f"{int(idx)}.npy"


def read_facts(log: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the facts of a log's run; returns None if the file does not exist."""
    path = facts_path(log)
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > _MAX_FACTS:
            raise ValueError("it is no file, or too large")
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON object, the facts of a run. Received: {error}."
        ) from error
    return facts


def read_counterexample(log: str | os.PathLike[str], idx: int) -> np.ndarray | None:
    """Reads the counterexample of an input; returns None if none is stored."""
    path = counterexample_path(log, idx)
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise ValueError("something that is no file")
        # Nothing is unpickled or unpacked, and a header that promises more than the file holds
        # gets no memory.
        array = np.array(np.lib.format.open_memmap(path, mode="r"))
        if array.dtype.kind != "f":
            raise ValueError(f"an array of {array.dtype}")
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError) as error:
        raise ValueError(f"{path} must hold an array of floats. Received: {error}.") from error
    return array


def _parse_time(text: str) -> float:
    """Seconds of ``h:mm:ss``, ``h:mm:ss.ffffff``, ``n days, h:mm:ss.ffffff`` or a number."""
    if _SECONDS.fullmatch(text):
        return float(text)
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"time must be h:mm:ss.ffffff or seconds. Received: {_short(text)}")
    days, hours, minutes, seconds = found.groups()
    return 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def kind_of(columns: tuple[str, ...]) -> str | None:
    """The kind of log that a header opens; None for anything else."""
    if len(set(columns)) < len(columns) or "" in columns:
        return None
    for kind, known in (("certify", CERTIFY), ("smoothing", SMOOTHING)):
        if columns[: len(known)] == known:
            return kind
    return None


def parse_line(line: bytes, columns: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The values of one line, by column; raises ValueError where one is malformed."""
    if len(line) > _MAX_LINE:
        raise ValueError(f"a line of {len(line)} bytes")
    fields = _text(line).split("\t")
    if len(fields) != len(columns):
        raise ValueError(f"the line must have {len(columns)} columns. Received: {len(fields)}")
    parsers = _PARSERS[kind]
    known = ((name, parsers.get(name, _any)) for name in columns)
    return {name: parse(name, text) for (name, parse), text in zip(known, fields, strict=True)}


def _text(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"text must be UTF-8. Received: {_short(line)}") from None


def _any(name: str, text: str) -> str:
    return text


def _at_least(least: int) -> Callable[[str, str], int]:
    def parse(name: str, text: str) -> int:
        if not _INTEGER.fullmatch(text) or int(text) < least:
            raise ValueError(f"{name} must be an integer >= {least}. Received: {_short(text)}")
        return int(text)

    return parse


def _number(least: float) -> Callable[[str, str], float]:
    def parse(name: str, text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be a number >= {least:g}. Received: {_short(text)}")
        return value

    return parse


def _verdict(name: str, text: str) -> str:
    if text not in VERDICTS:
        raise ValueError(f"{name} must be one of {', '.join(VERDICTS)}. Received: {_short(text)}")
    return text


def _correct(name: str, text: str) -> bool:
    if text not in ("0", "1", "False", "True"):
        raise ValueError(f"{name} must be 0 or 1. Received: {_short(text)}")
    return text in ("1", "True")


_BOTH: dict[str, Callable] = {
    "idx": _at_least(0),
    "label": _at_least(-1),
    "predict": _at_least(-1),
    "radius": _number(0.0),
}
_PARSERS: dict[str, dict[str, Callable]] = {
    "certify": {
        **_BOTH,
        "verdict": _verdict,
        "margin": _number(-math.inf),
        "seconds": _number(0.0),
    },
    "smoothing": {**_BOTH, "correct": _correct, "time": lambda _, text: _parse_time(text)},
}


def _short(text: Any, most: int = 60) -> str:
    """What came, escaped and not too long for a message."""
    shown = ascii(text[: most + 1])
    return shown if len(text) <= most else shown[:most] + "..."
