"""Which models of keras.applications are bounded by which method, and what one call takes.

    python benchmarks/applications.py --out=benchmarks/results/applications

Weights are random (weights=None) and the batch is 1. Every row is a fresh process, so that memory
is that of one call. The table of docs/layers.md is made of the result.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_MODELS = flags.DEFINE_list(
    "models", ["MobileNetV2", "EfficientNetB0", "ResNet50", "ConvNeXtTiny"], "Models to bound."
)
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown-ibp", "crown"], "Methods, fastest first.")
_SIZE = flags.DEFINE_integer("size", 64, "Height and width of the input.", lower_bound=32)
_EPS = flags.DEFINE_float("eps", 1e-4, "l-inf radius, as a share of the range of pixels.")
_SECONDS = flags.DEFINE_float("seconds", 180.0, "Time limit of one row; slower methods are left.")
_OUT = flags.DEFINE_string("out", None, "Path of the result, without .json.")
_CHILD = flags.DEFINE_list("child", None, "MODEL,METHOD: measures one row and prints it as JSON.")

_MEMORY = 1 << 30


def _measured(name: str, method: str) -> dict[str, Any]:
    """One call in this process: seconds, memory, and the widest bound."""
    import warnings

    import keras

    import tfcert

    keras.utils.set_random_seed(0)
    shape = (_SIZE.value, _SIZE.value, 3)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=shape, classes=10, classifier_activation=None
    )
    top = 255.0 if _takes_pixels(model) else 1.0
    x = np.random.default_rng(0).uniform(0.0, top, size=(1, *shape)).astype("float32")
    before, begin = _peak(), time.perf_counter()
    bound_method = tfcert.methods.get(method)
    if hasattr(bound_method, "max_memory"):
        bound_method = type(bound_method)(max_memory=_MEMORY)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lower, upper = tfcert.bound(model, x, tfcert.LpBall(_EPS.value * top), bound_method)
    width = float(keras.ops.max(upper - lower))
    return {
        "parameters": model.count_params(),
        "seconds": time.perf_counter() - begin,
        "memory": _peak() - before,
        "width": width if np.isfinite(width) else None,
        "note": next((str(one.message) for one in said if "infinite" in str(one.message)), ""),
    }


def _takes_pixels(model: Any) -> bool:
    """Whether a model scales inputs from 0 to 255 by itself."""
    names = {type(layer).__name__ for layer in model.layers[:4]}
    return bool(names & {"Rescaling", "Normalization"})


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row(name: str, method: str) -> dict[str, Any]:
    """One row, measured by a process of its own."""
    flags_of_row = [f"--size={_SIZE.value}", f"--eps={_EPS.value}", f"--child={name},{method}"]
    command = [sys.executable, __file__, *flags_of_row]
    row: dict[str, Any] = {"model": name, "method": method, "failure": ""}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS.value, check=False
        )
    except subprocess.TimeoutExpired:
        return row | {"failure": f"over {_SECONDS.value:g} s"}
    if run.returncode:
        return row | {"failure": run.stderr.strip().splitlines()[-1][:200]}
    return row | json.loads(run.stdout.strip().splitlines()[-1])


def main(argv: Sequence[str]) -> None:
    """Measures every row, and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if _CHILD.value:
        print(json.dumps(_measured(*_CHILD.value)))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    root = pathlib.Path(__file__).parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    facts = {"command": " ".join(["python benchmarks/applications.py", *sys.argv[1:]])}
    facts |= machine.facts(2)
    facts |= {"size": str(_SIZE.value), "eps": str(_EPS.value)}
    rows = []
    for name in _MODELS.value:
        for method in _METHODS.value:
            rows.append(_row(name, method))
            print(rows[-1], flush=True)
            if rows[-1]["failure"]:
                break  # What comes after takes longer.
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
