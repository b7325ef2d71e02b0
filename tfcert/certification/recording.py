"""Findings on their way into the log and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfcert import logs
from tfcert.certification.findings import Findings, Problem
from tfcert.runs import identity

__all__ = ["Recorder", "run_of"]


def run_of(
    model: keras.Model, problem: Problem, settings: dict[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts of a run, with the hashes of what decides its results."""
    return {
        **facts,
        "hashes": {
            "model": identity.of_model(model),
            "data": identity.of_arrays(problem.x, *problem.goal.arrays(), problem.index),
            "region": identity.of_region(problem.region),
            "settings": identity.of_settings(settings),
        },
        "inputs": len(problem.x),
        "settings": settings,
    }


class Recorder:
    """Writes findings as they are reached, and takes over those of an interrupted run.

    Args:
        writer: The log; None where there is none.
        problem: The inputs.
        findings: What is known of them; filled with what the log holds.

    Attributes:
        done: The places of inputs that are in the log.
        rounding: What rounding broke.
    """

    def __init__(self, writer: logs.Writer | None, problem: Problem, findings: Findings):
        self._writer, self._problem, self._findings = writer, problem, findings
        self.done, self.rounding = np.zeros(0, int), list[dict[str, Any]]()
        if writer is not None:
            place_of = {int(idx): place for place, idx in enumerate(problem.index)}
            restored = [self._restore(e, place_of.get(e["idx"])) for e in writer.entries]
            self.done = np.array(restored, int)
            self.rounding = list(writer.facts.get("rounding", []))

    def finish(self, places: list[int]) -> None:
        """Writes inputs; counterexamples first, since a line says that its files are there."""
        if self._writer is None:
            return
        for place in places:
            if self._findings.verdict[place] == "falsified":
                idx = int(self._problem.index[place])
                self._writer.save_counterexample(idx, self._findings.points[place])
        self._writer.write(_entries(self._problem, self._findings, places))

    def broke(self, facts: dict[str, Any]) -> None:
        """Notes that rounding broke a certificate."""
        self.rounding.append(facts)
        if self._writer is not None:
            self._writer.note("rounding", self.rounding)
        warnings.warn(
            f"Input {facts['idx']}: rounding in float32 breaks its certificate, which holds in "
            "float64. Use float_safe=True.",
            stacklevel=2,
        )

    def _restore(self, entry: dict[str, Any], place: int | None) -> int:
        """Takes over what the log knows of an input; returns its place."""
        problem, findings, writer = self._problem, self._findings, self._writer
        assert writer is not None
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
        return place


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
