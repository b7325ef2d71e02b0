"""A log as arrays, one entry per input."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from tfcert import logs

__all__ = ["Entries", "read"]


@dataclasses.dataclass(frozen=True)
class Entries:
    """The inputs that a log tells of, in its order.

    Attributes:
        name: What the log is called in tables and figures.
        path: The log; its counterexamples lie beside it.
        kind: "smoothing" (radii that hold with a chosen probability) or "certify" (verdicts).
        idx: Each input's place in its data set. int64, no place twice.
        label: Its class. int64.
        correct: Whether the classifier is right there. bool.
        abstained: Whether it gave no class (-1). bool.
        radius: The certified radius; None where the log has none. float64.
        seconds: float64.
        verdict: "verified", "falsified", "misclassified" or "unknown"; None for smoothing.
        margin: The lower bound of the margin; None for smoothing. float64.
        method: What decided; None for smoothing.
        facts: The facts of the run, from ``<log>.json``; None where there is no such file.
        cut: Whether the log ends in the middle of a line, which was left out.
        sha256: Of the log.
    """

    name: str
    path: pathlib.Path
    kind: str
    idx: np.ndarray
    label: np.ndarray
    correct: np.ndarray
    abstained: np.ndarray
    radius: np.ndarray | None
    seconds: np.ndarray
    verdict: np.ndarray | None
    margin: np.ndarray | None
    method: np.ndarray | None
    facts: dict[str, Any] | None
    cut: bool
    sha256: str

    def __len__(self) -> int:
        return len(self.idx)

    def robust_radius(self) -> np.ndarray:
        """``radius * correct``: how far each input is certified to be classified correctly."""
        if self.radius is None:
            raise ValueError(f"{self.path} has no column named radius.")
        return np.where(self.correct, self.radius, 0.0)

    def certified(self, radius: float) -> np.ndarray:
        """Which inputs are correct with a certified radius of at least `radius`."""
        if self.radius is None:
            raise ValueError(f"{self.path} has no column named radius.")
        return self.correct & (self.radius >= radius)

    def select(self, chosen: np.ndarray) -> Entries:
        """The entries where `chosen`, an array of bools, is true."""
        columns = {
            field.name: value[chosen]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **columns)

    def verdicts(self, *names: str) -> np.ndarray:
        """Which inputs have one of these verdicts."""
        if self.verdict is None:
            raise ValueError(f"{self.path} has no column named verdict.")
        return np.isin(self.verdict, names)


def read(path: str | os.PathLike[str], name: str | None = None) -> Entries:
    """Reads a log of either kind into arrays.

    Args:
        path: A log of ``tfcert.certify`` or of smoothing, of tfcert or with the same columns.
        name: What to call it. Default: the file's name without its ending.

    Raises:
        ValueError: Lines are malformed, contradict themselves or are missing; the message has the
            file and the lines' numbers.

    Example:

    >>> entries = tfcert.reporting.read("run.tsv")
    >>> tfcert.reporting.average_certified_radius(entries)
    """
    path = pathlib.Path(path)
    log = logs.read(path)
    if not log.entries:
        raise ValueError(f"{path} has a header and no whole line below it.")
    predict = log.column("predict").astype(np.int64)
    label = log.column("label").astype(np.int64)
    verdict = log.column("verdict") if log.kind == "certify" else None
    stated = log.column("correct") if verdict is None else verdict != "misclassified"
    correct = (predict == label) & (predict >= 0)
    # The lines are whole and none is empty, so the place gives the line's number.
    odd = np.flatnonzero(stated.astype(bool) != correct)
    if len(odd):
        said = "correct" if verdict is None else "verdict"
        place = odd[0]
        raise ValueError(
            f"{path}:{place + 2}: {said} contradicts predict and label. Received: {said}="
            f"{log.entries[place][said]}, predict={predict[place]}, label={label[place]}"
            + (f"; so do {len(odd) - 1} more lines." if len(odd) > 1 else ".")
        )
    return Entries(
        name=path.stem if name is None else name,
        path=path,
        kind=log.kind,
        idx=log.column("idx").astype(np.int64),
        label=label,
        correct=correct,
        abstained=predict < 0,
        radius=log.column("radius").astype(np.float64) if "radius" in log.columns else None,
        seconds=log.column("time" if verdict is None else "seconds").astype(np.float64),
        verdict=verdict,
        margin=None if verdict is None else log.column("margin").astype(np.float64),
        method=None if verdict is None else log.column("method"),
        facts=log.facts,
        cut=bool(log.cut),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
