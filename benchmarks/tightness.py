"""How tight the relaxation of trained networks is, on test images: the two regularisers' values.

    python benchmarks/tightness.py --runs=runs --out=benchmarks/results/tightness

For every finished run of CROWN-IBP or TightRelaxation in the folder: gap and infeasibility of
the margin with the smallest bound, at the test radius, by the base that the run was trained with.
Gaps grow with the scale of the scores, so they are also given as shares of the mean clean margin.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_RUNS = flags.DEFINE_string("runs", "runs", "Folder with runs of trainers/train.py.")
_PATTERN = flags.DEFINE_list(
    "pattern", ["mnist_*_tight_*", "mnist_*_crown_ibp*"], "Names of the runs to measure."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "../shared/data", "Where the data set's file lies.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 250, "Images at a time.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Where to write the results: OUT.json.")


def measure(model: Any, x: np.ndarray, y: np.ndarray, eps: float, method: str) -> dict[str, float]:
    """Means over the images of the gap, the infeasibility and the clean margin."""
    from keras import ops

    from tfcert import backend
    from tfcert.bounds.margins import Margins
    from tfcert.objectives.tightness import relaxation_tightness
    from tfcert.regions import LpBall

    region = LpBall(eps, clip=(0.0, 1.0))

    def values(images: Any, labels: Any) -> Any:
        known = Margins(model, images, labels, region, method)
        scores = model(images, training=False)
        own = ops.sum(known.hot * scores, axis=-1)
        clean = own - ops.max(ops.where(known.hot > 0, -np.inf, scores), axis=-1)
        bounds = ops.where(known.hot > 0, np.inf, known.backward())
        other = ops.one_hot(ops.argmin(bounds, axis=-1), scores.shape[-1], dtype=known.hot.dtype)
        found = relaxation_tightness(known, (known.hot - other)[:, None])
        return found.gap[:, 0], found.infeasibility[:, 0], clean

    program = backend.compile_function(values, model, None)
    parts = []
    for start in range(0, len(x), _BATCH_SIZE.value):
        images, labels = x[start:][: _BATCH_SIZE.value], y[start:][: _BATCH_SIZE.value]
        found = program(ops.convert_to_tensor(images), ops.convert_to_tensor(labels))
        parts.append(np.stack([ops.convert_to_numpy(value) for value in found]))
    gap, infeasibility, margin = np.concatenate(parts, axis=1).astype("float64")
    return {
        "gap": float(gap.mean()),
        "infeasibility": float(infeasibility.mean()),
        "clean_margin": float(margin.mean()),
    }


def main(argv: Sequence[str]) -> None:
    """Measures every run and prints a line for it."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfcert import datasets, files

    facts = {"command": " ".join(["python benchmarks/tightness.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    root = pathlib.Path(_RUNS.value)
    folders = sorted({path for pattern in _PATTERN.value for path in root.glob(pattern + "/")})
    rows = []
    for folder in folders:
        if not (folder / "results.json").exists():
            print(f"{folder.name} is left out: it has no results.json yet.")
            continue
        run = json.loads((folder / "run.json").read_text())["flags"]
        results = json.loads((folder / "results.json").read_text())
        method = "fast-lin" if "base=fast-lin" in run["option"] else "crown-ibp"
        _, (x, y) = datasets.load(run["dataset"], _DATA_DIR.value)
        found = measure(files.load_model(folder / "model.keras"), x, y, run["eps"], method)
        error = results["methods"][method]["error"]
        rows.append({"run": folder.name, "method": method, **found, "verified_error": error})
        share = found["gap"] / found["clean_margin"]
        print(f"{folder.name:<40} gap {found['gap']:.4f} ({share:.1%} of the clean margin)", end="")
        print(f", infeasibility {found['infeasibility']:.4f}, verified error {error:.2%}")
    if _OUT.value:
        report = {"facts": facts, "rows": rows}
        pathlib.Path(_OUT.value + ".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
