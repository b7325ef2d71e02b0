"""Writes and checks proofs of instances of the verification competition.

    python benchmarks/proofs.py --benchmarks=acasxu --out=benchmarks/results/proofs_acasxu
    python benchmarks/proofs.py --least_parts=20 --leaves=100000 --total_seconds=3600
    python benchmarks/proofs.py --benchmarks=acasxu --ranges=4 --leaves=100000

The instances whose known answer is unsat are proved with ``certificate=``, those with few parts in
the results of ``vnncomp.py --methods=verify`` first. With ``--ranges`` the networks of the
instances are asked more: on random parts of the box of each property, a quarter as long on each
side, no output leaves the range that random inputs show, made wider by half on both sides. This
question has two cases for each output. Every proof is checked again, in a process of its own that
imports nothing of tfcert. The program fails where a written proof is refused.

Times are those of processors, so that other work on the machine changes them little.
"""

from __future__ import annotations

import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
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


_RANGES = flags.DEFINE_integer("ranges", 0, "Prove ranges of outputs on so many boxes.", 0)
_KEEP = flags.DEFINE_string("keep", None, "A folder to keep all proofs and their properties in.")

# Random inputs of a range, the edges of its box, and what it is wider by: shares.
_DRAWN, _EDGE, _ROOM = 20_000, 0.25, 0.5


class Task(NamedTuple):
    """One question to prove: an instance, or a range of outputs on a part of its box."""

    instance: vnncomp.Instance
    part: int | None = None  # Of the box, for ranges: the number that seeds it.

    @property
    def title(self) -> str:
        name = self.instance.property.name
        return name if self.part is None else f"range on part {self.part} of {name}"

    def question(self, model: keras.Model, seed: int) -> tuple[Any, ...]:
        """The arguments of ``tfcert.verify`` behind the model."""
        asked = interchange.read_vnnlib(self.instance.property)
        if self.part is None:
            return (asked,)
        rng, box = np.random.default_rng([seed, self.part]), asked.cases[0]
        radius = 0.5 * _EDGE * (box.upper - box.lower)
        middle = rng.uniform(box.lower + radius, box.upper - radius)
        points = middle + rng.uniform(-radius, radius, (_DRAWN, len(middle)))
        shape = model.input_shape[1:]
        outputs = model.predict(points.reshape(-1, *shape).astype("float32"), verbose=0)
        least, most = outputs.min(axis=0), outputs.max(axis=0)
        room = _ROOM * (most - least)
        x, lower, upper = (
            end.reshape(1, *shape).astype("float32")
            for end in (middle, middle - radius, middle + radius)
        )
        return tfcert.properties.OutputRange(least - room, most + room), x, tfcert.Box(lower, upper)


def parts_of(out: pathlib.Path) -> dict[tuple[str, str], int]:
    """How many parts a search bounds, by the names of network and property."""
    rows = json.loads(out.read_text())["rows"]
    return {(row["network"], row["property"]): row["domains"] for row in rows}


def tasks(found: Sequence[vnncomp.Instance]) -> Iterator[Task]:
    """The instances that hold, those with few parts first; or ranges."""
    for part in range(_RANGES.value):
        for place, one in enumerate(found):
            yield Task(one, part * len(found) + place)
    if _RANGES.value:
        return
    parts = parts_of(pathlib.Path(__file__).parent / "results/verify.json")
    sizes = [parts.get((one.network.name, one.property.name), 0) for one in found]
    for size, one in sorted(zip(sizes, found, strict=True), key=lambda entry: entry[0]):
        if one.expected == "unsat" and _LEAST.value <= size <= (_MOST.value or size):
            yield Task(one)


def prove(task: Task, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Writes a proof and checks it."""
    instance = task.instance
    model = interchange.load_onnx(instance.network)
    question = task.question(model, seed)
    path = folder / "proof.npz"
    path.unlink(missing_ok=True)
    begin = time.process_time()
    outcome = tfcert.verify(
        model, *question, time_limit=instance.limit, seed=seed, certificate=path
    )
    row: dict[str, Any] = {
        "benchmark": instance.benchmark,
        "network": instance.network.name,
        "property": task.title,
        "limit": instance.limit,
        "verdict": outcome.verdict,
        "method": outcome.method,
        "proving_seconds": round(time.process_time() - begin, 2),
        "notes": list(outcome.notes),
    }
    if outcome.certificate is not None:
        with np.load(path) as file:
            row["leaves"] = int((file["kind"] == 0).sum())
        row["bytes"] = path.stat().st_size
        asked = instance.property if task.part is None else path.with_suffix(".vnnlib")
        begin = _spent_by_children()
        command = [sys.executable, "-m", "tfcert_check", instance.network, asked, path]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        row["checking_seconds"] = round(_spent_by_children() - begin, 2)
        row["checker"] = found.stdout.strip()
        if _KEEP.value is not None:
            _keep(pathlib.Path(_KEEP.value), row, (asked, path))
    return row


def _spent_by_children() -> float:
    """Seconds of processors that processes have used that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _keep(folder: pathlib.Path, row: Mapping[str, Any], files: Sequence[pathlib.Path]) -> None:
    own = folder / f"{row['network']} {row['property']}"
    own.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, own)


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['network'][:20]} {row['property'].replace('.vnnlib.gz', '')[:26]}"
    text = f"{name:<50}{row['verdict']:<10}prove {row['proving_seconds']:.1f} s"
    if "leaves" in row:
        text += f", check {row['checking_seconds']:.1f} s, "
        text += f"{row['leaves']} leaves, {row['bytes'] / 1e6:.2f} MB: {row['checker']}"
    return text + "".join(f" {note}" for note in row["notes"])


def main(argv: Sequence[str]) -> None:
    """Proves every instance and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    settings = flags.FLAGS
    facts = {"command": " ".join(["python benchmarks/proofs.py", *sys.argv[1:]])}
    facts |= machine.facts(2)
    found = vnncomp.instances(pathlib.Path(settings.folder), settings.benchmarks, settings.limit)
    begin, rows, leaves = time.perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(found):
            if _TOTAL.value is not None and time.perf_counter() - begin > _TOTAL.value:
                break
            if settings.seconds is not None:
                task = task._replace(instance=task.instance._replace(limit=settings.seconds))
            row = prove(task, pathlib.Path(folder), settings.seed)
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
