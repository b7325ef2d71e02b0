"""Parts bounded a second in branch and bound, beside auto_LiRPA on the same parts.

    python benchmarks/branching.py --out=benchmarks/results/branching

tfcert splits an instance until there are enough parts. Then both sides bound the same batch, each
in a process of its own. Of ACAS Xu, parts are boxes of inputs, and all hidden values are bounded
anew by CROWN. Of the other networks, some units of each part have a sign. Both sides get the same
intervals of all units, signs included, and bound the margins by one sweep: the peer with CROWN's
slopes, tfcert with the slopes and multipliers of the part's parent. Then tfcert alone takes the
steps of its search: ten on slopes and multipliers (beta-CROWN), and the choice of the next unit.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import machine
import timing
from absl import app, flags
from branching_subject import Question

_FOLDER = flags.DEFINE_string(
    "folder", "../shared/vnncomp", "Folder with the instances of the competition."
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for a side.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Most seconds of a side for an instance.")
_PEER = flags.DEFINE_bool("peer", True, "Whether auto_LiRPA runs beside tfcert.")
_OUT = flags.DEFINE_string("out", None, "File for the results, without its ending: OUT.json.")

# The benchmark, network and property of an instance, whether boxes are split, and how many parts.
_INSTANCES = (
    ("acasxu", "ACASXU_run2a_1_1_batch_2000", "prop_3", True, 1024),
    ("mnist_fc", "mnist-net_256x2", "prop_6_0.03", False, 256),
    ("cifar10_resnet", "resnet_2b", "resnet2b_prop_0_eps_0.008", False, 64),
)
_SIDES = {"tfcert": "branching_subject", "auto_LiRPA": "branching_peer"}


def _question(instance: tuple) -> Question:
    benchmark, network, asked, boxes, parts = instance
    folder = pathlib.Path(_FOLDER.value, benchmark)
    return Question(
        *(folder / "onnx" / f"{network}.onnx.gz", folder / "vnnlib" / f"{asked}.vnnlib.gz"),
        *(boxes, parts, _REPEATS.value),
    )


def _rows(instance: tuple, sides: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each way to bound the parts of an instance."""
    question = _question(instance)
    found: dict[str, Any] = {}
    for side, module in sides.items():
        found[side] = timing.call_once(module, question, _THREADS.value, _SECONDS.value)
        if side == "tfcert":
            if isinstance(found[side], str):
                raise RuntimeError(found[side])
            question = question._replace(batch=found[side].pop("batch"))
    rows = []
    for method in found["tfcert"]["seconds"]:
        row: dict[str, Any] = {"benchmark": instance[0], "network": question.network.name}
        row |= {"property": question.property.name, "parts": question.parts, "method": method}
        for side, values in found.items():
            if isinstance(values, str):
                row[f"{side} failure"] = values
                continue
            if method in values["seconds"]:
                row[side] = question.parts / values["seconds"][method]
                mean = values["means"][method]
                row[f"{side} mean"] = mean if math.isfinite(mean) else None
        rows.append(row)
    return rows


def main(argv: Sequence[str]) -> None:
    """Measures every instance and prints its rows as they come."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    root = str(pathlib.Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(_THREADS.value)
    facts = {"command": " ".join(["python benchmarks/branching.py", *sys.argv[1:]])}
    facts |= machine.facts(_THREADS.value)
    sides = dict(_SIDES)
    if not _PEER.value:
        del sides["auto_LiRPA"]
    for module in sides.values():
        known = timing.probe(module, _THREADS.value)
        if isinstance(known, str):
            raise app.UsageError(f"{module} cannot run: {known} Use --nopeer to leave it out.")
        facts |= known
    rows: list[dict[str, Any]] = []
    for instance in _INSTANCES:
        rows += _rows(instance, sides)
        for row in rows[-2:]:
            print({key: value for key, value in row.items() if key != "network"}, flush=True)
        if _OUT.value:
            machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
