"""The side of the benchmark of distances that writes the formula down, compiled by XLA."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import distance_subject
import numpy as np

__all__ = ["device_peak_bytes", "facts", "prepare"]

facts = distance_subject.facts
device_peak_bytes = distance_subject.device_peak_bytes


def prepare(case: distance_subject.Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """``norm(x[:, :, None] - w[None])`` over the inputs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras import ops

    from tfcert import backend

    x, w, g = map(ops.convert_to_tensor, distance_subject.arrays(case))

    def function(x, w):  # type: ignore[no-untyped-def]
        sizes = ops.abs(x[:, :, None] - w[None])
        largest = ops.max(sizes, axis=1)
        if case.p == math.inf:
            return largest
        return largest * ops.sum((sizes / largest[:, None]) ** case.p, axis=1) ** (1.0 / case.p)

    if case.backward:
        compiled = backend.compiled(
            lambda x, w, g: backend.vector_jacobian(function, [x, w], g),
        )
    else:
        compiled = backend.compiled(lambda x, w, g: function(x, w))

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = compiled(x, w, g)
        one = found[0] if case.backward else found
        return ops.convert_to_numpy(one), np.zeros(())

    return call
