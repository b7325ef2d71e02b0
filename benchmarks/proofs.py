"""Writes and checks proofs of instances of the verification competition.

    python benchmarks/proofs.py --benchmarks=acasxu --out=benchmarks/results/proofs_acasxu
    python benchmarks/proofs.py --least_parts=20 --leaves=100000 --total_seconds=3600

The instances whose known answer is unsat are proved with ``certificate=``, those with few parts in
the results of ``vnncomp.py --methods=verify`` first. Every proof is checked again, in a process of
its own that imports nothing of tfcert. The program fails where a written proof is refused.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import machine
import numpy as np
import vnncomp
from absl import app, flags

import tfcert
from tfcert import interchange

_LEAVES = flags.DEFINE_integer("leaves", None, "Stop after so many leaves in all.", 1)
_TOTAL = flags.DEFINE_float("total_seconds", None, "Start no instance after so many.", 0.0)
_MOST = flags.DEFINE_integer("most_parts", None, "Only instances of at most so many parts.", 1)
_LEAST = flags.DEFINE_integer("least_parts", 0, "Only instances of at least so many parts.", 0)


def parts_of(out: pathlib.Path) -> dict[tuple[str, str], int]:
    """How many parts a search bounds, by the names of network and property."""
    rows = json.loads(out.read_text())["rows"]
    return {(row["network"], row["property"]): row["domains"] for row in rows}


def prove(instance: vnncomp.Instance, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Writes a proof and checks it."""
    model = interchange.load_onnx(instance.network)
    asked = interchange.read_vnnlib(instance.property)
    path = folder / "proof.npz"
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    outcome = tfcert.verify(model, asked, time_limit=instance.limit, seed=seed, certificate=path)
    whole = time.perf_counter() - begin
    row: dict[str, Any] = {
        "benchmark": instance.benchmark,
        "network": instance.network.name,
        "property": instance.property.name,
        "limit": instance.limit,
        "verdict": outcome.verdict,
        "method": outcome.method,
        "search_seconds": round(outcome.seconds, 2),
        "write_seconds": round(whole - outcome.seconds, 2),
        "notes": list(outcome.notes),
    }
    if outcome.certificate is not None:
        with np.load(path) as file:
            row["leaves"] = int((file["kind"] == 0).sum())
        row["bytes"] = path.stat().st_size
        begin = time.perf_counter()
        command = [sys.executable, "-m", "tfcert_check", instance.network, instance.property, path]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        row["check_seconds"] = round(time.perf_counter() - begin, 2)
        row["checker"] = found.stdout.strip()
    return row


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['network'][:24]} {row['property'].removesuffix('.vnnlib.gz')[:24]}"
    text = f"{name:<50}{row['verdict']:<10}search {row['search_seconds']:.1f} s"
    if "leaves" in row:
        text += f", write {row['write_seconds']:.1f} s, check {row['check_seconds']:.1f} s, "
        text += f"{row['leaves']} leaves, {row['bytes'] / 1e6:.2f} MB: {row['checker']}"
    return text + "".join(f" {note}" for note in row["notes"])


def main(argv: Sequence[str]) -> None:
    """Proves every instance and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    settings = flags.FLAGS
    facts = {"command": " ".join(["python benchmarks/proofs.py", *sys.argv[1:]])}
    facts |= machine.facts(2)
    parts = parts_of(pathlib.Path(__file__).parent / "results/verify.json")
    found = []
    for one in vnncomp.instances(
        pathlib.Path(settings.folder), settings.benchmarks, settings.limit
    ):
        size = parts.get((one.network.name, one.property.name), 0)
        if one.expected == "unsat" and _LEAST.value <= size <= (_MOST.value or size):
            found.append((size, one))
    found.sort(key=lambda entry: entry[0])
    begin, rows, leaves = time.perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for _, one in found:
            if _TOTAL.value is not None and time.perf_counter() - begin > _TOTAL.value:
                break
            if settings.seconds is not None:
                one = one._replace(limit=min(one.limit, settings.seconds))
            row = prove(one, pathlib.Path(folder), settings.seed)
            rows.append(row)
            leaves += row.get("leaves", 0)
            print(_line(row), flush=True)
            if settings.out:
                vnncomp.write(settings.out, facts, rows)
            if _LEAVES.value is not None and leaves >= _LEAVES.value:
                break
    refused = [row for row in rows if row.get("checker", "valid") != "valid"]
    proved = sum("leaves" in row for row in rows)
    print(f"{proved} of {len(rows)} proved, {leaves:,} leaves, {len(refused)} refused.")
    if refused:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
