"""alpha-CROWN: gradient ascent on the slopes of relaxations, each row for itself."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcert import backend
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.methods import AlphaCrown
from tfcert.bounds.sweep import Slopes, sweep
from tfcert.rules.primitives import Node
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["optimised_lower"]

# Adam's constants.
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


def optimised_lower(
    evaluation: Evaluation,
    method: AlphaCrown,
    node: Node,
    rows: Rows,
    frame: Frame,
    constant: Any = 0.0,
) -> Tensor:
    """Lower bounds of rows with optimised slopes; at least those of the default slopes.

    Rows do not influence one another: the gradient of their sum moves each row's own slopes.
    """
    record = Slopes()
    first = sweep(evaluation, node, rows, frame, constant, slopes=record)
    variables, limits, keys = _free_slopes(evaluation, record)
    if not variables:
        return first

    def objective(values: list[Tensor]) -> tuple[Tensor, Tensor]:
        slopes = {place: list(pair) for place, pair in record.values.items()}
        for (place, side), value, (low, width) in zip(keys, values, limits, strict=True):
            slopes[place][side] = low + value * width
        lower = sweep(evaluation, node, rows, frame, constant, slopes=Slopes(slopes))
        # An infinite bound has no gradient; it must not spoil the others.
        finite = ops.isfinite(lower)
        return ops.sum(ops.where(finite, lower, ops.zeros_like(lower))), lower

    count = len(variables)
    rate = ops.cast(method.learning_rate, evaluation.dtype)
    decay, one = ops.cast(method.decay, evaluation.dtype), ops.cast(1.0, evaluation.dtype)

    def body(step: Tensor, best: Tensor, rate: Tensor, powers: Tensor, *state: Tensor) -> tuple:
        values, first_moments, second_moments = (
            list(state[i * count : (i + 1) * count]) for i in range(3)
        )
        _, lower, gradients = backend.value_and_gradients(objective, values)
        best = ops.maximum(best, lower)
        powers = powers * ops.convert_to_tensor([_FIRST, _SECOND], dtype=evaluation.dtype)
        for i, gradient in enumerate(gradients):
            m = _FIRST * first_moments[i] + (1 - _FIRST) * gradient
            v = _SECOND * second_moments[i] + (1 - _SECOND) * ops.square(gradient)
            change = (m / (one - powers[0])) / (ops.sqrt(v / (one - powers[1])) + _TINY)
            values[i] = ops.clip(values[i] + rate * change, 0.0, 1.0)
            first_moments[i], second_moments[i] = m, v
        return step + 1, best, rate * decay, powers, *values, *first_moments, *second_moments

    zeros = [ops.zeros_like(value) for value in variables]
    state = backend.loop(
        lambda step, *_: step < method.iterations,
        body,
        (
            ops.convert_to_tensor(0, dtype="int32"),
            first,
            rate,
            ops.ones((2,), dtype=evaluation.dtype),
            *variables,
            *zeros,
            *zeros,
        ),
        maximum_iterations=method.iterations,
    )
    _, last = objective(list(state[4 : 4 + count]))
    return ops.maximum(state[1], last)


def _free_slopes(evaluation: Evaluation, record: Slopes) -> tuple[list, list, list]:
    """The slopes that can move, as fractions of their range, the ranges, and whose they are.

    Fractions give slopes of all functions one scale: ReLU's range is [0, 1], that of a tanh on a
    short interval is tiny.
    """
    variables, limits, keys = [], [], []
    for place, pair in record.values.items():
        ranges = record.ranges[place]
        for side in (0, 1):
            low, high = ranges[2 * side : 2 * side + 2]
            if low is None:
                continue
            width = high - low
            moves = width > 0
            fraction = (pair[side] - low) / ops.where(moves, width, ops.ones_like(width))
            variables.append(ops.where(moves, ops.clip(fraction, 0.0, 1.0), 0.0))
            limits.append((low, width))
            keys.append((place, side))
    return variables, limits, keys
