"""The end of a model: its last activation, and the model of the scores before it.

This is the one place that knows what a classifier's outputs mean. Bounds of margins, attacks,
training, certification, verification and export all ask `scored`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from tfcert import graph, tracing
from tfcert.network import checked_model, derived_from

__all__ = ["Head", "Scored", "head_of", "scored", "without_activation"]

# Layers and operations that leave the largest score the largest, and a softmax a softmax.
_PASSES = ("Dropout", "Flatten", "Identity", "Reshape")

# Layers and operations that are an activation themselves.
_ACTIVATIONS = {
    "LogSoftmax": "log_softmax",
    "ReLU": "relu",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}


class Head(NamedTuple):
    """The last activation of a model, found behind what only passes its values on.

    Attributes:
        activation: Its name, such as "softmax"; "linear" where the scores come from something else.
        operation: The layer or the operation that applies the activation or, where there is none,
            makes the scores. None for a model that is written as a class.
        removable: Whether `without_activation` can leave it out.
    """

    activation: str
    operation: Any
    removable: bool


class Scored(NamedTuple):
    """A classifier's scores, whose order decides the class.

    Attributes:
        model: Gives the scores, ``(batch, classes)``. It shares the layers and the variables of the
            classifier, and is the classifier itself where there is nothing to leave out.
        threshold: Of a model with a single output: class 1 is where the output is above it. None
            for other models.
        ending: The activation that the scores leave out; "" for none.
    """

    model: keras.Model
    threshold: float | None = None
    ending: str = ""

    def check_rounding(self) -> None:
        """Raises where float_safe cannot cover the model's own outputs."""
        if self.ending:
            raise NotImplementedError(
                f"Model {self.model.name!r} ends in {self.ending}, whose rounding float_safe does "
                "not cover. Certify, and deploy, the model that ends in logits."
            )


def scored(model: keras.Model, x: Any = None, *, read: bool = True) -> Scored:
    """The scores that decide the class of a model with one output, ``(batch, outputs)``.

    A final softmax or log_softmax is left out, since it changes no order. A model with a single
    output is a binary classifier: the output is a logit z or, behind a sigmoid, a probability. Its
    scores are 0 and z, so that the margin of the label y is ``(2 y - 1) z``.

    Args:
        model: The classifier. One that is written as a class, and cannot be read, is taken as it
            is.
        x: As for ``network.checked_model``.
        read: Whether layers of the user's own may be replaced by what their ``call`` does.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    >>> found = heads.scored(model)
    >>> found.model.output_shape, found.threshold
    ((None, 2), 0.5)
    """
    if not read:
        return derived_from(model).once(_scored)
    try:
        readable = checked_model(model, x)
    except NotImplementedError:
        return Scored(model)
    return derived_from(readable).once(_scored)


def head_of(model: keras.Model) -> Head:
    """Returns the head of a model with one output.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    >>> heads.head_of(model).activation
    'softmax'
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return Head("linear", None, removable=False)
    tensor = outputs[0]
    while True:
        operation, inputs, place = graph.origin(tensor)
        if graph.wants_walk(operation):
            tensor = operation.outputs[place]
        elif _passes(operation) and len(inputs) == 1:
            tensor = inputs[0]
        else:
            name, function = _activation(operation)
            ours = graph.is_written_by_keras(type(operation))
            return Head(name, operation, ours and _is_removable(name, function, tensor))


def without_activation(model: keras.Model) -> keras.Model:
    """The same layers and variables without the last activation, which must be removable."""
    scores = _model(model.inputs, _before_activation(model.outputs[0]))
    scores.name = model.name
    return scores


def _model(inputs: list, output: keras.KerasTensor) -> keras.Model:
    """A model that takes one tensor, not a list of one, where it has one input."""
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, output)


def _before_activation(tensor: keras.KerasTensor) -> keras.KerasTensor:
    operation, inputs, place = graph.origin(tensor)
    if graph.wants_walk(operation):
        inner = _before_activation(operation.outputs[place])
        return _model(operation.inputs, inner)(inputs[0] if len(inputs) == 1 else inputs)
    if _passes(operation):
        return operation(_before_activation(inputs[0]))
    if _is_activation_alone(operation):
        return inputs[0]
    return graph.with_activation(operation, keras.activations.linear)(inputs[0])


def _scored(model: keras.Model) -> Scored:
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2:
        return Scored(model)
    head, alone = head_of(model), shape[1] == 1
    ending = head.activation
    if alone and tracing.is_hidden(head.operation):
        raise NotImplementedError(
            f"Model {model.name!r} has one output, which layer {head.operation.name!r} "
            f"({type(head.operation).__name__}) computes: tfcert cannot see whether the output is "
            "a logit or a probability. Move the last layer, or the sigmoid, out of this layer."
        )
    if alone and ending in ("softmax", "relu"):
        raise ValueError(
            "`model` must return a logit or a probability if it has one output. Received: model "
            f"{model.name!r}, which ends in {ending}."
        )
    if alone and ending == "sigmoid" and not head.removable:
        raise NotImplementedError(
            f"Model {model.name!r} ends in a function {ending} that is not Keras's own, so tfcert "
            "cannot see the logit before it. Use the model that ends in the logit."
        )
    strips = head.removable and ending in (("sigmoid",) if alone else ("softmax", "log_softmax"))
    scores = without_activation(model) if strips else model
    return Scored(
        _pair(scores) if alone else scores,
        (0.5 if strips else 0.0) if alone else None,
        ending if strips else "",
    )


def _pair(logit: keras.Model) -> keras.Model:
    """Scores 0 and z of a model with the output z: class 1 where z > 0."""
    layer = keras.layers.Dense(2, use_bias=False, trainable=False, dtype=logit.dtype_policy)
    pair = _model(logit.inputs, layer(logit.outputs[0]))
    pair.name = logit.name
    layer.set_weights([np.array([[0.0, 1.0]])])
    return pair


def _passes(operation: Any) -> bool:
    name = type(operation).__name__
    return name in _PASSES or (name == "Activation" and _activation(operation)[0] == "linear")


def _activation(operation: Any) -> tuple[str, Any]:
    """The name of the activation that an operation applies, and what computes it."""
    function = getattr(operation, "activation", None)
    if function is None or isinstance(operation, keras.layers.RNN):
        function = operation  # A recurrent layer applies its activation at every step.
    if isinstance(function, keras.Operation):
        return _ACTIVATIONS.get(type(function).__name__, "linear"), function
    return getattr(function, "__name__", "linear"), function


def _is_activation_alone(operation: Any) -> bool:
    """Whether an operation computes its activation and nothing before it."""
    return isinstance(operation, keras.layers.Activation) or not hasattr(operation, "activation")


def _is_removable(name: str, function: Any, tensor: keras.KerasTensor) -> bool:
    """Whether Keras's own activation is applied to the scores of one input at a time."""
    whole = isinstance(function, keras.Operation)
    if name == "linear" or not graph.is_written_by_keras(type(function) if whole else function):
        return False
    if name not in ("softmax", "log_softmax"):
        return True
    axis = getattr(function, "axis", -1)
    return len(tensor.shape) == 2 and axis in (-1, 1, [-1], [1], (-1,), (1,))
