"""tfcert's side of the benchmark, on whichever backend Keras runs on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from typing import Any

import cases
import numpy as np

__all__ = ["facts", "prepare"]


def facts() -> dict[str, str]:
    """Versions, backend and device."""
    import keras

    import tfcert

    backend = keras.backend.backend()
    return {
        "tfcert": tfcert.__version__,
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.metadata.version(backend)}",
        "device": ", ".join(_device_kinds()),
    }


def _device_kinds() -> list[str]:
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return sorted({device.device_kind for device in jax.devices()})
    return sorted({name.split(":")[0] for name in keras.distribution.list_devices()})


def prepare(case: cases.Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function of no arguments that computes the case's bounds once.

    Its result are NumPy arrays, so that asynchronous devices have finished when it returns.
    """
    from keras import ops

    import tfcert
    from tfcert import backend

    model = cases.build_keras(case.network)
    x = ops.convert_to_tensor(cases.inputs_of(case.network, case.batch, case.seed))
    if case.method == "forward":
        forward = backend.compile_function(
            lambda values: model(values, training=False), model, case.jit_compile
        )

        def logits() -> tuple[np.ndarray, np.ndarray]:
            value = ops.convert_to_numpy(forward(x))
            return value, value

        return logits

    method: Any = case.method
    if method == "alpha-crown":
        method = tfcert.methods.AlphaCrown(iterations=case.iterations)
    if case.jit_compile is not None:
        method = dataclasses.replace(tfcert.methods.get(method), jit_compile=case.jit_compile)
    region = tfcert.LpBall(eps=case.network.eps, norm="inf", clip=None)

    def bound() -> tuple[np.ndarray, np.ndarray]:
        bounds = tfcert.bound(model, x, region, method=method)
        return ops.convert_to_numpy(bounds.lower), ops.convert_to_numpy(bounds.upper)

    return bound


def device_peak_bytes() -> int | None:
    """Most memory that was in use on an accelerator since the process started, if there is one."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        statistics = device.memory_stats() if device.platform != "cpu" else None
        return statistics["peak_bytes_in_use"] if statistics else None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return None
