"""tfcert's side of the benchmark of distances, and the limit of the machine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np

__all__ = ["Case", "arrays", "device_peak_bytes", "facts", "prepare"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table; p = 0 stands for a product of matrices of the same size."""

    batch: int
    inputs: int
    units: int
    p: float
    backward: bool


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, weights and an upstream gradient, standard normal."""
    random = np.random.default_rng(0)
    shapes = (
        (case.batch, case.inputs),
        (case.inputs, case.units),
        (case.batch, case.units),
    )
    x, w, g = (random.normal(size=shape).astype("float32") for shape in shapes)
    return x, w, g


def facts() -> dict[str, str]:
    """What a reader needs to know of this side."""
    import keras

    backend = keras.backend.backend()
    library = __import__(backend)
    return {"keras": keras.__version__, "backend": f"{backend} {library.__version__}"}


def device_peak_bytes() -> None:
    """Not measured."""


def prepare(case: Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that computes distances, and with ``case.backward`` both gradients."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras import ops

    from tfcert import backend
    from tfcert.layers import point_kernels

    x, w, g = map(ops.convert_to_tensor, arrays(case))
    p = ops.convert_to_tensor(case.p, dtype="float32")

    def function(x, w, p):  # type: ignore[no-untyped-def]
        if case.p == 0.0:
            return ops.matmul(x, w)
        return point_kernels.distances(x, w, p)

    if case.backward:
        compiled = backend.compiled(
            lambda x, w, p, g: backend.vector_jacobian(lambda x, w: function(x, w, p), [x, w], g)
        )
    else:
        compiled = backend.compiled(lambda x, w, p, g: function(x, w, p))

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = compiled(x, w, p, g)
        one = found[0] if case.backward else found
        return ops.convert_to_numpy(one), np.zeros(())

    return call
