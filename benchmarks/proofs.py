"""Writes and checks proofs of instances of the verification competition.

    python benchmarks/proofs.py --benchmarks=acasxu --out=benchmarks/results/proofs_acasxu
    python benchmarks/proofs.py --least_parts=20 --leaves=100000 --total_seconds=3600
    python benchmarks/proofs.py --benchmarks=acasxu --room=0.5,0.2 --leaves=100000

The instances whose known answer is unsat are proved with ``certificate=``, those with few parts in
the results of ``vnncomp.py --methods=verify`` first. With ``--room`` the networks of the instances
are asked more: on the box of each property, every output stays in the range that random inputs
show, made wider on both sides by these shares. Every proof is checked again, in a process of its
own that imports nothing of tfcert. The program fails where a written proof is refused.

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
from tfcert import interchange, properties

_LEAVES = flags.DEFINE_integer("leaves", None, "Stop after so many leaves in all.", 1)
_TOTAL = flags.DEFINE_float("total_seconds", None, "Start no instance after so many.", 0.0)
_MOST = flags.DEFINE_integer("most_parts", None, "Only instances of at most so many parts.", 1)
_LEAST = flags.DEFINE_integer("least_parts", 0, "Only instances of at least so many parts.", 0)


_ROOM = flags.DEFINE_list("room", [], "Prove ranges of outputs, wider by these shares.")
_KEEP = flags.DEFINE_string("keep", None, "A folder to keep all proofs and their properties in.")

_DRAWN = 20_000


class Task(NamedTuple):
    """What is proved, and what the rows of results say of it."""

    instance: vnncomp.Instance
    room: float | None = None

    @property
    def title(self) -> str:
        name = self.instance.property.name
        return name if self.room is None else f"range of {name}, room {self.room:g}"

    def question(self, model: keras.Model, seed: int) -> tuple[Any, ...]:
        """The arguments of ``tfcert.verify`` behind the model."""
        asked = interchange.read_vnnlib(self.instance.property)
        if self.room is None:
            return (asked,)
        shape = model.input_shape[1:]
        lower, upper = (
            getattr(asked.cases[0], end).astype("float32").reshape(1, *shape)
            for end in ("lower", "upper")
        )
        share = np.random.default_rng(seed).uniform(size=(_DRAWN, *shape)).astype("float32")
        outputs = model.predict(lower + share * (upper - lower), batch_size=_DRAWN, verbose=0)
        least, most = outputs.min(axis=0), outputs.max(axis=0)
        more = self.room * (most - least)
        middle = 0.5 * lower + 0.5 * upper
        return properties.OutputRange(least - more, most + more), middle, tfcert.Box(lower, upper)


def parts_of(out: pathlib.Path) -> dict[tuple[str, str], int]:
    """How many parts a search bounds, by the names of network and property."""
    rows = json.loads(out.read_text())["rows"]
    return {(row["network"], row["property"]): row["domains"] for row in rows}


def tasks(found: Sequence[vnncomp.Instance], rooms: Sequence[float]) -> Iterator[Task]:
    """The instances that hold, those with few parts first; or ranges, the widest ones first."""
    if not rooms:
        parts = parts_of(pathlib.Path(__file__).parent / "results/verify.json")
        sizes = [parts.get((one.network.name, one.property.name), 0) for one in found]
        for size, one in sorted(zip(sizes, found, strict=True), key=lambda entry: entry[0]):
            if one.expected == "unsat" and _LEAST.value <= size <= (_MOST.value or size):
                yield Task(one)
    for room in sorted(rooms, reverse=True):
        for one in found:
            yield Task(one, room)


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
        asked = instance.property if task.room is None else path.with_suffix(".vnnlib")
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
    name = f"{row['network'][:24]} {row['property'].replace('.vnnlib.gz', '')[:24]}"
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
    rooms = [float(room) for room in _ROOM.value]
    found = vnncomp.instances(pathlib.Path(settings.folder), settings.benchmarks, settings.limit)
    begin, rows, leaves = time.perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(found, rooms):
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
