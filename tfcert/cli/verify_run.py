"""The work of the verifying program: load, verify, write the verdict in the usual format."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcert import branching, files, interchange, properties
from tfcert.bounds import methods
from tfcert.cli.verify_config import Config
from tfcert.logs.writing import write_whole

__all__ = ["Run", "command", "first_line", "prepare", "run"]


@dataclasses.dataclass
class Run:
    """A verification that is ready to start.

    Attributes:
        loading: Seconds that reading both files took; they count towards the time limit.
    """

    config: Config
    model: keras.Model
    asked: properties.Property
    loading: float


def prepare(config: Config) -> Run:
    """Reads both files."""
    begin = time.monotonic()
    asked = properties.read_vnnlib(config.property)
    path = pathlib.Path(config.network)
    if path.suffix == ".keras":
        model = files.load_model(path)
    else:
        model = interchange.load_onnx(path, config.dtype)
    return Run(config, model, asked, time.monotonic() - begin)


def run(subject: Run, log: Callable[[str], None]) -> branching.Outcome:
    """Verifies, and writes the result."""
    config = subject.config
    log(f"read both files in {subject.loading:.2f} s")
    limit = config.time_limit
    method = methods.get(config.method)
    outcome = branching.verify(
        subject.model,
        subject.asked,
        time_limit=None if limit is None else max(1e-3, limit - subject.loading),
        seed=config.seed,
        method=dataclasses.replace(method, float_safe=True) if config.float_safe else method,
        max_memory=int(config.max_memory * 2**30),
        batch_size=config.batch_size,
        verbose=int(config.progress),
        certificate=config.certificate,
    )
    if config.out is not None:
        write_whole(pathlib.Path(config.out), text_of(outcome).encode())
    return outcome


def command(config: Config) -> str:
    """The command that checks the proof that was written."""
    assert config.certificate is not None
    path = pathlib.Path(config.certificate)
    beside = path.with_name(path.name.removesuffix(".npz") + ".network.npz")
    network = beside if pathlib.Path(config.network).suffix == ".keras" else config.network
    flag = "--float_safe " if config.float_safe else ""
    return f"tfcert-check {flag}{network} {config.property} {path}"


def first_line(outcome: branching.Outcome) -> str:
    """The verdict in the words of the competition: is a counterexample satisfiable?"""
    if outcome.verdict == "holds":
        return "unsat"
    if outcome.verdict == "violated":
        return "sat"
    return "timeout" if outcome.limit == "time" else "unknown"


def text_of(outcome: branching.Outcome) -> str:
    """The result file: the verdict, and after sat the counterexample."""
    lines = [first_line(outcome)]
    if outcome.found is not None:
        values = [
            *_named("X", outcome.found.point),
            *_named("Y", np.asarray(outcome.found.outputs, np.float64)),
        ]
        lines.append(f"({chr(10).join(values)})")
    return "\n".join(lines) + "\n"


def _named(letter: str, values: np.ndarray[Any, Any]) -> list[str]:
    return [f"({letter}_{i} {float(value)!r})" for i, value in enumerate(values.ravel())]
