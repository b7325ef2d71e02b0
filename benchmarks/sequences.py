"""Margins of transformers and recurrent networks, beside auto_LiRPA on the same weights.

    python benchmarks/sequences.py --out=benchmarks/results/sequences

Each side builds its own network of the same random weights, in a process of its own. A row tells
the mean of the least margins over the inputs: lower bounds of both sides, and the values at
attacked points, which no sound bound exceeds.
"""

from __future__ import annotations

import math
import os
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cases
import machine
import timing
from absl import app, flags
from sequences_subject import Question

_NETWORKS = flags.DEFINE_list(
    "networks",
    ["vit_2_3_16", "vit_2_3_16_centering", "lstm_8_32", "gru_8_32", "vit_3_3_16"],
    "Built-in networks.",
)
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown"], "Methods to compare.")
_TIMES = flags.DEFINE_list("times", ["1", "4"], "Radii, in radii of the network.")
_INPUTS = flags.DEFINE_integer("inputs", 2, "Inputs of each network.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random weights and inputs.")
_THREADS = flags.DEFINE_integer("threads", 2, "Processor cores for a side.", lower_bound=1)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "float64"],
    "Type that both sides compute in. In float64 rounding hides no difference of the bounds.",
)
_SECONDS = flags.DEFINE_float(
    "seconds", 1200.0, "Most seconds that one side may take for one network."
)
_PEER = flags.DEFINE_bool("peer", True, "Whether auto_LiRPA runs beside tfcert.")
_OUT = flags.DEFINE_string("out", None, "File for the results, without its ending: OUT.json.")

_SIDES = {"tfcert": "sequences_subject", "auto_LiRPA": "sequences_peer"}


def _rows(network: cases.Network, sides: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each radius and method of a network."""
    radii = [network.eps * float(times) for times in _TIMES.value]
    question = Question(network, _INPUTS.value, radii, _METHODS.value, _DTYPE.value)
    found = {
        side: timing.call_once(_SIDES[side], question, _THREADS.value, _SECONDS.value)
        for side in sides
    }
    rows = []
    for i, eps in enumerate(radii):
        for method in _METHODS.value:
            row: dict[str, Any] = {"network": network.name, "eps": eps, "method": method}
            for side, values in found.items():
                row |= _side(side, values if isinstance(values, str) else values[i], method)
            rows.append(row)
    return rows


def _side(side: str, values: Mapping[str, Any] | str, method: str) -> dict[str, Any]:
    """Returns the margins of one side for a method at one radius, as means over the inputs."""
    failure = values if isinstance(values, str) else values.get(f"{method} failure")
    if failure is not None:
        return {f"{side} failure": failure}
    known = {side: values[method], f"{side} cpu": values[f"{method} cpu"]}
    known |= {name: values[name] for name in ("clean", "attacked") if name in values}
    means = {name: statistics.fmean(numbers) for name, numbers in known.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def main(argv: Sequence[str]) -> None:
    """Measures every network and prints its rows as they come."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    root = str(pathlib.Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    facts = {"command": " ".join(["python benchmarks/sequences.py", *sys.argv[1:]])}
    facts |= machine.facts(_THREADS.value)
    for module in ("subject", "peer") if _PEER.value else ("subject",):
        known = timing.probe(module, _THREADS.value)
        if isinstance(known, str):
            raise app.UsageError(f"{module} cannot run: {known} Use --nopeer to leave it out.")
        facts |= known
    sides = list(_SIDES) if _PEER.value else ["tfcert"]
    rows: list[dict[str, Any]] = []
    for name in _NETWORKS.value:
        for row in _rows(cases.random_network(name, _SEED.value), sides):
            rows.append(row)
            print(row, flush=True)
        if _OUT.value:
            machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
