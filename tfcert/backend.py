"""How a backend differentiates, compiles and loops: the only module that asks which one is used.

Everything else in the numerical core speaks ``keras.ops``. TensorFlow is the product; JAX runs the
same bounds, compiled by XLA, where TensorFlow is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = [
    "TrainStep",
    "check_float64",
    "check_full_precision",
    "compile_function",
    "eagerly",
    "fused",
    "is_symbolic",
    "leaky_slope",
    "loop",
    "misplaces_sum",
    "prefers_xla",
    "value_and_gradients",
    "vector_jacobian",
]

_NAME = keras.backend.backend()


def _reduced(setting: str, remedy: str) -> ValueError:
    return ValueError(
        f"float_safe covers products in full float32. Received: {setting}, which rounds their "
        f"operands to fewer bits. {remedy}"
    )


def _check_environment() -> None:
    """oneDNN, which both backends may call on a CPU, takes fewer bits where it is told to."""
    for name in (
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "DNNL_DEFAULT_FPMATH_MODE",
        "TF_SET_ONEDNN_FPMATH_MODE",
    ):
        if os.environ.get(name, "STRICT").upper() != "STRICT":
            raise _reduced(f"{name}={os.environ[name]}", f"Unset {name}.")


def _only_finite(loss: Tensor, gradient: list[Tensor]) -> list[Tensor]:
    finite = ops.isfinite(loss)
    return [ops.where(finite, part, ops.zeros_like(part)) for part in gradient]


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

    def fused(function: Callable[..., Any], *arguments: Tensor) -> Any:
        """``function(*arguments)`` as one kernel, where a graph is being built.

        For chains of elementwise operations, whose time is that of reading and writing memory.
        """
        if tf.executing_eagerly():  # Compiling would cost more than one call saves.
            return function(*arguments)
        return tf.function(function, jit_compile=True, autograph=False)(*arguments)

    def eagerly() -> Any:
        """A context that computes at once, also where a graph is being built around it."""
        return tf.init_scope()

    def is_symbolic(value: Any) -> bool:
        """Whether a value has no numbers yet, because a graph is being built from it."""
        return isinstance(value, keras.KerasTensor) or tf.is_symbolic_tensor(value)

    class TrainStep:
        """How a trainer takes a step: gradients of its losses, joined, applied and logged.

        A mixin before ``keras.Model``; the trainer gives ``batch_of``, ``losses_of``, ``combine`` and ``log``. A
        step whose loss is NaN or infinite changes no weights.
        """

        def train_step(self: Any, data: Any) -> dict[str, Any]:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            with tf.GradientTape(persistent=True) as tape:
                batch = self.batch_of(data, True)
                losses, terms = self.losses_of(batch)
                # The optimizer adds up the gradients of all replicas.
                scaled = [self.optimizer.scale_loss(loss / replicas) for loss in losses]
            variables = self.trainable_variables
            gradients = [
                tape.gradient(loss, variables, unconnected_gradients="zero") for loss in scaled
            ]
            del tape
            terms, gradient = self.combine(terms, gradients, batch)
            logs = self.log(terms, batch, data)
            gradient = _only_finite(sum(losses), gradient)
            self.optimizer.apply_gradients(zip(gradient, variables, strict=True))
            self.step.assign_add(1)
            return logs

        def test_step(self: Any, data: Any) -> dict[str, Any]:
            batch = self.batch_of(data, False)
            _, terms = self.losses_of(batch)
            return self.log(terms, batch, data)

    def prefers_xla() -> bool:
        """Whether training steps are faster compiled with XLA."""
        return bool(tf.config.list_logical_devices("GPU"))

    def check_float64(what: str) -> None:
        """Raises where the backend has no float64."""
        del what

    def check_full_precision() -> None:
        """Raises where products of float32 numbers are known to be computed with fewer bits."""
        _check_environment()
        if tf.config.experimental.tensor_float_32_execution_enabled() and (
            tf.config.get_visible_devices("GPU")
        ):
            raise _reduced(
                "TF32 enabled on a GPU",
                "Call tf.config.experimental.enable_tensor_float_32_execution(False).",
            )
        for name, value in tf.config.optimizer.get_experimental_options().items():
            if name.startswith("auto_mixed_precision") and value:
                raise _reduced(
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

    def leaky_slope(slope: float) -> float:
        """The slope that ``leaky_relu`` computes with: float32 whatever the type of its input."""
        return float(np.float32(slope))

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

    def fused(function: Callable[..., Any], *arguments: Tensor) -> Any:
        """``function(*arguments)``: XLA fuses what it can by itself."""
        return function(*arguments)

    def eagerly() -> Any:
        """A context that computes at once, also where a graph is being built around it."""
        return jax.ensure_compile_time_eval()

    def is_symbolic(value: Any) -> bool:
        """Whether a value has no numbers yet, because a graph is being built from it."""
        return isinstance(value, keras.KerasTensor | jax.core.Tracer)

    class TrainStep:
        """How a trainer takes a step: gradients of its losses, joined, applied and logged.

        A mixin before ``keras.Model``; the trainer gives ``batch_of``, ``losses_of``, ``combine`` and ``log``. A
        step whose loss is NaN or infinite changes no weights.
        """

        def train_step(self: Any, state: tuple, data: Any) -> tuple:
            trainable, fixed, optimizer_state, metrics = state

            def forward(trainable: list[Tensor]) -> tuple[list[Tensor], tuple]:
                with self._scope(trainable, fixed, metrics) as scope:
                    batch = self.batch_of(data, True)
                    losses, terms = self.losses_of(batch)
                left = _values(scope, self.non_trainable_variables, fixed)
                return losses, (terms, batch.logits, batch.notes, left)

            losses, pullback, found = jax.vjp(forward, trainable, has_aux=True)
            terms, logits, notes, fixed = found
            gradients = []
            for place in range(len(losses)):
                hot = [jax.numpy.full_like(x, i == place) for i, x in enumerate(losses)]
                gradients.append(pullback(hot)[0])
            with self._scope(trainable, fixed, metrics) as scope:
                batch = self.batch_of(data, True, logits)
                batch.notes.update(notes)
                terms, gradient = self.combine(terms, gradients, batch)
                logs = self.log(terms, batch, data)
                self.step.assign(self.step + 1)
            fixed = _values(scope, self.non_trainable_variables, fixed)
            metrics = _values(scope, self.metrics_variables, metrics)
            gradient = _only_finite(sum(losses), gradient)
            trainable, optimizer_state = self.optimizer.stateless_apply(
                optimizer_state, gradient, trainable
            )
            return logs, (trainable, fixed, optimizer_state, metrics)

        def test_step(self: Any, state: tuple, data: Any) -> tuple:
            trainable, fixed, metrics = state
            with self._scope(trainable, fixed, metrics) as scope:
                batch = self.batch_of(data, False)
                _, terms = self.losses_of(batch)
                logs = self.log(terms, batch, data)
            return logs, (
                trainable,
                _values(scope, self.non_trainable_variables, fixed),
                _values(scope, self.metrics_variables, metrics),
            )

        def _scope(self: Any, trainable: list, fixed: list, metrics: list) -> Any:
            pairs = [
                *zip(self.trainable_variables, trainable, strict=True),
                *zip(self.non_trainable_variables, fixed, strict=True),
                *zip(self.metrics_variables, metrics, strict=True),
            ]
            return keras.StatelessScope(state_mapping=pairs)

    def _values(scope: Any, variables: list, before: list) -> list[Tensor]:
        """What a scope leaves in variables."""
        found = [scope.get_current_value(variable) for variable in variables]
        return [old if new is None else new for new, old in zip(found, before, strict=True)]

    def prefers_xla() -> bool:
        """Whether training steps are faster compiled with XLA."""
        return True

    def check_float64(what: str) -> None:
        """Raises where the backend has no float64."""
        if not jax.config.jax_enable_x64:
            raise ValueError(
                f"{what} needs float64, which JAX replaces by float32. Set the environment "
                "variable JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) "
                "before the model is made."
            )

    def check_full_precision() -> None:
        """Raises where products of float32 numbers are known to be computed with fewer bits."""
        _check_environment()
        precision = jax.config.jax_default_matmul_precision
        if jax.default_backend() != "cpu" and precision not in ("highest", "float32"):
            raise _reduced(
                f"jax_default_matmul_precision={precision} on a {jax.default_backend()}",
                "Call jax.config.update('jax_default_matmul_precision', 'highest').",
            )

    def misplaces_sum(shape: tuple[int, ...], constant: tuple[int, ...]) -> bool:
        """Whether ``ops.add`` puts a constant elsewhere than broadcasting would."""
        del shape, constant
        return False

    def leaky_slope(slope: float) -> float:
        """The slope that ``leaky_relu`` computes with: in the type of its input."""
        return slope

else:
    raise ImportError(
        f"tfcert runs on the Keras backends tensorflow and jax. Received: {_NAME!r}. "
        "Set the environment variable KERAS_BACKEND before the first import of keras."
    )
