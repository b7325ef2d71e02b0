"""Differentiation, compilation, loops and training on the active backend of Keras.

Everything else in the numerical core speaks ``keras.ops``. TensorFlow is the product; JAX runs the
same bounds and objectives, compiled by XLA, where TensorFlow is not installed.
"""

import keras

from tfcert.backend.shared import portable, weights_stay

_NAME = keras.backend.backend()

if _NAME == "tensorflow":
    from tfcert.backend.tensorflow_backend import (
        bits_as,
        check_float64,
        check_full_precision,
        check_saved_model,
        convolution_transpose,
        eagerly,
        gather,
        is_symbolic,
        kernel_constant,
        loop,
        misplaces_sum,
        on_accelerator,
        pad,
        phases_pay,
        prefers_xla,
        rectified,
        reshape,
        runs_at_once,
        split,
        total,
        value_and_gradients,
        vector_jacobian,
        with_gradient,
        writes_tensorboard,
    )
    from tfcert.backend.tensorflow_compiling import (
        compile_for_one_form,
        compile_function,
        compiled,
        fused,
        fused_with_gradient,
        long_loop,
        traced_once,
    )
    from tfcert.backend.tensorflow_devices import (
        compile_for_devices,
        devices_of,
        replica,
        replicas,
    )
    from tfcert.backend.tensorflow_noise import draw_noise, noise_keys, noise_parameters
    from tfcert.backend.tensorflow_training import TrainStep, pipeline
elif _NAME == "jax":
    from tfcert.backend.jax_backend import (  # type: ignore[assignment]
        TrainStep,
        bits_as,
        check_float64,
        check_full_precision,
        check_saved_model,
        compile_for_devices,
        compile_for_one_form,
        compile_function,
        compiled,
        convolution_transpose,
        devices_of,
        eagerly,
        fused,
        fused_with_gradient,
        gather,
        is_symbolic,
        kernel_constant,
        long_loop,
        loop,
        misplaces_sum,
        on_accelerator,
        pad,
        phases_pay,
        pipeline,
        prefers_xla,
        rectified,
        replica,
        replicas,
        reshape,
        runs_at_once,
        split,
        total,
        traced_once,
        value_and_gradients,
        vector_jacobian,
        with_gradient,
        writes_tensorboard,
    )
    from tfcert.backend.jax_noise import (
        draw_noise,
        noise_keys,
        noise_parameters,
    )
else:
    raise ImportError(
        f"tfcert runs on the Keras backends tensorflow and jax. Received: {_NAME!r}. "
        "Set the environment variable KERAS_BACKEND before the first import of keras."
    )


def name() -> str:
    """The backend's name, for the facts of a run: which backend it is, only this package asks."""
    return keras.backend.backend()


__all__ = [
    "TrainStep",
    "bits_as",
    "check_float64",
    "check_full_precision",
    "check_saved_model",
    "compile_for_devices",
    "compile_for_one_form",
    "compile_function",
    "devices_of",
    "compiled",
    "convolution_transpose",
    "draw_noise",
    "eagerly",
    "fused",
    "fused_with_gradient",
    "gather",
    "is_symbolic",
    "kernel_constant",
    "long_loop",
    "loop",
    "misplaces_sum",
    "name",
    "noise_keys",
    "noise_parameters",
    "on_accelerator",
    "pad",
    "phases_pay",
    "pipeline",
    "portable",
    "prefers_xla",
    "rectified",
    "replica",
    "replicas",
    "reshape",
    "runs_at_once",
    "split",
    "total",
    "traced_once",
    "value_and_gradients",
    "vector_jacobian",
    "weights_stay",
    "with_gradient",
    "writes_tensorboard",
]
