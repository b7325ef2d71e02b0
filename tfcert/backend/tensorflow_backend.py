"""Differentiation, compilation and loops in TensorFlow."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfcert.backend import shared
from tfcert.types import Tensor

__all__ = [
    "bits_as",
    "check_float64",
    "check_full_precision",
    "check_saved_model",
    "convolution_transpose",
    "eagerly",
    "gather",
    "is_symbolic",
    "kernel_constant",
    "loop",
    "misplaces_sum",
    "on_accelerator",
    "phases_pay",
    "prefers_xla",
    "rectified",
    "reshape",
    "runs_at_once",
    "split",
    "value_and_gradients",
    "vector_jacobian",
    "with_gradient",
    "writes_tensorboard",
]


def vector_jacobian(
    function: Callable[..., Tensor], primals: Sequence[Tensor], cotangent: Tensor
) -> Sequence[Tensor]:
    """``J^T cotangent`` of a function at ``primals``, one tensor per primal."""
    with tf.GradientTape(persistent=False, watch_accessed_variables=False) as tape:
        for primal in primals:
            tape.watch(primal)
        value = function(*primals)
    return tape.gradient(
        value,
        list(primals),
        output_gradients=cotangent,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def convolution_transpose(
    coefficients: Tensor,
    kernel: Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str,
) -> Tensor:
    """``W^T a`` of a convolution without dilation or groups, channels last: ``(n, *shape)``.

    As the vector-Jacobian product of a convolution, it would cost three times as much where
    operations are carried out one by one: TensorFlow would also compute the convolution itself, and
    what flows to the kernel, for which a kernel of oneDNN was even seen to crash.
    """

    def transpose(a: Tensor) -> Tensor:
        count = a.shape[0]
        count = tf.shape(a)[0] if count is None else count
        return tf.nn.conv_transpose(a, kernel, (count, *shape), strides, padding=padding.upper())

    if not (tf.executing_eagerly() and shared.weights_stay()):
        return transpose(coefficients)

    @tf.custom_gradient
    def with_fixed_kernel(a: Tensor) -> Any:
        return transpose(a), lambda g: tf.nn.convolution(g, kernel, strides, padding.upper())

    return with_fixed_kernel(coefficients)


def with_gradient(
    function: Callable[..., Any], gradient: Callable[[tuple, tuple], tuple]
) -> Callable[..., Any]:
    """A function whose gradient is written out, for where that is faster.

    Args:
        function: Of tensors; it reads no others.
        gradient: ``gradient(arguments, cotangents)``, with a cotangent for each result of the
            function: one cotangent for each argument.
    """

    @tf.custom_gradient
    def both(*arguments: Tensor) -> Any:
        # Inside of a condition the gradient is a graph of its own, which takes tensors from the
        # branch that it belongs to alone, and by an operation, not by a compiled function.
        here = tuple(map(tf.identity, arguments))

        def backward(*cotangents: Tensor) -> tuple:
            return gradient(tuple(map(tf.identity, here)), cotangents)

        return function(*here), backward

    return both


_rectified = with_gradient(
    lambda x: tf.maximum(x, tf.zeros((), x.dtype)),
    lambda arguments, cotangents: (
        tf.raw_ops.ReluGrad(gradients=cotangents[0], features=arguments[0]),
    ),
)


def rectified(x: Tensor) -> Tensor:
    """``max(x, 0)`` with the gradient of ReLU, and NaN where x is NaN.

    TensorFlow joins a ReLU in a graph with the convolution before it, and that kernel turns NaN
    into 0. TensorFlow does not join a maximum.
    """
    if tf.executing_eagerly():
        return tf.nn.relu(x)
    if shared.PORTABLE.get():
        return tf.where(tf.math.is_nan(x), x, tf.nn.relu(x))
    return _rectified(x)


def value_and_gradients(
    function: Callable[[list[Tensor]], tuple[Tensor, Any]], variables: list[Tensor]
) -> tuple[Tensor, Any, list[Tensor]]:
    """``(value, auxiliary, gradients)`` of a function that returns ``(value, auxiliary)``."""
    token = shared.WEIGHTS_STAY.set(True)
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            value, auxiliary = function(variables)
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(value, variables, unconnected_gradients=zero)
    finally:
        shared.WEIGHTS_STAY.reset(token)
    return value, auxiliary, gradients


def loop(
    condition: Callable[..., Tensor],
    body: Callable[..., tuple],
    variables: tuple,
    maximum_iterations: int | None = None,
    gradients_for: int | None = None,
) -> tuple:
    """A while loop whose turns run one after another, so that memory stays that of one turn.

    Args:
        condition: Whether to go on, a function of the variables.
        body: New values of the variables.
        variables: Their first values.
        maximum_iterations: Most turns.
        gradients_for: Where gradients are to flow back through the loop, the most turns that it
            can take.
    """
    # They flow through any loop; only XLA has to know how many turns it must remember.
    if maximum_iterations is None:
        maximum_iterations = gradients_for
    return tf.while_loop(
        condition,
        body,
        variables,
        parallel_iterations=1,
        maximum_iterations=maximum_iterations,
    )


def bits_as(values: Tensor, dtype: str) -> Tensor:
    """The same bits, read as another type of the same width; shapes may be unknown."""
    return tf.bitcast(values, dtype)


def eagerly() -> Any:
    """A context that computes at once, also where a graph is being built around it."""
    return tf.init_scope()


def reshape(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values in another shape of numbers, one of which may be -1.

    Carried out at once, a reshape by a tuple costs six times as much as by a tensor, since
    TensorFlow converts the tuple anew, and reshapes are a fifth of all operations of a sweep.
    """
    if tf.executing_eagerly():
        return tf.reshape(values, _shape_tensor(shape))
    return tf.reshape(values, shape)


