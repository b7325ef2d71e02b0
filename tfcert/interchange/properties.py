"""Proofs and counterexamples of a network's property, by bounds and by attacks."""

from __future__ import annotations

import time
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import attacks
from tfcert.bounds import bound_margins, methods
from tfcert.network import network_of
from tfcert.properties.cases import Case, Property
from tfcert.regions import Box
from tfcert.types import MethodName

__all__ = ["attacked", "find_counterexample", "label_of", "prove"]

Array = npt.NDArray[np.float64]


def prove(
    model: keras.Model, asked: Property, method: MethodName | methods.Method = "crown"
) -> bool:
    """Returns whether bounds prove that a property has no counterexample.

    In every case, one row ``r @ (*outputs, 1) >= 0`` must be impossible on the whole box: the lower
    bound of ``-r @ (*outputs, 1)`` must be above 0. False proves nothing: the bounds may be too
    loose, and smaller boxes might succeed.

    Args:
        model: A model with one output ``(batch, outputs)``, and inputs of any shape in the
            property's order.
        asked: A property from ``read_vnnlib``.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown" or "lipschitz", or an object
            of ``tfcert.methods`` with options.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
    >>> # Is an output of at least 2 possible for inputs from 0 to 1?
    >>> case = Case(np.zeros(1), np.ones(1), np.array([[1.0, -2.0]]))
    >>> prove(model, Property(1, 1, (case,)), method="ibp")
    True
    """
    _check(model, asked)
    groups = asked.by_box()
    if not groups:
        return True
    if any(len(case.rows) == 0 for case in asked.cases):
        return False  # Every input of that case is a counterexample.
    # One call for all boxes; those with fewer rows get rows of zeros.
    count = max(sum(len(case.rows) for case in cases) for cases in groups)
    rows = np.zeros((len(groups), count, asked.outputs + 1))
    for target, cases in zip(rows, groups, strict=True):
        given = np.concatenate([case.rows for case in cases])
        target[: len(given)] = -given
    lower, upper = _limits(model, [cases[0] for cases in groups])
    dtype = np.dtype(network_of(model).dtype)
    factors = rows[..., :-1].astype(dtype)
    if (factors != rows[..., :-1]).any():
        raise NotImplementedError(
            f"A factor of the property is no {dtype} number. Load the network as float64."
        )
    middle = _middle(lower, upper, dtype)
    bounds = bound_margins(
        model, middle, None, Box(lower, upper), method, specification=ops.convert_to_tensor(factors)
    )
    least = np.asarray(ops.convert_to_numpy(bounds), np.float64) + rows[..., -1]
    for cases, values in zip(groups, least, strict=True):
        ends = np.cumsum([len(case.rows) for case in cases])
        parts = np.split(values[: ends[-1]], ends[:-1])
        if not all((part > 0).any() for part in parts):
            return False
    return True


def find_counterexample(
    model: keras.Model,
    asked: Property,
    steps: int = 50,
    starts: int = 8,
    seed: int = 0,
    *,
    attack: Literal["apgd", "ensemble"] = "apgd",
    time_limit: float | None = None,
) -> Array | None:
    """Searches for an input that breaks a property, by ``tfcert.attacks``.

    Args:
        model: A model with one output ``(batch, outputs)``, and inputs of any shape in the
            property's order.
        asked: A property from ``read_vnnlib``.
        steps: Gradient steps of the first attack, which is APGD on the margin.
        starts: Random starting points of every box.
        seed: The seed of the starting points.
        attack: "apgd" runs APGD only. "ensemble" also runs the attacks of
            ``tfcert.attacks.Ensemble`` if APGD finds nothing. They try each class or each case of
            the property in turn, and random squares, which need no gradients.
        time_limit: Limit in seconds. The attacks are repeated from other starts until the limit; no
            batch of starts begins after it. Boxes share the remaining time equally. None: one
            round.

    Returns:
        An input in the model's shape, without a batch axis, or None. The input lies in a box of the
        property, and its outputs, as the model computes them, fulfil the case.
    """
    _check(model, asked)
    for name, value in (("steps", steps), ("starts", starts)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    if attack not in ("apgd", "ensemble"):
        raise ValueError(f'`attack` must be "apgd" or "ensemble". Received: attack={attack!r}.')
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"`time_limit` must be > 0. Received: time_limit={time_limit}.")
    end = None if time_limit is None else time.monotonic() + time_limit
    groups = asked.by_box()
    for place, cases in enumerate(groups):
        share = None
        if end is not None:
            share = (end - time.monotonic()) / (len(groups) - place)
            if share <= 0:
                break
        lower, upper = _limits(model, [cases[0]])
        middle = _middle(lower, upper, np.dtype(network_of(model).dtype))
        classifier, label = attacked(model, cases)
        whole = attacks.Ensemble(Box(lower, upper))
        more = whole.plan(classifier.output_shape[1]) if attack == "ensemble" else ()
        found = attacks.Ensemble(
            whole.region,
            [attacks.APGD(whole.region, steps, loss="margin"), *more],
            rounds=1 if share is None else None,
            starts=starts,
            time_limit=share,
        )
        points = found(classifier, middle, np.array([label]), seed)
        points = ops.convert_to_numpy(points)
        met = asked.is_met(points, ops.convert_to_numpy(model(points)))
        if met.any():
            return points[met.argmax()]
    return None


