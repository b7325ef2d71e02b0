"""Time, memory and tightness of the bounds, beside auto_LiRPA where that can be imported.

    python benchmarks/bounds.py --out=bounds
    python benchmarks/bounds.py --networks=kw_mnist --batches=1 --methods=ibp,crown
    KERAS_BACKEND=jax python benchmarks/bounds.py --nopeer

docs/benchmarks.md tells how to read the table.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cases
import graphs
import machine
import numpy as np
import timing
from absl import app, flags

_METHODS = flags.DEFINE_list("methods", list(cases.METHODS), "What to time.")
_BATCHES = flags.DEFINE_list("batches", ["1", "16", "64"], "Batch sizes.")
_NETWORKS = flags.DEFINE_list(
    "networks",
    [],
    "Networks by name, from the reference folder or built in. Default: the convolutional ones of "
    f"that folder, or without it the built-in {', '.join(graphs.GRAPHS)}.",
)
_REFERENCE_DIR = flags.DEFINE_string(
    "reference_dir", "../shared/reference", "Folder of bounds/*.npz; it may be missing."
)
_SETTING = flags.DEFINE_string(
    "setting", "linf_moderate", "Setting of the reference files whose radius is used (no clip)."
)
_REPEATS = flags.DEFINE_integer("repeats", 15, "Timed calls per row and side.", lower_bound=1)
_WARMUP = flags.DEFINE_integer(
    "warmup", 4, "Untimed calls after the first; tfcert's fifth compiles.", lower_bound=0
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds_per_row", 30.0, "After it no further call of a side starts.", lower_bound=0.1
)
_MAX_MEMORY = flags.DEFINE_float(
    "max_memory_gb", 16.0, "A side that holds more memory is ended.", lower_bound=0.1
)
_ITERATIONS = flags.DEFINE_integer("iterations", 20, "Of alpha-CROWN.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("peer_learning_rate", 0.1, "Of the peer's alpha-CROWN.")
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for a side.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of random weights and of inputs beyond the stored ones.")
_PEER = flags.DEFINE_bool("peer", True, "Whether auto_LiRPA runs beside tfcert.")
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile", None, "Whether tfcert compiles with XLA. Default: its own choice."
)
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.tsv and OUT.json.")

_OURS, _THEIRS = "subject", "peer"  # Modules of this folder.
_TITLES = {_OURS: "tfcert", _THEIRS: "auto_LiRPA"}
_GOAL = 2.0  # Times as fast as the peer.

flags.register_validator(
    "methods",
    lambda names: set(names) <= set(cases.METHODS),
    f"--methods is a list of {', '.join(cases.METHODS)}.",
)
flags.register_validator(
    "batches",
    lambda sizes: bool(sizes) and all(size.isdigit() and int(size) > 0 for size in sizes),
    "--batches is a list of positive integers.",
)


def _looser(ours: timing.Measurement, lower: np.ndarray, upper: np.ndarray) -> float:
    """How much looser our worst entry is, relative to the largest bound (at least 1)."""
    if ours.lower is None or ours.upper is None:
        return math.nan
    size = len(lower)
    gap = np.maximum(lower - ours.lower[:size], ours.upper[:size] - upper)
    return float(gap.max() / max(1.0, np.abs(lower).max(), np.abs(upper).max()))


def _width(measurement: timing.Measurement) -> float:
    if measurement.lower is None or measurement.upper is None:
        return math.nan
    return float(np.mean(measurement.upper - measurement.lower))


def _agreement(
    case: cases.Case, ours: timing.Measurement, theirs: timing.Measurement
) -> dict[str, float]:
    """Compares our bounds with the peer's and with the stored ones."""
    result = {
        "width": _width(ours),
        "peer_width": _width(theirs),
        "looser": math.nan,
        "differs": math.nan,
        "looser_than_stored": math.nan,
    }
    if theirs.lower is not None and theirs.upper is not None:
        result["looser"] = _looser(ours, theirs.lower, theirs.upper)
        # How much either is looser than the other anywhere.
        if ours.lower is not None and ours.upper is not None:
            reverse = _looser(theirs, ours.lower, ours.upper)
            result["differs"] = max(result["looser"], reverse)
    stored = case.network.stored.get(cases.METHODS[case.method] or "")
    if stored is not None:
        result["looser_than_stored"] = _looser(ours, *(bound[: case.batch] for bound in stored))
    return result


def _record(case: cases.Case, measured: Mapping[str, timing.Measurement]) -> dict[str, Any]:
    """One row of the table."""
    ours = measured[_OURS]
    theirs = measured.get(_THEIRS, timing.Measurement())
    record: dict[str, Any] = {
        "network": case.network.name,
        "source": case.network.source,
        "eps": case.network.eps,
        "batch": case.batch,
        "method": case.method,
    }
    record |= {f"tfcert_{name}": value for name, value in ours.row().items()}
    record |= {f"peer_{name}": value for name, value in theirs.row().items()}
    record["times_faster"] = theirs.median / ours.median
    return record | _agreement(case, ours, theirs)


