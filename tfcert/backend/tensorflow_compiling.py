"""Compiling functions in TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcert.backend import shared
from tfcert.backend.tensorflow_backend import eagerly, loop, with_gradient
from tfcert.types import Tensor

__all__ = [
    "compile_for_one_form",
    "compile_function",
    "compiled",
    "fused",
    "fused_with_gradient",
    "long_loop",
    "traced",
    "traced_once",
]


def compile_function(
    function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
) -> Callable[..., Any]:
    """Compiles a function of tensors that reads the variables of ``model``."""
    del model  # A tf.function reads the current values of the variables by itself.
    # XLA on a CPU turns transposed convolutions into plain loops (measured 3x slower than the
    # kernels TensorFlow calls); it is used where it is asked for.
    return traced(function, jit_compile=bool(jit_compile))


def compile_for_one_form(
    function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
) -> Callable[..., Any]:
    """``compile_function``, called with arguments of the same structure, shapes and types only.

    A tf.function spends 150 microseconds a call on finding the graph for its arguments, and a graph
    200 on arguments in a structure. So the graph takes a list of tensors, as it is.
    """
    del model
    found: list[Callable[[list[Tensor]], Any]] = []

    def call(*arguments: Any) -> Any:
        if tf.config.functions_run_eagerly():
            return function(*arguments)
        flat = [_as_tensor(value) for value in keras.tree.flatten(arguments) if value is not None]
        if not found:
            found.append(_graph_of(function, arguments, flat, bool(jit_compile)))
        return found[0](flat)

    return call


def _graph_of(
    function: Callable[..., Any], arguments: tuple, flat: list[Tensor], jit_compile: bool
) -> Callable[[list[Tensor]], Any]:
    """The graph of a function of such arguments, as a function of a list of tensors."""
    form = keras.tree.map_structure(lambda value: value is not None, arguments)

    def of_tensors(*tensors: Tensor) -> Any:
        left = iter(tensors)
        given = keras.tree.map_structure(lambda is_given: next(left) if is_given else None, form)
        return function(*given)

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in flat]
    graph = traced(of_tensors, jit_compile=jit_compile).get_concrete_function(*specs)
    captured = graph.captured_inputs  # Handles of variables, whose values are read by each call.
    # What the graph's own call ends in, behind a comparison of the arguments with the signature,
    # which takes as long. It sees tapes.
    return lambda tensors: graph._call_flat(tensors, captured)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, tf.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.size <= _FEW:
        return _constant(value.tobytes(), value.dtype, value.shape)
    return tf.convert_to_tensor(value)


# Numbers of a region that are kept as tensors: to make a tensor takes longer than to find it.
_FEW = 16


@functools.lru_cache(maxsize=1024)
def _constant(content: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
    with eagerly():
        return tf.constant(np.frombuffer(content, dtype).reshape(shape))


def traced(function: Callable[..., Any], **options: Any) -> Any:
    """A ``tf.function`` that is one of several made of the same lines of this package.

    TensorFlow would warn at the fifth of them, as of a function that is made anew in a loop.
    """
    made = tf.function(function, autograph=False, **options)
    made._omit_frequent_tracing_warning = True
    return made


def fused(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """``function(*arguments)`` as one kernel, where a graph is being built.

    For chains of elementwise operations, whose time is that of reading and writing memory.
    """
    # At once, compiling would cost more than one call saves.
    if tf.executing_eagerly() or shared.PORTABLE.get():
        return function(*arguments)
    return compiled(function)(*arguments)


def fused_with_gradient(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """``fused``, with a gradient that is one kernel, too.

    That kernel computes the function anew, so that nothing but the arguments is kept for it.

    Args:
        function: Of tensors, with one or a list of them as result. It reads no others.
        *arguments: Its arguments.
    """
    if tf.executing_eagerly() or shared.PORTABLE.get():
        return function(*arguments)

    def gradient(arguments: tuple, cotangents: tuple) -> tuple:
        def compute(*both: Tensor) -> Sequence[Tensor]:
            primals, given = list(both[: len(arguments)]), list(both[len(arguments) :])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(primals)
                values = tf.nest.flatten(function(*primals))
            return tape.gradient(values, primals, given, unconnected_gradients="zero")

        return compiled(compute)(*arguments, *cotangents)

    return with_gradient(compiled(function), gradient)(*arguments)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors that XLA compiles, also where it is called eagerly.

    XLA compiles for every shape, but it is traced for the first two or three only.
    """
    return traced(function, jit_compile=True, reduce_retracing=True)


def traced_once(function: Callable[..., Any], *vectors: str) -> Callable[..., Any]:
    """A function of tensors for many calls, with one graph for all.

    Args:
        function: Called with tensors of one form; or of vectors of any length.
        *vectors: The types of these vectors.
    """
    signature = [tf.TensorSpec([None], kind) for kind in vectors]
    return traced(function, input_signature=signature or None)


# Turns from which tracing a turn takes less time than carrying out its operations one by one.
# Measured on gradients of sweeps: to trace one takes some six turns.
_MANY = 8


def long_loop(
    condition: Callable[..., Tensor],
    body: Callable[..., tuple],
    variables: tuple,
    maximum_iterations: int,
) -> tuple:
    """``loop`` with many turns of many operations, each of which is traced to be carried out."""
    at_once = tf.executing_eagerly() and not tf.config.functions_run_eagerly()
    if not at_once or maximum_iterations < _MANY:
        return loop(condition, body, variables, maximum_iterations)
    turn = traced(body).get_concrete_function(*variables)
    for _ in range(maximum_iterations):
        if not condition(*variables):
            break
        variables = turn(*variables)
    return variables
