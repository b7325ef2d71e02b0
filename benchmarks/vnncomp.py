"""Decides instances of the verification competition, method by method, against known answers.

    python benchmarks/vnncomp.py --out=benchmarks/results/vnncomp
    python benchmarks/vnncomp.py --benchmarks=acasxu --methods=attack,crown
    python benchmarks/vnncomp.py --methods=verify --seconds=30 --out=benchmarks/results/verify

The folder of instances is described in docs/benchmarks.md. The program fails where a method says
something else than the known answer.
"""

from __future__ import annotations

import csv
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import machine
import numpy as np
from absl import app, flags
from keras import ops

import tfcert
from tfcert import interchange
from tfcert.bounds import methods
from tfcert.interchange import properties

_FOLDER = flags.DEFINE_string("folder", "../shared/vnncomp", "Where expected.csv lies.")
_BENCHMARKS = flags.DEFINE_list("benchmarks", [], "Those to run. Default: all.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only so many instances of each.", 1)
_SECONDS = flags.DEFINE_float(
    "seconds", None, "Most seconds for an instance. Default: the competition's limit.", 0.0
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides where attacks start.")
_OUT = flags.DEFINE_string("out", None, "Where to write all rows: OUT.json.")

# What proves an instance, from the fastest to the tightest.
PROOFS: Mapping[str, Any] = {
    "ibp": methods.IBP(),
    "crown-ibp": methods.CrownIBP(),
    "crown": methods.Crown(),
    "alpha-crown": methods.AlphaCrown(),
    "alpha-crown-all": methods.AlphaCrown(optimize_intermediate=True),
}
METHODS = ("verify", "certify", "attack", *PROOFS)
USUAL = METHODS[1:-1]  # The last takes a minute to compile for each network.
_METHODS = flags.DEFINE_list("methods", list(USUAL), f"What to try: {', '.join(METHODS)}.")
flags.register_validator(
    "methods",
    lambda names: set(names) <= set(METHODS),
    f"--methods is a list of {', '.join(METHODS)}.",
)

# Attacks start from so many points; on images the last ones cost as much as the first.
_STARTS = {"acasxu": 64}  # elsewhere 8


class Instance(NamedTuple):
    """One line of expected.csv."""

    benchmark: str
    network: pathlib.Path
    property: pathlib.Path
    limit: float  # seconds
    expected: str  # sat, unsat or unknown


def instances(folder: pathlib.Path, wanted: Sequence[str], most: int | None) -> list[Instance]:
    """The instances of some benchmarks, or of all."""
    with open(folder / "expected.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    unknown = set(wanted) - set(names)
    if unknown:
        raise app.UsageError(f"--benchmarks has {sorted(unknown)}. There are: {', '.join(names)}.")
    found = []
    for name in wanted or names:
        place = folder / name
        found += [
            Instance(
                name,
                place / row["onnx"],
                place / row["vnnlib"],
                float(row["timeout"]),
                row["verdict"],
            )
            for row in [row for row in rows if row["benchmark"] == name][:most]
        ]
    return found


@functools.cache
def _network(path: pathlib.Path, dtype: str) -> Any:
    return interchange.load_onnx(path, dtype)


def _attack(instance: Instance, asked: interchange.Property, seed: int) -> str:
    """Says sat where a counterexample is found."""
    starts = _STARTS.get(instance.benchmark, 8)
    model = _network(instance.network, "float32")
    point = interchange.find_counterexample(model, asked, steps=50, starts=starts, seed=seed)
    return "sat" if point is not None and _holds(instance, asked, point) else "unknown"


def _holds(instance: Instance, asked: interchange.Property, point: np.ndarray) -> bool:
    """Whether a counterexample is one in float64, too."""
    outputs = _network(instance.network, "float64")(point[None].astype("float64"))
    return bool(asked.is_met(point, ops.convert_to_numpy(outputs)).all())


def _prove(instance: Instance, asked: interchange.Property, method: Any) -> str:
    """Says unsat where bounds prove that there is no counterexample."""
    model = _network(instance.network, "float32")
    return "unsat" if interchange.prove(model, asked, method) else "unknown"


def _verify(instance: Instance, asked: interchange.Property, seed: int) -> tuple[str, int]:
    """What ``tfcert.verify`` says, to the end, and how many parts it bounded."""
    model = _network(instance.network, "float32")
    outcome = tfcert.verify(model, asked, time_limit=instance.limit, seed=seed)
    says = {"holds": "unsat", "violated": "sat", "unknown": outcome.limit}[outcome.verdict]
    return says, outcome.domains


def _certify(instance: Instance, asked: interchange.Property, seed: int) -> str | None:
    """What ``tfcert.certify`` says; None where the property is not that a class stays."""
    model = _network(instance.network, "float32")
    label = properties.label_of(list(asked.cases), asked.outputs)
    if label is None:
        return None
    lower, upper = (
        end.reshape(1, *model.input_shape[1:])
        for end in (asked.cases[0].lower, asked.cases[0].upper)
    )
    x = (0.5 * (lower + upper)).astype("float32")
    found = tfcert.certify(
        model,
        x,
        np.array([label]),
        tfcert.Box(lower, upper),
        seed=seed,
        self_check=0.0,
        time_limit=instance.limit,
    )
    (verdict,) = found.verdict
    if verdict in ("falsified", "misclassified"):
        point = found.counterexamples.get(0, x[0])
        return "sat" if _holds(instance, asked, point) else "unknown"
    return "unsat" if verdict == "verified" else "unknown"


def decide(instance: Instance, names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """What each method says of an instance, and after how many seconds.

    Every method is tried by itself, so that each is counted. A time includes compiling; reading
    the files is not in it.
    """
    asked = interchange.read_vnnlib(instance.property)
    for dtype in ("float32", "float64"):
        _network(instance.network, dtype)
    calls: dict[str, Callable[[], Any]] = {
        "verify": lambda: _verify(instance, asked, seed),
        "certify": lambda: _certify(instance, asked, seed),
        "attack": lambda: _attack(instance, asked, seed),
    }
    calls |= {n: functools.partial(_prove, instance, asked, m) for n, m in PROOFS.items()}
    row: dict[str, Any] = {
        "benchmark": instance.benchmark,
        "network": instance.network.name,
        "property": instance.property.name,
        "expected": instance.expected,
        "limit": instance.limit,
    }
    for name in names:
        begin = time.perf_counter()
        says = calls[name]()
        seconds = time.perf_counter() - begin
        if isinstance(says, tuple):
            says, row["domains"] = says
        row[name] = says if says is None or seconds <= instance.limit else "timeout"
        row[f"{name}_seconds"] = round(seconds, 3)
    return row


def wrong(row: Mapping[str, Any]) -> list[str]:
    """The methods that contradict the known answer."""
    opposite = {"sat": "unsat", "unsat": "sat"}.get(row["expected"])
    return [name for name in METHODS if opposite and row.get(name) == opposite]


def write(out: str, facts: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes all rows, and where they come from, to ``out.json``."""
    path = pathlib.Path(f"{out}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")


def main(argv: Sequence[str]) -> None:
    """Decides every instance and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    facts = {"command": " ".join(["python benchmarks/vnncomp.py", *sys.argv[1:]])}
    facts |= machine.facts(2)
    rows: list[dict[str, Any]] = []
    width = max(map(len, METHODS)) + 8
    print(f"{'instance':<64}{'known':<10}" + "".join(f"{n:<{width}}" for n in _METHODS.value))
    for instance in instances(pathlib.Path(_FOLDER.value), _BENCHMARKS.value, _LIMIT.value):
        if _SECONDS.value is not None:
            instance = instance._replace(limit=min(instance.limit, _SECONDS.value))
        row = decide(instance, _METHODS.value, _SEED.value)
        rows.append(row)
        cells = [f"{row[n] or '-'} {row[f'{n}_seconds']:.1f} s" for n in _METHODS.value]
        name = f"{instance.network.name[:30]} {instance.property.name.removesuffix('.gz')}"
        print(f"{name:<64.63}{row['expected']:<10}" + "".join(f"{c:<{width}}" for c in cells))
        sys.stdout.flush()
        if _OUT.value:
            write(_OUT.value, facts, rows)
    decided = [sum(row[n] in ("sat", "unsat") for row in rows) for n in _METHODS.value]
    print(f"{'decided':<74}" + "".join(f"{n:<{width}}" for n in decided))
    errors = [(row["network"], row["property"], names) for row in rows if (names := wrong(row))]
    print(f"{len(errors)} of {len(rows)} contradict the known answer. {errors or ''}")
    either = np.mean([any(row[n] in ("sat", "unsat") for n in _METHODS.value) for row in rows])
    print(f"{100 * either:.0f} % are decided by some method.")
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
