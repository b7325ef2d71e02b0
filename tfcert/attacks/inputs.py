"""The arguments of attacks: a model as a function of points, and labelled inputs."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from tfcert import checks, heads
from tfcert.types import Tensor

__all__ = ["Scores", "check", "classes_of", "floats", "outputs_of", "scores_of", "width_of"]

# function(points) -> scores, (batch, classes)
Scores = Callable[[Tensor], Tensor]


def scores_of(model: keras.Model) -> Scores:
    """The model's scores (``heads.scored``) in inference mode.

    Where a softmax cannot be left out, the scores are the logarithm of its outputs. The logarithm
    orders the classes alike. It undoes the softmax up to a constant, and with it the gradients that
    vanish where the model is sure.
    """
    found = heads.scored(model).model
    softmax, logits = heads.head_of(found).activation == "softmax", outputs_of(found)

    def scores(points: Tensor) -> Tensor:
        outputs = logits(points)
        if not softmax:
            return outputs
        tiny = float(np.finfo(keras.backend.standardize_dtype(outputs.dtype)).tiny)
        return ops.log(ops.maximum(outputs, tiny))

    return scores


def outputs_of(model: keras.Model) -> Scores:
    """The model's own outputs in inference mode, at least in float32."""

    def outputs(points: Tensor) -> Tensor:
        found = model(points, training=False)
        if keras.backend.standardize_dtype(found.dtype) in ("float16", "bfloat16"):
            return ops.cast(found, "float32")  # sums over a batch would overflow
        return found

    return outputs


def floats(model: keras.Model, x: Tensor, why: str = "The attack") -> Tensor:
    """Inputs as floats; raises unless the model has one input, and there are some.

    Args:
        model: The model.
        x: Inputs.
        why: What needs them.
    """
    if len(getattr(model, "inputs", None) or [None]) > 1:
        raise NotImplementedError(
            f"Model {model.name!r} has {len(model.inputs)} inputs. {why} takes a region for each, "
            "in a call or by worst_points."
        )
    x = ops.convert_to_tensor(x)
    checks.check_not_empty(x)
    if not keras.backend.is_float_dtype(x.dtype):
        x = ops.cast(x, keras.config.floatx())
    return x


def check(
    model: keras.Model, x: Tensor, y: Tensor, least: int = 2, why: str = "The attack"
) -> tuple[Tensor, Tensor]:
    """Inputs as floats and labels as integers; raises unless all three fit together.

    Args:
        model: The model.
        x: Inputs.
        y: Labels.
        least: How many classes are needed.
        why: What needs them.
    """
    x = floats(model, x, why)
    classes = classes_of(model, x)
    if classes < least:
        raise ValueError(
            f"{why} needs a model with at least {least} classes. Received: a model with {classes}."
        )
    return x, checks.as_labels(y, x.shape[0], classes)


def classes_of(model: keras.Model, x: Tensor) -> int:
    """Returns the number of a model's classes; two for a single output."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    return width_of(heads.scored(model, x).model, x)


def width_of(model: keras.Model, x: Tensor) -> int:
    """How many numbers a model returns for an input."""
    outputs = getattr(model, "outputs", None)
    # A model that is written as a class tells its shapes only by running.
    outputs = outputs or keras.tree.flatten(model(x[:1], training=False))
    shapes = [tuple(output.shape) for output in outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise ValueError(
            "Attacks need a model with one output of shape (batch, classes). "
            f"Received: outputs of shapes {shapes}."
        )
    return shapes[0][1]
