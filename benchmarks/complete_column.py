"""Verified errors by complete verification, for runs of trainers/train.py.

    python benchmarks/complete_column.py --runs=runs --data_dir=data
    python benchmarks/complete_column.py --runs=runs --data_dir=data --only=mnist_0.3_sabr@cnn-0

PGD with 100 steps, CROWN-IBP and CROWN decide most test images. Branch and bound decides the
images that are left, each within a time limit. A run's folder receives a log for every 1000 images
(complete_00000.tsv, complete_01000.tsv, ...) and the errors (complete.json), which
`benchmarks/results_table.py --collect` takes into docs/results. Repeat the command to resume a run
that was stopped.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

_RUNS = flags.DEFINE_string("runs", "runs", "Folder with runs of trainers/train.py.")
_ONLY = flags.DEFINE_list("only", None, "Names of the runs to verify. Default: all finished runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder with the file of the data set.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Time limit for an image.", lower_bound=1e-3)
_MAX = flags.DEFINE_integer(
    "max", None, "Verify only so many test images, a multiple of 1000. Default: all."
)

# Images of a log. A run with a larger --max goes on where one with a smaller --max ended.
PART = 1000
_METHODS = ("crown-ibp", "crown", "complete")
_FAST = ("none", "pgd", "crown-ibp", "crown")  # What decides an image without a search.


def verify(
    folder: pathlib.Path,
    x: np.ndarray,
    y: np.ndarray,
    seconds: float,
    part: int = PART,
    verbose: Any = "auto",
) -> dict[str, Any]:
    """Returns the errors of a run's model on the images. The logs lie in the run's folder.

    Args:
        folder: The folder of a finished run: model.keras and run.json.
        x: Images.
        y: Integer labels.
        seconds: Time limit for an image.
        part: Images of a log.
        verbose: As for ``tfcert.certify``.
    """
    from tfcert import attacks, certify, files, provenance, regions

    settings = files.read_json(folder / "run.json")["flags"]
    model = files.load_model(folder / "model.keras")
    region = regions.LpBall(settings["eps"], settings["norm"], clip=(0.0, 1.0))
    attack = attacks.PGD(region, 100, loss="margin")
    found = [
        certify(
            model,
            x[start : start + part],
            y[start : start + part],
            region,
            _METHODS,
            log=folder / f"complete_{start:05}.tsv",
            attack=attack,
            time_limit_per_input=seconds,
            index=start,
            verbose=verbose,
        )
        for start in range(0, len(x), part)
    ]
    results = summary(found)
    results |= {
        "seconds_an_image": seconds,
        "model_sha256": hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    return results


def summary(parts: Sequence[Any]) -> dict[str, Any]:
    """The shares of verdicts over the parts of a set, each a ``Certificates``."""
    verdict, method, seconds = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("verdict", "method", "seconds")
    )
    undecided = verdict == "unknown"
    return {
        "samples": len(verdict),
        "error": float(np.mean(verdict != "verified")),
        "attack_error": float(np.mean(np.isin(verdict, ["falsified", "misclassified"]))),
        "undecided": float(np.mean(undecided)),
        "searched": int(np.sum(undecided | ~np.isin(method, _FAST))),
        "seconds": round(float(seconds.sum()), 1),
    }


def finished(runs: pathlib.Path, only: Sequence[str] | None) -> list[pathlib.Path]:
    """The folders of runs with a model and errors by bounds, in the order of their names."""
    from tfcert import files

    found = [path.parent for path in sorted(runs.glob("*/results.json"))]
    found = [folder for folder in found if "methods" in files.read_json(folder / "results.json")]
    if only is None:
        return found
    unknown = set(only) - {folder.name for folder in found}
    if unknown:
        raise app.UsageError(f"--only names no finished runs of {runs}: {sorted(unknown)}.")
    return [folder for folder in found if folder.name in only]


def command(name: str) -> str:
    """The command that verifies a run, with the folders that the docs name."""
    words = ["python benchmarks/complete_column.py --runs=runs --data_dir=data", f"--only={name}"]
    words += [f"--max={_MAX.value}"] if _MAX.value is not None else []
    return " ".join([*words, f"--seconds={_SECONDS.value:g}"])


def main(argv: Sequence[str]) -> None:
    """Verifies every run, and prints a line for it."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if _MAX.value is not None and (_MAX.value < 1 or _MAX.value % PART):
        raise app.UsageError(f"--max must be a multiple of {PART}. Received: --max={_MAX.value}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfcert import datasets, files

    for folder in finished(pathlib.Path(_RUNS.value), _ONLY.value):
        settings = files.read_json(folder / "run.json")["flags"]
        _, (x, y) = datasets.load(settings["dataset"], _DATA_DIR.value)
        found = verify(folder, x[: _MAX.value], y[: _MAX.value], _SECONDS.value)
        found["command"] = command(folder.name)
        files.write_json(folder / "complete.json", found)
        print(
            f"{folder.name:<32}verified error {found['error']:.2%}, by attacks "
            f"{found['attack_error']:.2%}, undecided {found['undecided']:.2%} of "
            f"{found['samples']} images; {found['searched']} searches, {found['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
