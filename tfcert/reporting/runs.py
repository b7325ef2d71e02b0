"""The folder of a training run as ``tfcert-train`` leaves it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from tfcert.reporting import values

__all__ = ["Run", "is_run", "read_run"]

_MOST = 1 << 26  # bytes of one of the files


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: What it is called in tables and figures.
        path: The folder.
        facts: Flags, versions and so on, from run.json.
        history: One value per epoch for each quantity, from history.json; empty without it.
        results: Errors on the test set, from results.json; empty until the run has ended.
    """

    name: str
    path: pathlib.Path
    facts: dict[str, Any]
    history: dict[str, np.ndarray]
    results: dict[str, Any]

    def error(self, *keys: str) -> float | None:
        """A number of the results, found key by key; None where there is none."""
        found: Any = self.results
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return values.number(found)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether this is the folder of a training run."""
    return pathlib.Path(path, "run.json").is_file()


def read_run(path: str | os.PathLike[str], name: str | None = None) -> Run:
    """Reads run.json, history.json and results.json of a folder, and nothing else.

    Raises:
        ValueError: There is no run.json, or a file holds something else than it should.
    """
    path = pathlib.Path(path)
    if not is_run(path):
        raise ValueError(f"{path} must be the folder of a training run. Received: no run.json.")
    history: dict[str, np.ndarray] = {}
    for key, found in _read(path / "history.json").items():
        if not isinstance(found, list) or any(values.number(value) is None for value in found):
            raise ValueError(
                f"{path / 'history.json'} must hold lists of numbers. "
                f"Received: {values.short(found)} for {values.short(key)}."
            )
        history[key] = np.array([values.number(value) for value in found], np.float64)
    results = _read(path / "results.json")
    for key in ("attack", "methods"):
        if not isinstance(results.get(key, {}), dict):
            raise ValueError(
                f"{path / 'results.json'} must hold an object for {key}. "
                f"Received: {values.short(results[key])}."
            )
    return Run(
        name=path.resolve().name if name is None else name,
        path=path,
        facts=_read(path / "run.json"),
        history=history,
        results=results,
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > _MOST:
            raise ValueError("it is no file, or too large")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON object. Received: {error}.") from error
    return value
