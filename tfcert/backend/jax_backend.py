"""Differentiation, compilation, loops and training steps in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from keras import ops

from tfcert.backend import shared
from tfcert.types import Tensor

__all__ = [
    "TrainStep",
    "bits_as",
    "check_float64",
    "check_full_precision",
    "check_saved_model",
    "compile_for_one_form",
    "compile_function",
    "compiled",
    "convolution_transpose",
    "eagerly",
    "fused",
    "fused_with_gradient",
    "gather",
    "is_symbolic",
    "kernel_constant",
    "long_loop",
    "loop",
    "misplaces_sum",
    "on_accelerator",
    "phases_pay",
    "pipeline",
    "prefers_xla",
    "rectified",
    "replica",
    "replicas",
    "reshape",
    "runs_at_once",
    "split",
    "traced_once",
    "value_and_gradients",
    "vector_jacobian",
    "with_gradient",
    "writes_tensorboard",
]


def vector_jacobian(
    function: Callable[..., Tensor], primals: Sequence[Tensor], cotangent: Tensor
) -> Sequence[Tensor]:
    """``J^T cotangent`` of a function at ``primals``, one tensor per primal."""
    _, pullback = jax.vjp(function, *primals)
    return pullback(cotangent)


def convolution_transpose(
    coefficients: Tensor,
    kernel: Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str,
) -> Tensor:
    """``W^T a`` of a convolution without dilation or groups, channels last: ``(n, *shape)``."""

    def convolution(x: Tensor) -> Tensor:
        return ops.conv(x, kernel, strides, padding, data_format="channels_last")

    zeros = ops.zeros((coefficients.shape[0], *shape), coefficients.dtype)
    (result,) = vector_jacobian(convolution, [zeros], coefficients)
    return result


def with_gradient(
    function: Callable[..., Any], gradient: Callable[[tuple, tuple], tuple]
) -> Callable[..., Any]:
    """A function whose gradient is written out, as ``gradient(arguments, cotangents)``."""

    def backward(arguments: tuple, cotangents: Any) -> tuple:
        several = isinstance(cotangents, tuple | list)
        return gradient(arguments, tuple(cotangents) if several else (cotangents,))

    both = jax.custom_vjp(function)
    both.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return both


def rectified(x: Tensor) -> Tensor:
    """``max(x, 0)`` with the gradient of ReLU, and NaN where x is NaN."""
    return jax.nn.relu(x)


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
    if gradients_for is None:
        return ops.while_loop(condition, body, variables, maximum_iterations=maximum_iterations)

    # JAX differentiates loops of a known length only: turns after the end do nothing.
    def turn(state: tuple, _: Any) -> tuple[tuple, None]:
        following = jax.lax.cond(condition(*state), lambda s: tuple(body(*s)), lambda s: s, state)
        return following, None

    return jax.lax.scan(turn, tuple(variables), length=gradients_for)[0]


def long_loop(
    condition: Callable[..., Tensor],
    body: Callable[..., tuple],
    variables: tuple,
    maximum_iterations: int,
) -> tuple:
    """``loop``, which is compiled anyway."""
    return loop(condition, body, variables, maximum_iterations)


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


def devices_of(model: keras.Model) -> int:
    """On how many devices the model lies."""
    return 1


def replica() -> Any:
    """The number of the device that runs this code."""
    return 0


def replicas() -> int:
    """Returns the number of devices that share a batch."""
    return 1


def compile_for_one_form(
    function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
) -> Callable[..., Any]:
    """``compile_function``, called with arguments of the same structure, shapes and types only."""
    return compile_function(function, model, jit_compile)


def compile_for_devices(
    function: Callable[..., Any], model: keras.Model, jit_compile: bool | None = None
) -> Callable[..., Any]:
    """``compile_function``: there is one device."""
    return compile_function(function, model, jit_compile)


def fused(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """``function(*arguments)``: XLA fuses what it can by itself."""
    return function(*arguments)


def fused_with_gradient(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """``fused``, with a gradient: XLA fuses that, too."""
    return function(*arguments)


def bits_as(values: Tensor, dtype: str) -> Tensor:
    """The same bits, read as another type of the same width."""
    return jax.lax.bitcast_convert_type(values, dtype)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors that XLA compiles, also where it is called eagerly."""
    return jax.jit(function)


def traced_once(function: Callable[..., Any], *vectors: str) -> Callable[..., Any]:
    """A function of tensors for many calls, with one graph for all (of one length, if vectors)."""
    return jax.jit(function)


def eagerly() -> Any:
    """A context that computes at once, also where a graph is being built around it."""
    return jax.ensure_compile_time_eval()


