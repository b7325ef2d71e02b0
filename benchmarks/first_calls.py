"""How long a person waits for the first bounds of a network, beside auto_LiRPA in the same run.

    python benchmarks/first_calls.py --out=benchmarks/results/first_calls

Every row is a fresh process for each side. tfcert is called until it has compiled a program, which
the second call does or, where a call takes seconds, the fifth; then some times more, and once with
another batch size. A second process does the same with XLA.
docs/benchmarks.md tells how to read the tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cases
import machine
import timing
from absl import app, flags

_NETWORKS = flags.DEFINE_list(
    "networks",
    ["kw_mnist", "cifar_2c2f", "resnet2b", "resnet4b", "cnn7_w16", "acas"],
    "Built-in networks, with random weights.",
)
_METHODS = flags.DEFINE_list(
    "methods", ["ibp", "crown-ibp", "crown", "alpha-crown"], "Methods to time."
)
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for each side.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random weights and inputs.")
_XLA = flags.DEFINE_bool("xla", True, "Whether tfcert is measured with XLA, too.")
_PEER = flags.DEFINE_bool("peer", True, "Whether auto_LiRPA runs beside tfcert.")
_OUT = flags.DEFINE_string(
    "out", None, "Path of the written table, without ending: OUT.tsv and OUT.json."
)

_PARTS = ("first", "compiling", "tracing", "optimising", "later", "other_batch")


def _calls(case: cases.Case) -> tuple[dict[str, float], str]:
    """Seconds by part, and why there are none."""
    found = timing.call_once("first_calls_subject", case, _THREADS.value)
    return (dict.fromkeys(_PARTS, math.nan), found) if isinstance(found, str) else (found, "")


def _row(network: str, method: str, sides: Sequence[str]) -> dict[str, Any]:
    case = cases.Case(
        network=cases.random_network(network, _SEED.value),
        method=method,
        batch=1,
        seed=_SEED.value,
        iterations=20,
        learning_rate=0.1,
        jit_compile=None,
    )
    parts, failure = _calls(case)
    row: dict[str, Any] = {"network": network, "method": method, **parts, "failure": failure}
    if _XLA.value:
        compiled, failure = _calls(dataclasses.replace(case, jit_compile=True))
        # The first call compiles.
        row["xla_start"], row["xla_later"] = compiled["first"], compiled["later"]
        row["failure"] = row["failure"] or failure
    row["peer_first"] = row["peer_later"] = math.nan
    if "peer" in sides:
        limits = {"repeats": 5, "warmup": 1, "max_seconds": 10.0, "max_memory_gb": 12.0}
        found = timing.measure(["peer"], case, _THREADS.value, **limits)["peer"]
        row["peer_first"], row["peer_later"] = found.first / 1e3, found.median / 1e3
    return row


def _columns() -> list[str]:
    return [
        *_PARTS,
        *(["xla_start", "xla_later"] if _XLA.value else []),
        "peer_first",
        "peer_later",
    ]


def _text(row: dict[str, Any]) -> str:
    numbers = " ".join(f"{row[part]:>11.3f}" for part in _columns())
    return f"{row['network']:<12}{row['method']:<12}{numbers}  {row['failure']}".rstrip()


def main(argv: Sequence[str]) -> None:
    """Measures every row and prints it as it comes; seconds."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(_THREADS.value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/first_calls.py", *sys.argv[1:]])}
    facts |= machine.facts(_THREADS.value)
    sides = []
    for side in ("subject", "peer") if _PEER.value else ("subject",):
        found = timing.probe(side, _THREADS.value)
        if isinstance(found, dict):
            sides.append(side)
            facts |= found
        else:
            facts[side] = f"left out, it cannot be imported here: {found}"
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    columns = " ".join(f"{part:>11}" for part in _columns())
    print(f"\n{'network':<12}{'method':<12}{columns}", flush=True)
    rows = []
    for network in _NETWORKS.value:
        for method in _METHODS.value:
            rows.append(_row(network, method, sides))
            print(_text(rows[-1]), flush=True)
    if _OUT.value:
        path = pathlib.Path(_OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = [
            {k: (v if v == v else None) if isinstance(v, float) else v for k, v in row.items()}
            for row in rows
        ]
        text = json.dumps({"facts": facts, "rows": plain}, indent=1) + "\n"
        path.with_name(path.name + ".json").write_text(text, encoding="utf-8")
        lines = [f"# {name}: {value}" for name, value in facts.items()] + ["\t".join(rows[0])]
        lines += [
            "\t".join(f"{v:.4g}" if v.__class__ is float else str(v) for v in row.values())
            for row in rows
        ]
        path.with_name(path.name + ".tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