@functools.lru_cache(maxsize=4096)
def _shape_tensor(shape: tuple[int, ...]) -> Tensor:
    return tf.constant(shape, dtype="int32")


def gather(values: Tensor, places: Tensor) -> Tensor:
    """Entries of the first axis at places that are all there; a third of the work of `ops.take`,
    which allows for negative places.
    """
    return tf.gather(values, places)


def pad(values: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    """The values with zeros around them; `ops.pad` takes some ten times as long from Python."""
    return tf.pad(values, widths)


def split(values: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Parts of the last axis; `ops.split` computes the sizes by ten operations."""
    return tf.split(values, list(sizes), axis=-1)


def total(coefficients: Tensor, values: Tensor) -> Tensor:
    """Sums of products over all axes behind the first two: 0 where the coefficient is, also where
    the value is infinite.
    """
    axes = list(range(2, len(coefficients.shape)))
    if tf.executing_eagerly():  # Two operations in place of five.
        return tf.reduce_sum(tf.math.multiply_no_nan(values, coefficients), axes)
    products = ops.where(coefficients == 0, ops.zeros_like(coefficients), coefficients * values)
    return ops.sum(products, axis=axes)


def runs_at_once() -> bool:
    """Whether operations are carried out one by one, with numbers that Python can look at."""
    return tf.executing_eagerly()


def is_symbolic(value: Any) -> bool:
    """Whether a value has no numbers yet, because a graph is being built from it."""
    if isinstance(value, (np.ndarray, _Eager)):  # Nearly always, and much faster to tell.
        return False
    return isinstance(value, keras.KerasTensor) or tf.is_symbolic_tensor(value)


_Eager = type(tf.constant(0.0))


def phases_pay(channels: int) -> bool:
    """Whether ``tfcert.rules.phases`` is faster for a convolution of a map with so many channels.

    Measured on a CPU: 1.3 to 3.2 times as fast for 1 to 4 channels, 0.9 to 1.9 times for 8, half as
    fast for 32.
    """
    return channels <= 8 and not tf.config.list_logical_devices("GPU")


def prefers_xla() -> bool:
    """Whether training steps are faster compiled with XLA."""
    return bool(tf.config.list_logical_devices("GPU"))


def on_accelerator() -> bool:
    """Whether models run on something else than a CPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def writes_tensorboard() -> bool:
    """Whether ``keras.callbacks.TensorBoard`` works here."""
    return importlib.util.find_spec("tensorboard") is not None


def check_saved_model(what: str) -> None:
    """Raises where no SavedModel can be written, whose format is TensorFlow's."""
    del what


def check_float64(what: str) -> None:
    """Raises where the backend has no float64."""
    del what


def check_full_precision() -> None:
    """Raises where products of float32 numbers are known to be computed with fewer bits."""
    shared.check_environment()
    if tf.config.experimental.tensor_float_32_execution_enabled() and (
        tf.config.get_visible_devices("GPU")
    ):
        raise shared.reduced(
            "TF32 enabled on a GPU",
            "Call tf.config.experimental.enable_tensor_float_32_execution(False).",
        )
    for name, value in tf.config.optimizer.get_experimental_options().items():
        if name.startswith("auto_mixed_precision") and value:
            raise shared.reduced(
                f"the optimizer option {name}",
                f"Call tf.config.optimizer.set_experimental_options({{{name!r}: False}}).",
            )


def misplaces_sum(shape: tuple[int, ...], constant: tuple[int, ...]) -> bool:
    """Whether ``ops.add`` puts a constant elsewhere than broadcasting would.

    Keras takes a constant that varies along one axis for a bias: of the last axis where that
    has its size, else of the first one behind the batch (Keras 3.15).
    """
    varying = [(i - len(constant), size) for i, size in enumerate(constant) if size > 1]
    if len(varying) != 1 or not shape:
        return False
    ((axis, size),) = varying
    if size == shape[-1]:
        return axis != -1
    return size == shape[0] and axis != -len(shape)


def kernel_constant(value: float) -> float:
    """A constant as ``leaky_relu`` and ``gelu`` hold it: float32 whatever the type of the input."""
    return float(np.float32(value))