def reshape(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values in another shape of numbers, one of which may be -1."""
    return ops.reshape(values, shape)


def gather(values: Tensor, places: Tensor) -> Tensor:
    """Entries of the first axis at places that are all there."""
    return ops.take(values, places, axis=0)


def pad(values: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    """The values with zeros around them."""
    return ops.pad(values, widths)


def split(values: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Parts of the last axis."""
    ends = [sum(sizes[:count]) for count in range(1, len(sizes))]
    return jax.numpy.split(values, ends, axis=-1)


def total(coefficients: Tensor, values: Tensor) -> Tensor:
    """Sums of products over all axes behind the first two: 0 where the coefficient is, also where
    the value is infinite.
    """
    products = ops.where(coefficients == 0, ops.zeros_like(coefficients), coefficients * values)
    return ops.sum(products, axis=list(range(2, len(products.shape))))


def runs_at_once() -> bool:
    """Whether operations are carried out one by one, with numbers that Python can look at.

    They never are: JAX compiles every operation for itself, so single operations are slow.
    """
    return False


def is_symbolic(value: Any) -> bool:
    """Whether a value has no numbers yet, because a graph is being built from it."""
    return isinstance(value, keras.KerasTensor | jax.core.Tracer)


def pipeline(batches: keras.utils.PyDataset) -> Any:
    """Batches as ``fit`` and ``evaluate`` take them."""
    return batches


class TrainStep:
    """The step of a trainer: gradients of its losses, joined, applied and logged.

    A mixin before ``keras.Model``; the trainer gives ``batch_of``, ``losses_of``, ``combine`` and
    ``log``. A step whose loss or gradient is NaN or infinite is void: it changes neither weights
    nor statistics.
    """

    def train_step(self: Any, state: tuple, data: Any) -> tuple:
        """One step of training, for Keras\'s fit."""
        trainable, fixed, optimizer_state, metrics = state
        before = fixed

        def forward(trainable: list[Tensor]) -> tuple[list[Tensor], tuple]:
            with self._scope(trainable, fixed, metrics) as scope:
                batch = self.batch_of(data, True)
                losses, terms = self.losses_of(batch)
            left = _values(scope, self.non_trainable_variables, fixed)
            return losses, (terms, batch.logits, batch.notes, left)

        losses, pullback, found = jax.vjp(forward, trainable, has_aux=True)
        terms, logits, notes, fixed = found
        gradients = []
        pairs = zip(self.optimizer.variables, optimizer_state, strict=True)
        with keras.StatelessScope(state_mapping=pairs):
            scale = self.optimizer.scale_loss(jax.numpy.ones(()))
        for place in range(len(losses)):
            hot = [scale * jax.numpy.full_like(x, i == place) for i, x in enumerate(losses)]
            gradients.append(pullback(hot)[0])
        with self._scope(trainable, fixed, metrics) as scope:
            batch = self.batch_of(data, True, logits)
            batch.notes.update(notes)
            terms, gradient = self.combine(terms, gradients, batch)
            loss = sum(terms.values())
            finite = shared.is_finite(loss, gradient, self.optimizer)
            loss, gradient = shared.only_finite(finite, loss, gradient)
            logs = self.log(loss, terms, batch, data)
            self.count_step(finite)
        fixed = _values(scope, self.non_trainable_variables, fixed)
        metrics = _values(scope, self.metrics_variables, metrics)
        after = self.optimizer.stateless_apply(optimizer_state, gradient, trainable)
        trainable, optimizer_state = (
            [jax.numpy.where(finite, *pair) for pair in zip(new, old, strict=True)]
            for new, old in zip(after, (trainable, optimizer_state), strict=True)
        )
        statistics = {id(variable) for variable in shared.changed_by_layers(self.model)}
        fixed = [
            jax.numpy.where(finite, new, old) if id(variable) in statistics else new
            for variable, new, old in zip(self.non_trainable_variables, fixed, before, strict=True)
        ]
        return logs, (trainable, fixed, optimizer_state, metrics)

    def test_step(self: Any, state: tuple, data: Any) -> tuple:
        """One step of evaluation, for Keras\'s evaluate and for validation."""
        trainable, fixed, metrics = state
        with self._scope(trainable, fixed, metrics) as scope:
            batch = self.batch_of(data, False)
            _, terms = self.losses_of(batch)
            logs = self.log(sum(terms.values()), terms, batch, data)
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


def phases_pay(channels: int) -> bool:
    """Whether ``tfcert.rules.phases`` is faster for a convolution of a map with so many channels.

    Measured on a CPU, where XLA makes plain loops of the transpose: 1.2 to 7 times as fast.
    """
    del channels
    return jax.default_backend() == "cpu"


def prefers_xla() -> bool:
    """Whether training steps are faster compiled with XLA."""
    return True


def on_accelerator() -> bool:
    """Whether models run on something else than a CPU."""
    return jax.default_backend() != "cpu"


def writes_tensorboard() -> bool:
    """Whether ``keras.callbacks.TensorBoard`` works here."""
    return False


def check_saved_model(what: str) -> None:
    """Raises where no SavedModel can be written, whose format is TensorFlow's."""
    raise NotImplementedError(
        f"{what} writes a TensorFlow SavedModel, so it needs the TensorFlow backend. Received: "
        "KERAS_BACKEND=jax. Save the model with model.save(...), and export it from a process "
        "with KERAS_BACKEND=tensorflow."
    )


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
    shared.check_environment()
    precision = jax.config.jax_default_matmul_precision
    if jax.default_backend() != "cpu" and precision not in ("highest", "float32"):
        raise shared.reduced(
            f"jax_default_matmul_precision={precision} on a {jax.default_backend()}",
            "Call jax.config.update('jax_default_matmul_precision', 'highest').",
        )


def misplaces_sum(shape: tuple[int, ...], constant: tuple[int, ...]) -> bool:
    """Whether ``ops.add`` puts a constant elsewhere than broadcasting would."""
    del shape, constant
    return False


def kernel_constant(value: float) -> float:
    """A constant as ``leaky_relu`` and ``gelu`` hold it: in the type of the input."""
    return value
