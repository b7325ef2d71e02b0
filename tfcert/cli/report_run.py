"""The work of the reporting program: read logs and inputs, write the report."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from tfcert import datasets, files, provenance
from tfcert.certification.subject import Subject
from tfcert.reporting import examples, report

__all__ = ["load_inputs", "write"]


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


def _classifier(path: str) -> examples.Classify:
    """The classes that a saved model gives inputs."""
    return Subject(files.load_model(path), float_safe=False).classify


def write(
    paths: Sequence[str],
    out: str,
    *,
    names: Sequence[str] | None,
    title: str | None,
    radii: list[float] | None,
    dataset: str | None,
    data_dir: str | None,
    split: str,
    inputs: str | None,
    model_path: str | None,
    gallery: int,
    overwrite: bool,
) -> list[pathlib.Path]:
    """Writes the report; the arguments are the flags of ``tfcert-report``."""
    sources = report.load(paths, names)
    shown = load_inputs(inputs) if inputs else None
    if dataset:
        train, test = datasets.load(dataset, data_dir)
        shown = examples.Inputs(*(test if split == "test" else train))
    return report.write(
        sources,
        pathlib.Path(out),
        title=title,
        radii_shown=radii,
        inputs=shown,
        gallery=gallery,
        dataset=f"{dataset}, {split} part" if dataset else inputs,
        classify=_classifier(model_path) if model_path else None,
        own_facts={"versions": provenance.versions(), "commit": provenance.commit()},
        overwrite=overwrite,
    )
