"""Makes a page, tables and figures of certification logs and training runs.

tfcert-report run.tsv --dataset=digits --out=report

Takes any number of logs (of tfcert-certify, and smoothing logs of other tools with the columns
idx label predict radius correct time) and folders of tfcert-train. Writes into --out: index.html,
which needs no other file, figures as PNG, tables as CSV and LaTeX.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from tfcert import datasets, files, provenance
from tfcert.cli import program
from tfcert.reporting import examples, report

__all__ = ["load_inputs", "main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "Folder for the page, the figures and the tables.")
    flags.DEFINE_string("title", "Certification report", "Title of the page.")
    flags.DEFINE_list(
        "names", None, "What to call the logs and runs, in their order. Default: their file names."
    )
    flags.DEFINE_list(
        "radii", None, "Radii at which tables give the certified accuracy. Default: round ones."
    )
    flags.DEFINE_enum(
        "dataset", None, datasets.NAMES, "Data set that the logs are about, for pictures."
    )
    flags.DEFINE_enum("split", "test", ["test", "train"], "Which part of the data set.")
    flags.DEFINE_string("data_dir", None, "Folder of npz files; default: Keras's downloads.")
    flags.DEFINE_string(
        "inputs",
        None,
        "Instead of --dataset: an npz file with arrays x, y, or x_test, y_test; x from 0 to 1, "
        "or bytes from 0 to 255.",
    )
    flags.DEFINE_integer("gallery", 8, "Pictures of each kind; 0 for none.", 0)
    flags.DEFINE_bool("overwrite", False, "Replace files that are in --out.")
    flags.mark_flag_as_required("out")


def load_inputs(path: str) -> examples.Inputs:
    """Inputs and labels from an npz file.

    Raises:
        ValueError: It holds something else than it should.
        OSError: It cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    for names in (("x", "y"), ("x_test", "y_test")):
        try:
            found = files.read_arrays(path, names)
            break
        except ValueError as error:
            reason = error
    if not found:
        raise ValueError(
            f"--inputs={path} must be an npz file with arrays x and y, or x_test and y_test. "
            f"Received: {reason}"
        ) from reason
    x, y = found[names[0]], found[names[1]].reshape(-1)
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255.0
    if x.dtype.kind != "f" or y.dtype.kind not in "iu" or x.ndim < 2 or len(x) != len(y):
        raise ValueError(
            f"--inputs={path} must hold floats or bytes x and as many integers y. "
            f"Received: x of {x.dtype} and shape {x.shape}, y of {y.dtype} and shape {y.shape}."
        )
    return examples.Inputs(x, y)


def _numbers(values: Sequence[str] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise ValueError(f"--radii are numbers of at least 0. Received: {','.join(values)}.")
    return numbers


def main(argv: Sequence[str]) -> None:
    """Writes the report of the logs and folders that follow the program's name."""
    values = flags.FLAGS
    try:
        if values.dataset and values.inputs:
            raise ValueError("--dataset and --inputs are two answers to one question.")
        radii = _numbers(values.radii)
        sources = report.load(argv[1:], values.names)
        inputs = load_inputs(values.inputs) if values.inputs else None
        if values.dataset:
            train, test = datasets.load(values.dataset, values.data_dir)
            inputs = examples.Inputs(*(test if values.split == "test" else train))
        written = report.write(
            sources,
            pathlib.Path(values.out),
            title=values.title,
            radii_shown=radii,
            inputs=inputs,
            gallery=values.gallery,
            own_facts={"versions": provenance.versions(), "commit": provenance.commit()},
            overwrite=values.overwrite,
        )
    except (ValueError, OSError) as error:
        raise app.UsageError(str(error)) from error
    print(f"Look at {written[0]}; beside it: {', '.join(path.name for path in written[1:])}.")


def run() -> None:
    """The console entry point ``tfcert-report``."""
    program.start(main, _define_flags, __doc__)
