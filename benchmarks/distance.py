"""Distances of all pairs, ||x_b - w_j||_p, beside the plain formula, torch.cdist and the machine.

    python benchmarks/distance.py --out=benchmarks/results/distance_cpu
    python benchmarks/distance.py --sizes=784x1024 --batches=128 --exponents=inf,8 --repeats=5

A term is one |x_bi - w_ij|. The machine's limit is what a product of matrices of the same size
reaches in multiply-adds: a term at p = inf takes three instructions of that kind (subtract,
absolute value, maximum), so that its limit is a third of it. docs/benchmarks.md tells how to read
the table.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import machine
import timing
from absl import app, flags
from distance_subject import Case

_SIZES = flags.DEFINE_list("sizes", ["784x1024", "1024x1024", "3072x5120"], "Inputs x units.")
_BATCHES = flags.DEFINE_list("batches", ["128", "512"], "Rows of x.")
_EXPONENTS = flags.DEFINE_list("exponents", ["inf", "8", "50.3"], "Values of p.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Timed calls per row and side.", lower_bound=1)
_MAX_SECONDS = flags.DEFINE_float("max_seconds_per_row", 20.0, "After it no further call starts.")
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for a side.", lower_bound=1)
_FORMULA = flags.DEFINE_bool("formula", True, "Whether the plain formula runs, too.")
_PEER = flags.DEFINE_bool("peer", True, "Whether torch.cdist runs, too.")
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")

_SUBJECT = "distance_subject"
_LIMIT_INSTRUCTIONS = 3


def _milliseconds(side: str, case: Case) -> tuple[float, str]:
    found = timing.measure(
        [side], case, _THREADS.value, _REPEATS.value, 2, _MAX_SECONDS.value, max_memory_gb=12.0
    )[side]
    return found.median, found.failure


def _row(case: Case, sides: Sequence[str], limit: float) -> dict[str, Any]:
    found = timing.measure(
        sides, case, _THREADS.value, _REPEATS.value, 2, _MAX_SECONDS.value, max_memory_gb=12.0
    )
    terms = case.batch * case.inputs * case.units
    ours = found[_SUBJECT].median
    row: dict[str, Any] = {
        "batch": case.batch,
        "inputs": case.inputs,
        "units": case.units,
        "p": "inf" if case.p == math.inf else case.p,
        "backward": case.backward,
        "tfcert_ms": ours,
        "tfcert_gterms_per_s": terms / ours / 1e6,
        "tfcert_memory_mb": found[_SUBJECT].memory,
        "limit_gterms_per_s": limit / _LIMIT_INSTRUCTIONS,
    }
    for side in sides:
        name = side.removeprefix("distance_")
        if side != _SUBJECT:
            row[f"{name}_ms"] = found[side].median
        if found[side].failure:
            row[f"{name}_failure"] = found[side].failure
    return row


def _line(row: dict[str, Any]) -> str:
    size = f"{row['inputs']} -> {row['units']}"
    what = "fwd+bwd" if row["backward"] else "fwd"
    text = f"{size:<14}{row['batch']:>6}{row['p']:>7}{what:>9}{row['tfcert_ms']:>10.1f}"
    text += f"{row['tfcert_gterms_per_s']:>10.2f}"
    for name in ("formula", "peer"):
        times = row.get(f"{name}_ms", math.nan)
        text += f"{times:>11.1f}{times / row['tfcert_ms']:>7.1f}"
    if not row["backward"]:
        text += f"{row['limit_gterms_per_s'] / row['tfcert_gterms_per_s']:>9.2f}"
    failures = [f"\n    {k}: {v}" for k, v in row.items() if k.endswith("failure")]
    return text + "".join(failures)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def main(argv: Sequence[str]) -> None:
    """Measures every row and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(_THREADS.value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/distance.py", *sys.argv[1:]])}
    facts |= machine.facts(_THREADS.value)
    sides = [_SUBJECT]
    for side, wanted in (("distance_formula", _FORMULA.value), ("distance_peer", _PEER.value)):
        found = timing.probe(side, _THREADS.value) if wanted else "not asked for"
        facts |= found if isinstance(found, dict) else {side: f"left out: {found}"}
        sides += [side] if isinstance(found, dict) else []
    limits = {}
    sizes = [tuple(map(int, size.split("x"))) for size in _SIZES.value]
    for inputs, units in sizes:
        for batch in map(int, _BATCHES.value):
            milliseconds, failure = _milliseconds(_SUBJECT, Case(batch, inputs, units, 0.0, False))
            if failure:
                raise RuntimeError(failure)
            limits[inputs, units, batch] = batch * inputs * units / milliseconds / 1e6
    peak = max(limits.values())
    facts["multiply-adds"] = f"{peak:.1f} G/s, the fastest product of matrices of these sizes"
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(
        "\nsize           batch      p               ms   Gterm/s  formula ms  times   "
        "cdist ms  times  limit x"
    )
    rows = []
    for inputs, units in sizes:
        for batch in map(int, _BATCHES.value):
            for p in map(float, _EXPONENTS.value):
                for backward in (False, True):
                    row = _row(Case(batch, inputs, units, p, backward), sides, peak)
                    rows.append({name: _plain(value) for name, value in row.items()})
                    print(_line(row), flush=True)
                    if _OUT.value:
                        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
