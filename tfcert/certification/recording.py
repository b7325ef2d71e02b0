"""How findings get into the log and back."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcert import logs, provenance
from tfcert.certification.findings import Findings, Problem

__all__ = ["restore", "session", "write"]


def session() -> dict[str, Any]:
    """What may change when a run goes on."""
    return {
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
    }


def restore(writer: logs.Writer | None, problem: Problem, findings: Findings) -> np.ndarray:
    """Takes over what the log knows; returns the places of these inputs."""
    if writer is None or not writer.entries:
        return np.zeros(0, int)
    place_of = {int(idx): place for place, idx in enumerate(problem.index)}
    for entry in writer.entries:
        place = place_of.get(entry["idx"])
        if place is None or entry["label"] != problem.y[place]:
            raise ValueError(
                f"{writer.path} has a line for input {entry['idx']} with label {entry['label']}, "
                "which is not in the data. The file was changed."
            )
        for name in ("predict", "verdict", "margin", "method", "seconds"):
            getattr(findings, name)[place] = entry[name]
        findings.radius[place] = entry.get("radius", 0.0)
        if entry["verdict"] == "falsified":
            point = logs.read_counterexample(writer.path, entry["idx"])
            if point is None or point.shape != problem.x.shape[1:]:
                raise ValueError(
                    f"{logs.counterexample_path(writer.path, entry['idx'])} must hold the "
                    "counterexample of a falsified input. The file was removed or changed."
                )
            findings.points[place] = point
    return np.array([place_of[entry["idx"]] for entry in writer.entries])


def write(writer: logs.Writer, problem: Problem, findings: Findings, places: list[int]) -> None:
    """Counterexamples first: a line says that its files are there."""
    for place in places:
        if findings.verdict[place] == "falsified":
            writer.save_counterexample(int(problem.index[place]), findings.points[place])
    writer.write(_entries(problem, findings, places))


def _entries(problem: Problem, findings: Findings, places: list[int]) -> Iterator[dict[str, Any]]:
    for place in places:
        yield {
            "idx": int(problem.index[place]),
            "label": int(problem.y[place]),
            "predict": int(findings.predict[place]),
            "verdict": findings.verdict[place],
            "margin": float(findings.margin[place]),
            "method": findings.method[place],
            "seconds": round(float(findings.seconds[place]), 6),
            "radius": float(findings.radius[place]),
        }
