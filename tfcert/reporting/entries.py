"""A log as arrays, one entry per input."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcert import logs

__all__ = ["Entries", "join", "read"]


@dataclasses.dataclass(frozen=True, repr=False)
class Entries:
    """The inputs of a log as arrays, in the order of the log.

    Attributes:
        name: The log's name in tables and figures.
        path: The log.
        paths: The files of the log; more than one if the log is joined from shards. Counterexamples
            are beside the files.
        kind: "smoothing" (radii that hold with a chosen probability) or "certify" (verdicts).
        columns: The header.
        idx: The position of each input in its data set, without repetition. int64.
        label: The right class. int64.
        correct: Whether the classifier is right on the input. bool.
        abstained: Whether the classifier abstained (-1). bool.
        radius: The certified radius, or None if the log has none. float64.
        seconds: The time spent on the input. float64.
        verdict: "verified", "falsified", "misclassified" or "unknown"; None for smoothing.
        margin: The lower bound of the margin; None for smoothing. float64.
        method: The method that decided; None for smoothing.
        shard: The file of each entry, as a position in ``paths``. int64.
        line: The number of each entry's line in its file. int64.
        facts: The facts of the run, from ``<log>.json``, or None.
        cut: Whether the log ends in the middle of a line, which was left out.
        sha256: The SHA-256 of the log.
    """

    name: str
    path: pathlib.Path
    paths: tuple[pathlib.Path, ...]
    kind: str
    columns: tuple[str, ...]
    idx: np.ndarray
    label: np.ndarray
    correct: np.ndarray
    abstained: np.ndarray
    radius: np.ndarray | None
    seconds: np.ndarray
    verdict: np.ndarray | None
    margin: np.ndarray | None
    method: np.ndarray | None
    shard: np.ndarray
    line: np.ndarray
    facts: dict[str, Any] | None
    cut: bool
    sha256: str

    def __len__(self) -> int:
        return len(self.idx)

    def __repr__(self) -> str:
        return f"<Entries {self.name}: {len(self)} inputs of a {self.kind} log, {self.path}>"

    @property
    def hashes(self) -> Any:
        """Returns the hashes of model, data and settings in the facts, or None."""
        return (self.facts or {}).get("hashes")

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings in the facts, or an empty dictionary."""
        found = (self.facts or {}).get("settings")
        return found if isinstance(found, dict) else {}

    def where(self, place: int) -> str:
        """Returns the file and the line of an entry."""
        return f"{self.paths[self.shard[place]]}:{self.line[place]}"

    def robust_radius(self) -> np.ndarray:
        """Returns ``radius * correct``, the radius within which each input is right."""
        if self.radius is None:
            raise ValueError(f"{self.path} has no column named radius.")
        return np.where(self.correct, self.radius, 0.0)

    def certified(self, radius: float) -> np.ndarray:
        """Returns whether each input is correct with a certified radius of at least `radius`."""
        if self.radius is None:
            raise ValueError(f"{self.path} has no column named radius.")
        return self.correct & (self.radius >= radius)

    def select(self, chosen: np.ndarray) -> Entries:
        """Returns the entries for which `chosen`, an array of bools, is true."""
        columns = {
            field.name: value[chosen]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **columns)

    def verdicts(self, *names: str) -> np.ndarray:
        """Returns whether each input has one of these verdicts."""
        if self.verdict is None:
            raise ValueError(f"{self.path} has no column named verdict.")
        return np.isin(self.verdict, names)


def read(path: str | os.PathLike[str], name: str | None = None) -> Entries:
    """Reads a log of either kind into arrays.

    Args:
        path: A log of ``tfcert.certify`` or of smoothing, written by tfcert or with the same
            columns.
        name: The name of the log. Default: the file's name without its ending.

    Raises:
        ValueError: Lines are malformed, contradict themselves or are missing; the message has the
            file and the lines' numbers.

    Example:

    >>> entries = tfcert.reporting.read("run.tsv")
    >>> tfcert.reporting.average_certified_radius(entries)
    """
    path = pathlib.Path(path)
    entries = _read_file(path, path.stem if name is None else name)
    if len(entries) == 0:
        raise ValueError(f"{path} has a header, but no complete line.")
    return entries


