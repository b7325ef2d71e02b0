"""Walks a Keras model call by call."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

__all__ = [
    "Origin",
    "Types",
    "Visit",
    "check_call",
    "example_inputs",
    "inputs_of",
    "interpret",
    "is_of_applications",
    "is_operation_of_keras",
    "is_variable",
    "is_written_by_keras",
    "layers_of",
    "loss_tracker",
    "note_shapes",
    "origin",
    "readers",
    "seed_generators",
    "start_at_epoch",
    "types_of",
    "wants_walk",
    "weight_type",
]

# visit(operation, args, kwargs, output_specs) -> a value, or a list with one value per output.
Visit = Callable[[Any, tuple, dict, list], Any]

_FUNCTIONAL = type(keras.Model(*2 * (keras.Input((1,)),)))


def wants_walk(operation: Any) -> bool:
    """Whether an operation is itself a graph of operations: a functional or sequential model.

    A model that overrides ``call`` is none, since its layers do not tell what it computes.
    """
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call
    if isinstance(operation, _FUNCTIONAL):
        return type(operation).call is _FUNCTIONAL.call
    return isinstance(operation, keras.Function)


def inputs_of(model: Any) -> Any:
    """The symbolic inputs of a graph, in their structure."""
    return _function_of(model)._inputs_struct


def example_inputs(model: keras.Model) -> Any:
    """Symbolic inputs for a model that is written as a class, of the shapes that it was built for.

    Raises:
        ValueError: The model was not built yet.
    """
    shapes = list((model.get_build_config() or {}).values())
    shapes = shapes or [vars(model).get("_tfcert_shapes")]  # Keras does not always note them.
    if not model.built or len(shapes) != 1 or shapes[0] is None:
        raise ValueError(
            f"Model {model.name!r} is not built, so its shapes are unknown. Call the model on data "
            "first: model(x)."
        )
    return _shaped(shapes[0], vars(model).get("_tfcert_types"), model.compute_dtype)


def note_shapes(model: keras.Model, x: Any) -> None:
    """Notes the shapes of a model's inputs, and which hold integers, for ``example_inputs``."""

    def shape_of(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: shape_of(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [shape_of(value) for value in part]
        return tuple(part.shape)

    def type_of(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: type_of(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [type_of(value) for value in part]
        name = keras.backend.standardize_dtype(part.dtype)
        return None if "float" in name else name

    object.__setattr__(model, "_tfcert_shapes", shape_of(x))  # Past Keras's tracking.
    object.__setattr__(model, "_tfcert_types", type_of(x))


def _shaped(shape: Any, types: Any, dtype: str, name: str | None = None) -> Any:
    """Inputs for one shape, or for a list or a dictionary of them.

    Args:
        shape: The shapes.
        types: The types in the same structure; None for floats.
        dtype: The type of floats.
        name: The key of the input in a dictionary.
    """
    if isinstance(shape, dict):
        several = types if isinstance(types, dict) else {}
        return {key: _shaped(part, several.get(key), dtype, key) for key, part in shape.items()}
    if shape and not all(size is None or isinstance(size, int) for size in shape):
        listed = types if isinstance(types, list) else [None] * len(shape)
        return [_shaped(part, own, dtype) for part, own in zip(shape, listed, strict=True)]
    return keras.Input(tuple(shape[1:]), dtype=dtype if types is None else types, name=name)


def is_variable(value: Any) -> bool:
    """Whether an argument of a call is a variable."""
    return isinstance(value, keras.Variable)


def _function_of(model: Any) -> Any:
    """The functional graph behind a model, or an error that says why there is none."""
    if not wants_walk(model):
        raise NotImplementedError(
            f"Model {model.name!r} ({type(model).__name__}) has no graph of layers that tfcert can "
            "follow. Build it as a Sequential or Functional model."
        )
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise ValueError(
                f"Model {model.name!r} is not built, so its shapes are unknown. Start it with "
                "keras.Input(shape), or call model.build((None, ...)) or the model on data first."
            )
        return model._functional
    return model


def interpret(model: Any, inputs: list, visit: Visit, checked: bool = True) -> Any:
    """Runs ``visit`` over every call of a model, in order, and returns the model's outputs.

    Nested models are entered, so ``visit`` only sees layers and ``keras.ops`` operations; a layer
    that is used twice is visited twice.

    Args:
        model: A built Sequential or Functional model (or a keras.Function).
        inputs: One value per input of the model, of any type.
        visit: Called with the operation, and its arguments with values in place of tensors.
        checked: Whether calls that compute no fixed function of their inputs are refused.

    Returns:
        The values in the structure of the model's outputs.
    """
    function = _function_of(model)
    values = {id(tensor): value for tensor, value in zip(function.inputs, inputs, strict=True)}

    def value_of(argument: Any) -> Any:
        return values[id(argument)] if isinstance(argument, keras.KerasTensor) else argument

    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.operation is None or node.is_input:
                continue
            if any(id(tensor) not in values for tensor in node.input_tensors):
                continue
            args = keras.tree.map_structure(value_of, node.arguments.args)
            kwargs = keras.tree.map_structure(value_of, node.arguments.kwargs)
            if checked:
                check_call(node.operation, kwargs)
            if wants_walk(node.operation):
                given = _given(node.operation, node.arguments)
                result = interpret(node.operation, [values[id(t)] for t in given], visit, checked)
            else:
                result = visit(node.operation, args, kwargs, node.outputs)
            for tensor, value in zip(node.outputs, keras.tree.flatten(result), strict=True):
                values[id(tensor)] = value
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], function._outputs_struct)


def _given(model: Any, arguments: Any) -> list:
    """The tensors that a nested model is called on, in the order of its own inputs."""
    function = _function_of(model)
    given = arguments.args[0] if arguments.args else arguments.kwargs["inputs"]
    structure = getattr(function, "_inputs_struct", None)
    if isinstance(given, dict) and not isinstance(structure, dict):
        given = [given[tensor.name] for tensor in function.inputs]
    tensors = keras.tree.flatten(given)
    for tensor, own in zip(tensors, function.inputs, strict=True):
        if len(tensor.shape) != len(own.shape) or tensor.dtype != own.dtype:
            raise NotImplementedError(
                f"Model {model.name!r} is called on a value of shape {tensor.shape} and type "
                f"{tensor.dtype}, and takes {own.shape} and {own.dtype}. Keras converts such "
                "values on the way; give it what it takes."
            )
    return tensors


class Origin(NamedTuple):
    """The call that made a symbolic tensor.

    Attributes:
        operation: The layer, the nested model or the ``keras.ops`` operation.
        inputs: The tensors that it was called on; of a nested model in the order of its inputs.
        place: The number of the tensor among the operation's outputs.
    """

    operation: Any
    inputs: list
    place: int


def origin(tensor: keras.KerasTensor) -> Origin:
    """The call that made a symbolic tensor of a model, such as ``model.outputs[0]``."""
    operation, call, place = tensor._keras_history
    node = operation._inbound_nodes[call]
    if wants_walk(operation):
        return Origin(operation, _given(operation, node.arguments), place)
    return Origin(operation, list(node.input_tensors), place)


def readers(model: keras.Model, tensor: keras.KerasTensor) -> list[Any]:
    """The calls in a model that read a tensor, with their ``operation`` and their ``outputs``."""
    calls = itertools.chain(*_function_of(model)._nodes_by_depth.values())
    return [call for call in calls if any(t is tensor for t in call.input_tensors)]


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model: nested models among them, and the layers of nested models."""
    return list(model._flatten_layers(include_self=False))


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Returns the seed generators of the model's layers, such as Dropout."""
    known = [g for layer in [model, *layers_of(model)] for g in layer._seed_generators]
    return list({id(generator): generator for generator in known}.values())


def is_written_by_keras(part: Any) -> bool:
    """Whether a class or a function is Keras's own."""
    return (getattr(part, "__module__", None) or "").startswith("keras.")


def is_of_applications(kind: type) -> bool:
    """Whether a class is one of the layers that a file of ``keras.applications`` has of its own."""
    return kind.__module__.startswith("keras.src.applications.")


def is_operation_of_keras(kind: type) -> bool:
    """Whether a class is one of the private classes behind the functions of ``keras.ops``."""
    return kind.__module__.startswith("keras.src.") and not issubclass(kind, keras.layers.Layer)


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The metric that a compiled model shows as ``loss``."""
    return model._loss_tracker


def start_at_epoch(model: keras.Model, epoch: int) -> None:
    """Makes a ``fit`` that has just begun count its epochs from this one."""
    model._initial_epoch = epoch


def check_call(operation: Any, kwargs: dict) -> None:
    """Raises where a call inside a model computes no fixed function of its inputs."""
    name = f"Layer {operation.name!r} ({type(operation).__name__})"
    if kwargs.get("training") and not _trains_by_default(operation):
        raise NotImplementedError(
            f"{name} is called with training=True inside the model, so it does not compute a fixed "
            "function. Remove that argument."
        )
    if not isinstance(operation, keras.layers.Layer):
        return  # The mask of a function of keras.ops is an argument like any other.
    if any(mask is not None for mask in keras.tree.flatten(kwargs.get("mask"))):
        raise NotImplementedError(
            f"{name} is called with a mask, which has no bound rule. Remove the masking."
        )


def _trains_by_default(operation: Any) -> bool:
    """Whether Keras notes training=True for a call that says nothing, as for augmentations.

    Prediction and evaluation override what is noted.
    """
    argument = inspect.signature(operation.call).parameters.get("training")
    return argument is not None and argument.default is True


_BEHIND_INTEGERS = (
    " Give words that may change as tfcert.regions.WordSubstitutions, or bound the part behind an "
    "Embedding: tfcert.split_embedding(model).rest."
)


class Types(NamedTuple):
    """The float types of a model.

    Attributes:
        whole: The type of its input and of all its weights.
        reduced: The shorter type that some of its layers compute in; "" for none.
    """

    whole: str
    reduced: str


def types_of(model: keras.Model) -> Types:
    """The one float type of a model, and the shorter one that its policy computes in."""
    (entry,) = _function_of(model).inputs
    kinds: dict[str, str] = {entry.dtype: f"input {entry.name!r}"}
    reduced: dict[str, str] = {}

    def visit(operation: Any, args: tuple, kwargs: dict, outputs: list) -> list:
        del args, kwargs
        if isinstance(operation, keras.layers.Layer) and operation.compute_dtype is not None:
            own, used = operation.variable_dtype, operation.compute_dtype
            kinds.setdefault(own, f"layer {operation.name!r}")
            if used != own:
                reduced.setdefault(used, f"layer {operation.name!r}")
        return [None] * len(outputs)

    interpret(model, [None], visit)
    for kind, name in kinds.items():
        if kind not in ("float32", "float64"):
            raise ValueError(
                f"{name.capitalize()} of model {model.name!r} has the type {kind}. Supported "
                f"types: float32, float64.{_BEHIND_INTEGERS if 'int' in kind else ''}"
            )
    if len(kinds) > 1:
        uses = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise ValueError(
            f"Model {model.name!r} computes in several types: {uses}. "
            "Rebuild it with one dtype policy, 'float32' or 'float64', and the same dtype for "
            "keras.Input."
        )
    return Types(entry.dtype, ", ".join(reduced))


def weight_type(model: keras.Model) -> str | None:
    """The type of a model's weights: that of the first layer that has any; None without."""
    layers = [layer for layer in layers_of(model) if not isinstance(layer, keras.Model)]
    return next((layer.variable_dtype for layer in layers if layer.weights), None)
