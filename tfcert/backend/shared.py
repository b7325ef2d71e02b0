"""Functions that both backends share."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = [
    "PORTABLE",
    "WEIGHTS_STAY",
    "changed_by_layers",
    "check_environment",
    "is_finite",
    "only_finite",
    "portable",
    "reduced",
    "weights_stay",
]

# Whether gradients are being taken by given tensors alone, with all weights as they are.
WEIGHTS_STAY: contextvars.ContextVar[bool] = contextvars.ContextVar("WEIGHTS_STAY", default=False)
# Whether the graph that is being built will run where there may be no compiler.
PORTABLE: contextvars.ContextVar[bool] = contextvars.ContextVar("PORTABLE", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Graphs that are built in this context hold no parts that only XLA can run."""
    token = PORTABLE.set(True)
    try:
        yield
    finally:
        PORTABLE.reset(token)


def weights_stay() -> bool:
    """Whether nobody asks for gradients by weights.

    Graphs leave out by themselves what nobody asks for. Where operations are carried out one by
    one, it must not be computed: it can take most of the time.
    """
    return WEIGHTS_STAY.get()


def reduced(setting: str, remedy: str) -> ValueError:
    """The error for a setting that float_safe does not cover."""
    return ValueError(
        f"float_safe covers products in full float32. Received: {setting}, which rounds their "
        f"operands to fewer bits. {remedy}"
    )


def check_environment() -> None:
    """oneDNN, which both backends may call on a CPU, takes fewer bits where it is told to."""
    for name in (
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "DNNL_DEFAULT_FPMATH_MODE",
        "TF_SET_ONEDNN_FPMATH_MODE",
    ):
        if os.environ.get(name, "STRICT").upper() != "STRICT":
            raise reduced(f"{name}={os.environ[name]}", f"Unset {name}.")


def is_finite(
    loss: Tensor, gradient: list[Tensor], optimizer: keras.optimizers.Optimizer
) -> Tensor:
    """Whether a loss and all of its gradient are finite.

    A loss may be finite where its gradient is not: a ReLU may turn NaN into 0. An optimizer that
    scales losses looks for overflows itself, leaves such steps out and lowers its scale.
    """
    finite = ops.isfinite(loss)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return finite
    for part in gradient:
        finite = ops.logical_and(finite, ops.isfinite(ops.sum(part)))
    return finite


def only_finite(
    finite: Tensor, loss: Tensor, gradient: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradient; NaN and 0 where the step is void."""
    gradient = [ops.where(finite, part, ops.zeros_like(part)) for part in gradient]
    return ops.where(finite, loss, ops.full_like(loss, float("nan"))), gradient


def changed_by_layers(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that layers change in a forward pass, such as moving statistics."""
    layers = [model, *model._flatten_layers(include_self=False)]
    own = {id(v): v for layer in layers for v in layer._non_trainable_variables}
    return [v for v in own.values() if keras.backend.is_float_dtype(v.dtype)]