def join(path: str | os.PathLike[str], shards: Sequence[str], name: str) -> Entries:
    """Reads logs that are parts of one, as a run on several machines leaves them.

    Args:
        path: What to call the whole in messages.
        shards: The logs, whose columns are the same. Single ones may be empty.
        name: What to call it in tables and figures.

    Raises:
        ValueError: As for `read`; or the parts have an input twice, or differ in their columns or
            in the hashes of model and settings that their facts tell.
    """
    parts = [_read_file(pathlib.Path(shard), name) for shard in shards]
    for part in parts[1:]:
        for what in ("columns", "hashes"):
            one, two = (_without_data(getattr(each, what)) for each in (parts[0], part))
            if one != two:
                raise ValueError(
                    f"{part.paths[0]} must have the {what} of {parts[0].paths[0]}, {one}, to be "
                    f"a part of one log. Received: {two}."
                )
    counts = [len(part) for part in parts]
    joined: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Entries)
        if isinstance(getattr(parts[0], field.name), np.ndarray)
    }
    joined["shard"] = np.repeat(np.arange(len(parts)), counts)
    digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    whole = dataclasses.replace(
        parts[0],
        path=pathlib.Path(path),
        paths=tuple(part.paths[0] for part in parts),
        facts=_joined_facts(parts),
        cut=any(part.cut for part in parts),
        sha256=digest,
        **joined,
    )
    if len(whole) == 0:
        raise ValueError(f"{path} has headers, but no complete line.")
    order = np.argsort(whole.idx, kind="stable")
    again = np.flatnonzero(np.diff(whole.idx[order]) == 0)
    if len(again):
        one, two = order[again[0]], order[again[0] + 1]
        raise ValueError(
            f"{whole.where(two)}: idx {whole.idx[two]} is already in {whole.where(one)}."
        )
    return whole


def _without_data(hashes: Any) -> Any:
    """Parts have data of their own, but model and settings in common."""
    if not isinstance(hashes, dict):
        return hashes
    return {key: value for key, value in hashes.items() if key != "data"}


def _joined_facts(parts: Sequence[Entries]) -> dict[str, Any] | None:
    """The facts of the first part, with the hashes of everybody's data."""
    if parts[0].facts is None or not isinstance(parts[0].hashes, dict):
        return parts[0].facts
    data = [str(part.hashes.get("data")) for part in parts]
    return {**parts[0].facts, "hashes": {**parts[0].hashes, "data": " ".join(data)}}


def _read_file(path: pathlib.Path, name: str) -> Entries:
    log = logs.read(path)
    verdicts = log.kind == "certify"

    def column(title: str, kind: type) -> np.ndarray:
        return np.array([entry[title] for entry in log.entries], kind)

    predict, label = column("predict", np.int64), column("label", np.int64)
    verdict = column("verdict", object).astype(str) if verdicts else None
    stated = column("correct", bool) if verdict is None else verdict != "misclassified"
    correct = (predict == label) & (predict >= 0)
    # The lines are whole and none is empty, so the place gives the line's number.
    odd = np.flatnonzero(stated != correct)
    if len(odd):
        said = "correct" if verdict is None else "verdict"
        place = odd[0]
        raise ValueError(
            f"{path}:{place + 2}: {said} contradicts predict and label. Received: {said}="
            f"{log.entries[place][said]}, predict={predict[place]}, label={label[place]}"
            + (f"; so do {len(odd) - 1} more lines." if len(odd) > 1 else ".")
        )
    return Entries(
        name=name,
        path=path,
        paths=(path,),
        kind=log.kind,
        columns=log.columns,
        idx=column("idx", np.int64),
        label=label,
        correct=correct,
        abstained=predict < 0,
        radius=column("radius", np.float64) if "radius" in log.columns else None,
        seconds=column("seconds" if verdicts else "time", np.float64),
        verdict=verdict,
        margin=column("margin", np.float64) if verdicts else None,
        method=column("method", object).astype(str) if verdicts else None,
        shard=np.zeros(len(log.entries), np.int64),
        line=np.arange(len(log.entries)) + 2,
        facts=log.facts,
        cut=bool(log.cut),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