def attacked(model: keras.Model, cases: list[Case]) -> tuple[keras.Model, int]:
    """A classifier and its label: counterexamples are what it does not give that label.

    That is the model itself where the cases say that no other score reaches that of a class, which
    spares compiling for every property. Else its scores are 0 and how much each case is met.
    """
    outputs = model.output_shape[1]
    label = label_of(cases, outputs)
    if label is not None and outputs > 1:
        return model, label
    inputs = keras.Input(model.input_shape[1:], dtype=network_of(model).dtype)
    scores = model(inputs)
    ones = ops.ones_like(scores[:, :1])
    least = []
    for case in cases:
        # No row at all is met everywhere.
        rows = case.rows if len(case.rows) else np.eye(1, outputs + 1, outputs)
        # Of the length of the factors, so that no case is louder than another.
        rows = rows / np.maximum(np.linalg.norm(rows[:, :-1], axis=1, keepdims=True), 1e-30)
        rows = np.asarray(rows, network_of(model).dtype)
        values = ops.add(ops.matmul(scores, rows[:, :-1].T), ops.multiply(ones, rows[:, -1]))
        least.append(ops.min(values, axis=1, keepdims=True))
    return keras.Model(inputs, ops.concatenate([0.0 * ones, *least], axis=1)), 0


def label_of(cases: list[Case], outputs: int) -> int | None:
    """The class k where the cases are ``Y_j - Y_k >= 0`` for all other j."""
    if len(cases) != outputs - 1 or any(len(case.rows) != 1 for case in cases):
        return None
    given = np.concatenate([case.rows for case in cases])
    for label in np.flatnonzero((given[:, :-1] == -1).all(axis=0)):
        rows = np.delete(np.eye(outputs, outputs + 1), label, axis=0)
        rows[:, label] = -1
        if np.array_equal(np.unique(rows, axis=0), np.unique(given, axis=0)):
            return int(label)
    return None


def _limits(model: keras.Model, cases: list[Case]) -> tuple[Array, Array]:
    """The limits of one box a case, in the shape of the model's inputs."""
    shape = (len(cases), *model.input_shape[1:])
    return (
        np.reshape([case.lower for case in cases], shape),
        np.reshape([case.upper for case in cases], shape),
    )


def _middle(lower: Array, upper: Array, dtype: np.dtype) -> npt.NDArray[Any]:
    """A point of each box."""
    return np.clip(0.5 * (lower + upper), lower, upper).astype(dtype)


def _check(model: keras.Model, asked: Property) -> None:
    inputs = int(np.prod(model.input_shape[1:])) if model.input_shape else 0
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            "`model` must have one output of shape (batch, outputs). "
            f"Received: output shape {shape}."
        )
    if (inputs, shape[1]) != (asked.inputs, asked.outputs):
        raise ValueError(
            f"The property is about {asked.inputs} inputs and {asked.outputs} outputs. "
            f"Received: a model with {inputs} inputs and {shape[1]} outputs."
        )
