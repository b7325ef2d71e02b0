"""How a model ends: which activation makes its scores, and the model without that activation."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from tfcert import graph

__all__ = ["Head", "head_of", "without_activation"]

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


class Copied(NamedTuple):
    """A layer, and its copy without the activation."""

    layer: keras.layers.Layer
    copy: keras.layers.Layer


def head_of(model: keras.Model) -> Head:
    """How a model with one output ends.

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


def without_activation(model: keras.Model) -> tuple[keras.Model, list[Copied]]:
    """The same layers without the last activation, which must be removable.

    Returns:
        The model, and the layers that it has copies of, since the activation was a part of them.
        Their weights are not copied yet: copy them whenever they may have changed.
    """
    copies: list[Copied] = []
    return _model(model.inputs, _before_activation(model.outputs[0], copies)), copies


def _model(inputs: list, output: keras.KerasTensor) -> keras.Model:
    """A model that takes one tensor, not a list of one, where it has one input."""
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, output)


def _before_activation(tensor: keras.KerasTensor, copies: list[Copied]) -> keras.KerasTensor:
    operation, inputs, place = graph.origin(tensor)
    if graph.wants_walk(operation):
        inner = _before_activation(operation.outputs[place], copies)
        return _model(operation.inputs, inner)(inputs[0] if len(inputs) == 1 else inputs)
    if _passes(operation):
        return operation(_before_activation(inputs[0], copies))
    if _is_activation_alone(operation):
        return inputs[0]
    copy = type(operation).from_config({**operation.get_config(), "activation": "linear"})
    copies.append(Copied(operation, copy))
    return copy(inputs[0])


def _passes(operation: Any) -> bool:
    name = type(operation).__name__
    return name in _PASSES or (name == "Activation" and _activation(operation)[0] == "linear")


def _activation(operation: Any) -> tuple[str, Any]:
    """The name of the activation that an operation applies, and what computes it."""
    function = getattr(operation, "activation", None)
    if function is None:
        function = operation
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
