"""The derivative of a model's outputs by one feature of its input, as a Keras model.

The model of the derivative shares the layers and the weights of the model, so all that is done with
models is done with it: bounds, attacks, verification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.layers import Step
from tfcert.network import checked_model, derived_from
from tfcert.properties import Linear, Monotone

__all__ = ["derivative", "resolved"]


def derivative(model: keras.Model, feature: int) -> keras.Model:
    """The model of ``d f(x) / d x_feature``, by the chain rule from the input on.

    At the kink of a ReLU its derivative counts as 0. Whatever is counted there, the integral of the
    result along a line in the direction of the feature is the difference of the outputs: a line
    either crosses a kink at single points, or stays on it, where the ReLU's input does not change.

    Args:
        model: A built model with one input, ``(batch, features)``, and one output. Its layers may
            be dense, convolutional, normalising (with fixed statistics), rearranging, adding or
            averaging, with the activations relu, leaky_relu, relu6, elu, tanh, sigmoid and
            softplus.
        feature: The place of the feature.

    Returns:
        A model of the same input, with an output of the shape of the model's. It follows the
        weights of the model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[3.0], [-1.0]]), np.zeros(1)])
    >>> np.asarray(tfcert.derivative(model, 1)(np.ones((1, 2)))).tolist()
    [[-1.0]]
    """
    readable = checked_model(model)
    shape = tuple(readable.inputs[0].shape)[1:] if len(readable.inputs) == 1 else ()
    if len(shape) != 1 or len(readable.outputs) != 1:
        raise ValueError(
            "`model` must have one input of shape (batch, features) and one output. "
            f"Received: inputs of shapes {[tuple(one.shape) for one in readable.inputs]} and "
            f"{len(readable.outputs)} outputs."
        )
    whole = isinstance(feature, (int, np.integer)) and not isinstance(feature, bool)
    if not whole or not 0 <= feature < shape[0]:
        raise ValueError(
            f"`feature` must be an integer in [0, {shape[0]}), a place in the input. "
            f"Received: feature={feature!r}."
        )
    made = derived_from(readable).once(_derivatives)
    if int(feature) not in made:
        made[int(feature)] = _derivative(readable, int(feature))
    return made[int(feature)]


def resolved(model: Any, asked: Any, region: Any) -> tuple[Any, Any]:
    """The model and the property that a relation of two inputs is about; others as they are."""
    if not isinstance(asked, Monotone):
        return model, asked
    if getattr(region, "is_finite", False):
        raise ValueError(
            "A monotone output is one along lines: `region` must hold the line between two of its "
            f"points that differ in the feature. Received: region={region!r}."
        )
    if any(asked.feature in group for group in getattr(region, "groups", ())):
        raise ValueError(
            "`feature` must not belong to a one-hot group, whose values no line joins. "
            f"Received: feature={asked.feature}, groups={region.groups}."
        )
    slopes = derivative(model, asked.feature)
    outputs = int(slopes.outputs[0].shape[-1])
    if asked.output is not None and asked.output >= outputs:
        raise ValueError(
            f"`output` must lie in [0, {outputs}), the model's outputs. "
            f"Received: output={asked.output}."
        )
    rows = np.eye(outputs) if asked.output is None else np.eye(outputs)[[asked.output]]
    return slopes, Linear(rows if asked.increasing else -rows, asked.slack)


class _Dual:
    """A value of the model, and its derivative."""

    def __init__(self, value: Any, slope: Any, dtype: str):
        self.value, self.slope, self.dtype = value, slope, dtype

    def step(self, x: Any) -> Any:
        """The step, in the type of the model: that of symbolic values may be another one."""
        return Step(dtype=self.dtype)(x)


def _derivatives(model: keras.Model) -> dict[int, keras.Model]:
    """The derivatives of a model that were made so far, by the feature."""
    del model
    return {}


def _derivative(model: keras.Model, feature: int) -> keras.Model:
    x = keras.Input(tuple(model.inputs[0].shape)[1:], dtype=model.inputs[0].dtype)
    direction = np.eye(x.shape[1], dtype=x.dtype)[feature]
    copies: dict[tuple[int, bool], Any] = {}

    def copy_of(layer: keras.layers.Layer, bends: bool) -> Any:
        """The layer with or without its activation; a layer that is called twice has one copy."""
        key = (id(layer), bends)
        if key not in copies:
            names = {} if bends else {"activation": _linear, "name": f"{layer.name}_straight"}
            copies[key] = graph.copied(layer, **names)
        return copies[key]

    def visit(operation: Any, args: tuple, kwargs: dict, specs: list) -> _Dual:
        del specs
        kwargs = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
        return _applied(operation, args, kwargs, copy_of)

    start = _Dual(x, ops.zeros_like(x) + direction, x.dtype)
    (found,) = keras.tree.flatten(graph.interpret(model, [start], visit))
    return keras.Model(x, found.slope, name=f"{model.name}_slope")


def _applied(operation: Any, args: tuple, kwargs: dict, copy_of: Callable[..., Any]) -> _Dual:
    """A layer or an operation of values that have derivatives."""
    name = type(operation).__name__
    if graph.is_written_by_keras(type(operation)):
        function = getattr(operation, "activation", None)
        if name == "Activation":
            return _bent(operation, function, args[0])
        if name in _LAYERS_THAT_BEND:
            return _bent(operation, operation, args[0])
        if name in _OPERATIONS_THAT_BEND:
            return _bent(
                operation, getattr(keras.activations, _OPERATIONS_THAT_BEND[name]), args[0]
            )
        if _is_affine(operation, args, kwargs) and not isinstance(operation, keras.layers.Layer):
            return _straight(operation, args, kwargs)
        if _is_affine(operation, args, kwargs):
            straight = _straight(copy_of(operation, function is None), args, kwargs)
            return straight if function is None else _bent(operation, function, straight)
    raise NotImplementedError(
        f"Layer {operation.name!r} ({name}) has no derivative here. Derivatives are taken of "
        "dense, convolutional, normalising, rearranging, adding and averaging layers, and of the "
        f"activations {', '.join(sorted(_SLOPES))}."
    )


_linear = keras.activations.linear


def _straight(operation: Any, args: tuple, kwargs: dict) -> _Dual:
    """An affine operation: ``A(v) - A(0)`` of the derivatives v."""

    def of(part: Callable[[_Dual], Any]) -> Any:
        def chosen(value: Any) -> Any:
            return part(value) if isinstance(value, _Dual) else value

        return operation(
            *keras.tree.map_structure(chosen, args), **keras.tree.map_structure(chosen, kwargs)
        )

    still = of(lambda dual: ops.zeros_like(dual.slope))
    dtype = next(one.dtype for one in keras.tree.flatten((args, kwargs)) if isinstance(one, _Dual))
    return _Dual(of(lambda dual: dual.value), of(lambda dual: dual.slope) - still, dtype)


def _bent(operation: Any, function: Any, given: _Dual) -> _Dual:
    """A scalar function: its derivative at the value, times that of the value."""
    slope_of = _slope_of(function)
    if slope_of is None:
        shown = getattr(function, "__name__", type(function).__name__)
        raise NotImplementedError(
            f"Layer {operation.name!r} ({type(operation).__name__}): the activation {shown} has no "
            f"derivative here. Those are: {', '.join(sorted(_SLOPES))}."
        )
    if function is _linear:
        return given
    slope = slope_of(given.value, given.step) * given.slope
    return _Dual(function(given.value), slope, given.dtype)


# A function of x, and of what gives the step of values.
Slope = Callable[[Any, Callable[[Any], Any]], Any]


def _sigmoid_slope(x: Any, step: Any) -> Any:
    del step
    # A square, whose range is exact where that of s (1 - s) is not.
    return 0.25 - ops.square(ops.sigmoid(x) - 0.5)


# The derivatives of functions, composed of what has rules.
_SLOPES: dict[str, Slope] = {
    "linear": lambda x, step: ops.ones_like(x),
    "relu": lambda x, step: step(x),
    "relu6": lambda x, step: step(x) - step(x - 6.0),
    "leaky_relu": lambda x, step: 0.2 + 0.8 * step(x),
    "elu": lambda x, step: ops.exp(-ops.relu(-x)),
    "tanh": lambda x, step: 1.0 - ops.square(ops.tanh(x)),
    "sigmoid": _sigmoid_slope,
    "softplus": lambda x, step: ops.sigmoid(x),
}

# Layers that are an activation themselves, with defaults that make them what is above.
_LAYERS_THAT_BEND = ("ReLU", "LeakyReLU", "ELU")
_OPERATIONS_THAT_BEND = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
}


def _slope_of(function: Any) -> Slope | None:
    """The derivative of a function, or of a layer that is an activation; None if not known."""
    if not isinstance(function, keras.layers.Layer):
        name = getattr(function, "__name__", "")
        ours = getattr(keras.activations, name, None) is function
        return _SLOPES.get(name) if ours else None
    if isinstance(function, keras.layers.ReLU):
        plain = (
            function.max_value is None and not function.negative_slope and not function.threshold
        )
        return _SLOPES["relu"] if plain else None
    if isinstance(function, keras.layers.LeakyReLU):
        below = float(function.negative_slope)
        return lambda x, step: below + (1.0 - below) * step(x)
    return _SLOPES["elu"] if float(function.alpha) == 1.0 else None


# Whatever their arguments, affine in their inputs at inference.
# fmt: off
_AFFINE = frozenset(
    (
        "Dense", "EinsumDense", "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D",
        "SeparableConv1D", "SeparableConv2D", "BatchNormalization", "Normalization", "Rescaling",
        "Flatten", "Reshape", "Permute", "RepeatVector", "Average", "AveragePooling1D",
        "AveragePooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "ZeroPadding1D",
        "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D", "UpSampling2D", "Add",
        "Subtract", "Concatenate", "Dropout", "SpatialDropout1D", "SpatialDropout2D",
        "GaussianDropout", "GaussianNoise", "AlphaDropout", "Identity", "GetItem", "Squeeze",
        "ExpandDims", "Transpose", "Negative", "Mean", "Sum", "Stack", "Moveaxis", "Swapaxes",
        "Pad", "Flip", "Roll", "Tile", "Repeat",
    )
)
# fmt: on
# Affine where a single argument depends on the input.
_BILINEAR = frozenset(["Multiply", "Matmul", "Einsum", "Dot"])


def _is_affine(operation: Any, args: tuple, kwargs: dict) -> bool:
    name = type(operation).__name__
    duals = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, _Dual)]
    if name in ("Divide", "TrueDivide"):
        return len(duals) == 1 and isinstance(args[0], _Dual)
    return name in _AFFINE or (name in _BILINEAR and len(duals) == 1)
