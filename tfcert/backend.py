"""How a backend differentiates, compiles and loops: the only module that asks which one is used.

Everything else in the numerical core speaks ``keras.ops``. TensorFlow is the product; JAX runs the
same bounds, compiled by XLA, where TensorFlow is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = [
    "compile_function",
    "is_symbolic",
    "loop",
    "misplaces_sum",
    "value_and_gradients",
    "vector_jacobian",
]

_NAME = keras.backend.backend()

if _NAME == "tensorflow":
    import tensorflow as tf

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

    def value_and_gradients(
        function: Callable[[list[Tensor]], tuple[Tensor, Any]], variables: list[Tensor]
    ) -> tuple[Tensor, Any, list[Tensor]]:
        """``(value, auxiliary, gradients)`` of a function that returns ``(value, auxiliary)``."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            value, auxiliary = function(variables)
        gradients = tape.gradient(
            value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return value, auxiliary, gradients

    def loop(
        condition: Callable[..., Tensor],
        body: Callable[..., tuple],
        variables: tuple,
        maximum_iterations: int | None = None,
    ) -> tuple:
        """A while loop whose turns run one after another, so that memory stays that of one turn."""
        return tf.while_loop(
            condition,
            body,
            variables,
            parallel_iterations=1,
            maximum_iterations=maximum_iterations,
        )

    def compile_function(
        function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
    ) -> Callable[..., Any]:
        """Compiles a function of tensors that reads the variables of ``model``."""
        del model  # A tf.function reads the current values of the variables by itself.
        # XLA on a CPU turns transposed convolutions into plain loops (measured 3x slower than the
        # kernels TensorFlow calls); it is used where it is asked for.
        return tf.function(function, jit_compile=bool(jit_compile), autograph=False)

    def is_symbolic(value: Any) -> bool:
        """Whether a value has no numbers yet, because a graph is being built from it."""
        return isinstance(value, keras.KerasTensor) or tf.is_symbolic_tensor(value)

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

elif _NAME == "jax":
    import jax

    def vector_jacobian(
        function: Callable[..., Tensor], primals: Sequence[Tensor], cotangent: Tensor
    ) -> Sequence[Tensor]:
        """``J^T cotangent`` of a function at ``primals``, one tensor per primal."""
        _, pullback = jax.vjp(function, *primals)
        return pullback(cotangent)

    def value_and_gradients(
        function: Callable[[list[Tensor]], tuple[Tensor, Any]], variables: list[Tensor]
    ) -> tuple[Tensor, Any, list[Tensor]]:
        """``(value, auxiliary, gradients)`` of a function that returns ``(value, auxiliary)``."""
        (value, auxiliary), gradients = jax.value_and_grad(function, has_aux=True)(variables)
        return value, auxiliary, gradients

    def loop(
        condition: Callable[..., Tensor],
        body: Callable[..., tuple],
        variables: tuple,
        maximum_iterations: int | None = None,
    ) -> tuple:
        """A while loop whose turns run one after another, so that memory stays that of one turn."""
        return ops.while_loop(condition, body, variables, maximum_iterations=maximum_iterations)

    def compile_function(
        function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
    ) -> Callable[..., Any]:
        """Compiles a function of tensors that reads the variables of ``model``."""
        if jit_compile is False:
            return function
        variables = model.variables

        # Variables read inside a jitted function would be baked in as constants: pass their values.
        def with_values(values: list[Tensor], *arguments: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*arguments)

        compiled = jax.jit(with_values)
        return lambda *arguments: compiled([v.value for v in variables], *arguments)

    def is_symbolic(value: Any) -> bool:
        """Whether a value has no numbers yet, because a graph is being built from it."""
        return isinstance(value, keras.KerasTensor | jax.core.Tracer)

    def misplaces_sum(shape: tuple[int, ...], constant: tuple[int, ...]) -> bool:
        """Whether ``ops.add`` puts a constant elsewhere than broadcasting would."""
        del shape, constant
        return False

else:
    raise ImportError(
        f"tfcert runs on the Keras backends tensorflow and jax. Received: {_NAME!r}. "
        "Set the environment variable KERAS_BACKEND before the first import of keras."
    )
