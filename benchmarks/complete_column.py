"""Verified errors by complete verification, for runs of trainers/train.py.

    python benchmarks/complete_column.py --runs=runs --data_dir=data
    python benchmarks/complete_column.py --runs=runs --data_dir=data --only=mnist_0.3_sabr@cnn-0

PGD with 100 steps, CROWN-IBP and CROWN decide most test images. Branch and bound decides the
images that are left, each within a time limit. A run's folder receives a log for every 1000 images
(complete_00000.tsv, complete_01000.tsv, ...) and the errors (complete.json), which
`benchmarks/results_table.py --collect` takes into docs/results. Repeat the command to resume a run
that was stopped. `--again=300` then searches for longer on the images that are still undecided.
"""

from __future__ import annotations

import dataclasses
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
_AGAIN = flags.DEFINE_float(
    "again", None, "Time limit of a second search on undecided images.", lower_bound=1e-3
)
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
    again: float | None = None,
    part: int = PART,
    verbose: Any = "auto",
) -> dict[str, Any]:
    """Returns the errors of a run's model on the images. The logs lie in the run's folder.

    Args:
        folder: The folder of a finished run: model.keras and run.json.
        x: Images.
        y: Integer labels.
        seconds: Time limit for an image.
        again: Time limit for a second search on each undecided image. None: no second search.
        part: Images of a log.
        verbose: As for ``tfcert.certify``.
    """
    from tfcert import attacks, certify, files, provenance, regions

    settings = files.read_json(folder / "run.json")["flags"]
    model = files.load_model(folder / "model.keras")
    region = regions.LpBall(settings["eps"], settings["norm"], clip=(0.0, 1.0))
    attack = attacks.PGD(region, 100, loss="margin")

    def certified(numbers: np.ndarray, limit: float, log: str) -> Any:
        return certify(
            model,
            x[numbers],
            y[numbers],
            region,
            _METHODS,
            log=folder / log,
            attack=attack,
            time_limit_per_input=limit,
            index=numbers,
            verbose=verbose,
        )

    starts = range(0, len(x), part)
    parts = [np.arange(start, min(start + part, len(x))) for start in starts]
    found = Verdicts.none(len(x))
    for numbers in parts:
        found.take(numbers, certified(numbers, seconds, f"complete_{numbers[0]:05}.tsv"))
    left = np.flatnonzero(found.verdict == "unknown")
    if again is not None and left.size:
        found.take(left, certified(left, again, f"complete_again_{again:g}.tsv"))
    return {
        **found.summary(),
        "seconds_an_image": seconds,
        "seconds_again": again,
        "model_sha256": hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


@dataclasses.dataclass
class Verdicts:
    """The verdict on each image, the method behind the verdict, and the seconds."""

    verdict: np.ndarray
    method: np.ndarray
    seconds: np.ndarray

    @classmethod
    def none(cls, images: int) -> Verdicts:
        """Nothing is known yet."""
        return cls(
            np.full(images, "unknown", object), np.full(images, "", object), np.zeros(images)
        )

    def take(self, numbers: np.ndarray, found: Any) -> None:
        """Replaces the verdicts on some images by those of ``Certificates``; seconds add up."""
        self.verdict[numbers], self.method[numbers] = found.verdict, found.method
        self.seconds[numbers] += found.seconds

    def summary(self) -> dict[str, Any]:
        """The shares of the verdicts."""
        undecided = self.verdict == "unknown"
        broken = np.isin(self.verdict.astype(str), ["falsified", "misclassified"])
        fast = np.isin(self.method.astype(str), _FAST)
        return {
            "samples": len(self.verdict),
            "error": float(np.mean(self.verdict != "verified")),
            "attack_error": float(broken.mean()),
            "undecided": float(undecided.mean()),
            "searched": int(np.sum(undecided | ~fast)),
            "seconds": round(float(self.seconds.sum()), 1),
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
    words += [f"--again={_AGAIN.value:g}"] if _AGAIN.value is not None else []
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
        x, y = x[: _MAX.value], y[: _MAX.value]
        found = verify(folder, x, y, _SECONDS.value, _AGAIN.value)
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
