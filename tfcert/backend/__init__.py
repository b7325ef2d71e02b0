"""How a backend differentiates, compiles, loops and trains: the only place that asks which it is.

Everything else in the numerical core speaks ``keras.ops``. TensorFlow is the product; JAX runs the
same bounds and objectives, compiled by XLA, where TensorFlow is not installed.
"""

import keras

from tfcert.backend.shared import portable

_NAME = keras.backend.backend()

if _NAME == "tensorflow":
    from tfcert.backend.tensorflow_backend import (
        TrainStep,
        bits_as,
        check_float64,
        check_full_precision,
        compile_for_devices,
        compile_function,
        compiled,
        devices_of,
        eagerly,
        fused,
        fused_with_gradient,
        is_symbolic,
        kernel_constant,
        loop,
        misplaces_sum,
        phases_pay,
        pipeline,
        prefers_xla,
        replica,
        replicas,
        reshape,
        runs_at_once,
        traced_once,
        value_and_gradients,
        vector_jacobian,
        with_gradient,
    )
elif _NAME == "jax":
    from tfcert.backend.jax_backend import (  # type: ignore[assignment]
        TrainStep,
        bits_as,
        check_float64,
        check_full_precision,
        compile_for_devices,
        compile_function,
        compiled,
        devices_of,
        eagerly,
        fused,
        fused_with_gradient,
        is_symbolic,
        kernel_constant,
        loop,
        misplaces_sum,
        phases_pay,
        pipeline,
        prefers_xla,
        replica,
        replicas,
        reshape,
        runs_at_once,
        traced_once,
        value_and_gradients,
        vector_jacobian,
        with_gradient,
    )
else:
    raise ImportError(
        f"tfcert runs on the Keras backends tensorflow and jax. Received: {_NAME!r}. "
        "Set the environment variable KERAS_BACKEND before the first import of keras."
    )

__all__ = [
    "TrainStep",
    "bits_as",
    "check_float64",
    "check_full_precision",
    "compile_for_devices",
    "compile_function",
    "devices_of",
    "compiled",
    "eagerly",
    "fused",
    "fused_with_gradient",
    "is_symbolic",
    "kernel_constant",
    "loop",
    "misplaces_sum",
    "phases_pay",
    "pipeline",
    "portable",
    "prefers_xla",
    "replica",
    "replicas",
    "reshape",
    "runs_at_once",
    "traced_once",
    "value_and_gradients",
    "vector_jacobian",
    "with_gradient",
]
