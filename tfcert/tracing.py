"""Models and layers that are written as classes, read by calling them on symbolic inputs.

Keras records which layers a functional model calls, but not what the ``call`` of a layer or of a
model written as a class does, nor the function of a ``Lambda``. Called on symbolic tensors they
tell. What depends on more than the recorded calls is refused: a variable whose value is read on the
way would be frozen in the record.
"""

from __future__ import annotations

import linecache
import re
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.rules import advice, registry
from tfcert.rules.held import Held

__all__ = ["explain", "is_hidden", "readable"]

# Packages whose lines of code say nothing to the user.
_NOT_THE_USERS = ("absl", "jax", "keras", "numpy", "optree", "tensorflow", "tfcert")

# Operations that change nothing where the type is the same.
_CONVERSIONS = ("Cast", "ConvertToTensor")


def is_hidden(operation: Any) -> bool:
    """Whether what a layer computes has to be read from its own ``call``: it has no rule."""
    return (
        isinstance(operation, keras.layers.Layer)
        and not graph.wants_walk(operation)
        and not registry.has_rule(operation)
        and (
            type(operation) is keras.layers.Lambda
            or not graph.is_written_by_keras(type(operation))
            or graph.is_of_applications(type(operation))
        )
    )


def readable(model: keras.Model) -> keras.Model:
    """The model, or a functional one with the same layers and variables in its place.

    Raises:
        NotImplementedError: The model is written as a class, and cannot be read.
    """
    if not graph.wants_walk(model):
        inputs = graph.example_inputs(model)
        flat = keras.Model(inputs, _read(model, (inputs,), {}), name=model.name)
    elif any(map(is_hidden, graph.layers_of(model))):
        given = graph.inputs_of(model)
        flat = keras.Model(given, graph.interpret(model, model.inputs, _visit), name=model.name)
    else:
        return model
    _compare(model, flat)
    return flat


def explain(operation: Any, args: tuple, kwargs: dict) -> None:
    """Raises a NotImplementedError that says why a hidden layer could not be read.

    Args:
        operation: The layer.
        args: The arguments of its call, with symbolic tensors.
        kwargs: Its arguments by name.
    """
    if is_hidden(operation):
        _read(operation, args, kwargs)


def _visit(operation: Any, args: tuple, kwargs: dict, outputs: list) -> Any:
    """Reads a hidden layer, or calls the operation as it is; so too where it cannot be read."""
    del outputs
    if is_hidden(operation):
        try:
            return _read(operation, args, kwargs)
        except NotImplementedError:
            pass  # Refused, with the reason, where bounds are asked for.
    return operation(*args, **kwargs)


def _visit_inside(operation: Any, args: tuple, kwargs: dict, outputs: list) -> Any:
    """Reads or calls what a hidden layer calls."""
    if is_hidden(operation):
        return _read(operation, args, kwargs)
    if type(operation).__name__ in _CONVERSIONS and args[0].dtype == outputs[0].dtype:
        return args[0]
    if not _reads_floats(args, kwargs):  # What integers decide is fixed, and needs no rule.
        return operation(*args, **kwargs)
    if not registry.has_rule(operation):
        raise NotImplementedError(
            f"its call uses {type(operation).__name__}, which has no bound rule. "
            f"{advice.advice_on(operation)}"
        )
    given = keras.tree.flatten((args, kwargs))
    if isinstance(operation, keras.layers.Layer) or not any(map(graph.is_variable, given)):
        return operation(*args, **kwargs)
    held = Held(operation, args, kwargs)
    return held(*held.values)


def _reads_floats(args: tuple, kwargs: dict) -> bool:
    """Whether a value among the arguments is a float."""
    given = keras.tree.flatten((args, kwargs))
    return any("float" in v.dtype for v in given if isinstance(v, keras.KerasTensor))


def _read(layer: Any, args: tuple, kwargs: dict) -> Any:
    """What the ``call`` of a layer gives for symbolic arguments, made of calls with rules."""
    try:
        with _Watch():
            found = layer.call(*args, **kwargs)
        wrong = [v for v in keras.tree.flatten(found) if not isinstance(v, keras.KerasTensor)]
        if wrong:
            raise TypeError(f"it returns {wrong[0]!r}, which does not depend on the input")
        given = keras.tree.flatten((args, kwargs))
        inputs = list({id(v): v for v in given if isinstance(v, keras.KerasTensor)}.values())
        return graph.interpret(keras.Function(inputs, found), inputs, _visit_inside)
    except Exception as error:  # Of any class: the code is the user's.
        raise NotImplementedError(_refusal(layer, error)) from error


class _Watch(keras.StatelessScope):
    """Refuses that the value of a variable is read: the record would not see it change."""

    def get_current_value(self, variable: keras.Variable) -> Any:
        raise TypeError(
            f"it computes with the value of the variable {variable.path!r} before this meets the "
            "input, so that what was read would not change with the variable (write input * "
            "variable, not variable * input)"
        )


def _refusal(layer: Any, error: Exception) -> str:
    # Keras puts the message of an error in a layer between two signs for bold letters.
    inner = re.findall(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    why = (inner[-1] if inner else str(error)).strip().split("\n")[0].split(". ")[0].rstrip(".")
    line = next(_lines(error.__traceback__), None)
    where = "" if line is None else f" The reading stops at {line}."
    return registry.unreadable(layer, f"{why}.{where}")


def _lines(trace: types.TracebackType | None) -> Iterator[str]:
    """The lines of the user's own code in a traceback, the innermost first."""
    frames = []
    while trace is not None:
        package = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _NOT_THE_USERS:
            frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    for file, number in reversed(frames):
        text = linecache.getline(file, number).strip()
        yield f"{file}:{number}" + (f", `{text}`" if text else "")


def _compare(model: keras.Model, flat: keras.Model) -> None:
    """Raises where the record computes something else than the model, at an input."""
    generator = np.random.default_rng(0)
    x = keras.tree.map_structure(
        lambda t: ops.cast(generator.uniform(size=[size or 2 for size in t.shape]), t.dtype),
        graph.inputs_of(flat),
    )
    found, wanted = (keras.tree.flatten(one(x, training=False)) for one in (flat, model))
    for ours, theirs in zip(found, wanted, strict=True):
        ours, theirs = (np.asarray(ops.convert_to_numpy(t), "float64") for t in (ours, theirs))
        slack = 1e-3 * (1.0 + np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
        if not np.allclose(ours, theirs, rtol=0, atol=slack, equal_nan=True):
            raise NotImplementedError(
                f"Model {model.name!r} ({type(model).__name__}) computes something else on numbers "
                "than on symbolic inputs, so its call cannot be read. Its call must not depend on "
                "the batch size, on random numbers, or on what was called before."
            )
