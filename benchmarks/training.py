"""Cost of a training step of each objective, beside auto_LiRPA's where that can be imported.

    python benchmarks/training.py --out=benchmarks/results/training_cpu
    python benchmarks/training.py --objectives=plain,ibp --batches=128,256 --jit=true

docs/benchmarks.md tells how to read the table.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import machine
import timing
import training_peer
import training_subject
from absl import app, flags

_OBJECTIVES = flags.DEFINE_list(
    "objectives", list(training_subject.OBJECTIVES), "What to time; plain is always timed."
)
_MODEL = flags.DEFINE_string("model", "dm_small", "One of tfcert.models, on 28x28x1 inputs.")
_BATCHES = flags.DEFINE_list("batches", ["128", "256"], "Samples in a step.")
_EPS = flags.DEFINE_float("eps", 0.1, "Radius.", lower_bound=0.0)
_REPEATS = flags.DEFINE_integer("repeats", 15, "Timed steps per row and side.", lower_bound=1)
_MAX_SECONDS = flags.DEFINE_float("max_seconds_per_row", 30.0, "After it no further step starts.")
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for a side.", lower_bound=1)
_PEER = flags.DEFINE_bool("peer", True, "Whether auto_LiRPA runs beside tfcert.")
_JIT = flags.DEFINE_bool(
    "jit", None, "Whether steps are compiled by XLA. Default: tfcert's choice."
)
_ONEDNN = flags.DEFINE_bool("onednn", None, "Sets TF_ENABLE_ONEDNN_OPTS. Default: as it is.")
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    objective: str
    model: str
    batch: int
    eps: float
    jit: bool | None
    onednn: bool | None


def _measure(case: Case, peer: bool) -> dict[str, Any]:
    sides = ["training_subject"]
    if peer and case.objective in training_peer.OBJECTIVES and case.model == "dm_small":
        sides.append("training_peer")
    found = timing.measure(
        sides, case, _THREADS.value, _REPEATS.value, 2, _MAX_SECONDS.value, max_memory_gb=16.0
    )
    row: dict[str, Any] = dataclasses.asdict(case)
    for side, prefix in (("training_subject", "tfcert"), ("training_peer", "peer")):
        measured = found.get(side, timing.Measurement())
        row[f"{prefix}_ms"] = measured.median
        row[f"{prefix}_first_ms"] = measured.first
        row[f"{prefix}_memory_mb"] = measured.memory
        row[f"{prefix}_samples_per_second"] = 1e3 * case.batch / measured.median
        row[f"{prefix}_failure"] = measured.failure
    return row


def _line(row: dict[str, Any], plain: dict[str, Any]) -> str:
    times = row["tfcert_ms"] / plain["tfcert_ms"]
    text = f"{row['objective']:<12}{row['batch']:>6}{row['tfcert_ms']:>10.1f}"
    text += f"{row['tfcert_samples_per_second']:>12.0f}{times:>9.1f}"
    if row["peer_ms"] == row["peer_ms"]:  # Not NaN.
        text += f"{row['peer_ms']:>10.1f}{row['peer_ms'] / plain['peer_ms']:>9.1f}"
        text += f"{row['peer_ms'] / row['tfcert_ms']:>9.2f}"
    for side in ("tfcert", "peer"):
        if row[f"{side}_failure"]:
            text += f"\n    {side}: {row[f'{side}_failure']}"
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if value == value else None
    return value


def main(argv: Sequence[str]) -> None:
    """Measures every row and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    unknown = set(_OBJECTIVES.value) - set(training_subject.OBJECTIVES)
    if unknown:
        known = ", ".join(training_subject.OBJECTIVES)
        raise app.UsageError(f"--objectives are of {known}. Received: {', '.join(unknown)}.")
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(_THREADS.value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/training.py", *sys.argv[1:]])}
    facts |= machine.facts(_THREADS.value)
    for side in ("training_subject", "training_peer") if _PEER.value else ("training_subject",):
        found = timing.probe(side, _THREADS.value)
        facts |= found if isinstance(found, dict) else {side: f"left out: {found}"}
    peer = "auto_LiRPA" in facts
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print("\nobjective    batch   ms/step   samples/s  x plain   peer ms  x plain   faster")
    rows = []
    for batch in map(int, _BATCHES.value):
        plain: dict[str, Any] = {}
        for name in ["plain", *[n for n in _OBJECTIVES.value if n != "plain"]]:
            case = Case(name, _MODEL.value, batch, _EPS.value, _JIT.value, _ONEDNN.value)
            row = _measure(case, peer)
            plain = plain or row
            rows.append({name: _plain(value) for name, value in row.items()})
            print(_line(row, plain), flush=True)
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