def _number(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent where that stays short."""
    if math.isnan(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(decimals, 0)}f}"
    return f"{value:.1e}"


_COLUMNS = {
    "network": 15,
    "batch": 6,
    "method": 12,
    "ms": 9,
    "first": 9,
    "MB": 7,
    "peer ms": 9,
    "first ": 9,
    "MB ": 7,
    "faster": 8,
    "width": 9,
    "/ peer": 8,
    "looser": 9,
}


def _line(values: Sequence[str]) -> str:
    cells = zip(values, _COLUMNS.values(), strict=True)
    text = "".join(
        f"{value:<{width}}" if column == 0 else f"{value:>{width}}"
        for column, (value, width) in enumerate(cells)
    )
    return text.rstrip()


def _text(record: Mapping[str, Any]) -> str:
    ratio = record["width"] / record["peer_width"] if record["peer_width"] else math.nan
    values = [record["network"], str(record["batch"]), record["method"]]
    numbers = [record[f"tfcert_{name}"] for name in ("median", "first", "memory")]
    numbers += [record[f"peer_{name}"] for name in ("median", "first", "memory")]
    values += [_number(value) for value in numbers]
    values += [_number(record["times_faster"]), _number(record["width"]), _number(ratio)]
    line = _line([*values, _number(record["looser"], 2)])
    for side, title in (("tfcert", "tfcert"), ("peer", _TITLES[_THEIRS])):
        if record[f"{side}_failure"]:
            line += f"\n    {title}: {record[f'{side}_failure']}"
    return line


def _write(out: str, facts: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> None:
    """Writes all rows so far, so that an interrupted run keeps what it measured."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return float(f"{value:.6g}") if math.isfinite(value) else None

    rows = [{name: plain(value) for name, value in record.items()} for record in records]
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"facts": facts, "rows": rows}
    path.with_name(path.name + ".json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"# {name}: {value}" for name, value in facts.items()]
    lines += ["\t".join(rows[0])]
    lines += ["\t".join("" if v is None else str(v) for v in row.values()) for row in rows]
    path.with_name(path.name + ".tsv").write_text("\n".join(lines) + "\n")


def _command() -> str:
    """The command line, without where on this machine the file lies."""
    names = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")
    variables = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return " ".join([*variables, "python benchmarks/bounds.py", *sys.argv[1:]])


def _sides(facts: dict[str, str]) -> list[str]:
    """The sides that can run, tfcert first; adds what they say of themselves to the facts."""
    sides = []
    for side in (_OURS, _THEIRS) if _PEER.value else (_OURS,):
        found = timing.probe(side, _THREADS.value)
        if isinstance(found, dict):
            sides.append(side)
            facts.update(found)
        elif side == _OURS:
            raise app.UsageError(f"tfcert cannot run: {found}")
        else:
            facts[_TITLES[side]] = f"left out, it cannot be imported here: {found}"
    if not _PEER.value:
        facts[_TITLES[_THEIRS]] = "left out by --nopeer"
    return sides


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    compared = [
        r for r in records if not math.isnan(r["times_faster"]) and r["method"] != "forward"
    ]
    if not compared:
        return "No row compares tfcert with the peer."
    slow = [r for r in compared if r["times_faster"] < _GOAL]
    text = (
        f"At least {_GOAL:g} times as fast in {len(compared) - len(slow)} of {len(compared)} rows."
    )
    if slow:
        names = [f"{r['network']} {r['batch']} {r['method']}" for r in slow]
        text += f" Not in: {', '.join(names)}."
    worst = max(compared, key=lambda r: -math.inf if math.isnan(r["looser"]) else r["looser"])
    where = f"{worst['network']} {worst['batch']} {worst['method']}"
    return f"{text}\nWorst entry against the peer: {_number(worst['looser'], 2)} ({where})."


def main(argv: Sequence[str]) -> None:
    """Measures every row and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    # Before the first process starts: the libraries read them while they are imported.
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(_THREADS.value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    networks = cases.find(_NETWORKS.value, _REFERENCE_DIR.value, _SETTING.value, _SEED.value)
    facts = {"command": _command(), "seed": str(_SEED.value)}
    facts |= machine.facts(_THREADS.value)
    sides = _sides(facts)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print("\n" + _line(list(_COLUMNS)), flush=True)
    records: list[dict[str, Any]] = []
    for network in networks:
        for batch in map(int, _BATCHES.value):
            for method in _METHODS.value:
                case = cases.Case(
                    network=network,
                    method=method,
                    batch=batch,
                    seed=_SEED.value,
                    iterations=_ITERATIONS.value,
                    learning_rate=_LEARNING_RATE.value,
                    jit_compile=_JIT_COMPILE.value,
                )
                measured = timing.measure(
                    sides,
                    case,
                    _THREADS.value,
                    repeats=_REPEATS.value,
                    warmup=_WARMUP.value,
                    max_seconds=_MAX_SECONDS.value,
                    max_memory_gb=_MAX_MEMORY.value,
                )
                records.append(_record(case, measured))
                print(_text(records[-1]), flush=True)
                if _OUT.value:
                    _write(_OUT.value, facts, records)
    print("\n" + _summary(records))


if __name__ == "__main__":
    app.run(main)
