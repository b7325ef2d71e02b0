"""Models that lie on several devices, by tf.distribute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcert.backend.tensorflow_compiling import compile_function, traced
from tfcert.types import Tensor

__all__ = ["compile_for_devices", "devices_of", "replica", "replicas"]


def devices_of(model: keras.Model) -> int:
    """On how many devices the model lies: those of the tf.distribute strategy it was made in."""
    return model.distribute_strategy.num_replicas_in_sync


def replica() -> Any:
    """The number of the device that runs this code inside of a strategy; 0 without one."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def replicas() -> int:
    """How many devices share a batch inside of a strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def compile_for_devices(
    function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
) -> Callable[..., Any]:
    """``compile_function`` over all devices of the model.

    Each device is given its share of the rows of every array, and scalars as they are; the results
    stand below each other. The number of rows must be a multiple of that of the devices.
    """
    compiled = compile_function(function, model, jit_compile)
    devices = devices_of(model)
    if devices == 1:
        return compiled

    def on_device(*arguments: Tensor) -> Tensor:
        def share(value: Tensor) -> Tensor:
            if len(value.shape) == 0:
                return value
            return tf.reshape(value, (devices, -1, *value.shape[1:]))[replica()]

        return compiled(*map(share, arguments))

    def everywhere(*arguments: Tensor) -> Tensor:
        strategy = model.distribute_strategy
        results = strategy.run(on_device, args=arguments)
        return tf.concat(strategy.experimental_local_results(results), axis=0)

    return traced(everywhere)
