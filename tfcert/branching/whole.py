"""Bounds of the whole boxes of problems, and what they leave open."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.bounds import bound_margins, methods
from tfcert.branching.rows import Rows
from tfcert.network import network_of
from tfcert.properties.questions import Problem, Question
from tfcert.regions import Box

__all__ = ["bounds", "narrowed", "rounding"]

Array = npt.NDArray[np.float64]


def bounds(
    model: keras.Model, problems: Sequence[Problem], method: methods.Method
) -> tuple[Array, Any]:
    """Lower bounds of the margins, ``(problems, rows)``, and of the values, ``(problems,)``."""
    questions = [problem.question for problem in problems]
    rows = Rows(questions, method.dtype(network_of(model)))
    lower = np.stack([problem.lower for problem in problems])
    upper = np.stack([problem.upper for problem in problems])
    middle = np.clip(0.5 * (lower + upper), lower, upper).astype(lower.dtype)
    factors = ops.convert_to_tensor(rows.factors)
    found = bound_margins(model, middle, None, Box(lower, upper), method, specification=factors)
    owner = np.arange(len(problems), dtype=np.int32)
    margins = rows.margins(ops.convert_to_numpy(found), owner)
    return margins, rows.values(margins, owner)


def narrowed(problem: Problem, margins: Array) -> tuple[Problem, float]:
    """A problem without the margins that are proved, and the least bound of these.

    Only a question whose margins must all be positive becomes smaller.

    Args:
        problem: The problem, which is not proved.
        margins: Lower bounds of its margins on the whole box, and any numbers behind them.
    """
    question = problem.question
    margins = margins[: len(question.rows)]
    if not question.groups.all() or question.needs.max() < len(question.rows):
        return problem, np.inf
    left = ~(margins > 0)
    smaller = Question.all_positive(question.rows[left], question.offsets[left])
    return problem._replace(question=smaller), float(margins[~left].min(initial=np.inf))


def rounding(model: keras.Model, problems: Sequence[Problem], method: methods.Method) -> float:
    """By how much roundings of an execution lower bounds of the values, with room to spare."""
    plain = dataclasses.replace(method, float_safe=False)
    lost = bounds(model, problems, plain)[1] - bounds(model, problems, method)[1]
    return float(2.0 * max(0.0, *lost))
