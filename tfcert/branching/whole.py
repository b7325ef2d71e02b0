"""Bounds of what is asked on whole boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.bounds import bound_margins, methods
from tfcert.branching.rows import Rows
from tfcert.network import network_of
from tfcert.properties.questions import Problem
from tfcert.regions import Box

__all__ = ["rounding", "values"]


def rounding(model: keras.Model, problems: Sequence[Problem], method: methods.Method) -> float:
    """By how much roundings of an execution lower bounds of the values, with room to spare."""
    plain = dataclasses.replace(method, float_safe=False)
    lost = values(model, problems, plain) - values(model, problems, method)
    return float(2.0 * max(0.0, *lost))


def values(model: keras.Model, problems: Sequence[Problem], method: methods.Method) -> Any:
    """Lower bounds of the values on whole boxes, ``(problems,)``."""
    questions = [problem.question for problem in problems]
    rows = Rows(questions, method.dtype(network_of(model)))
    lower = np.stack([problem.lower for problem in problems])
    upper = np.stack([problem.upper for problem in problems])
    middle = np.clip(0.5 * (lower + upper), lower, upper).astype(lower.dtype)
    factors = ops.convert_to_tensor(rows.factors)
    bounds = bound_margins(model, middle, None, Box(lower, upper), method, specification=factors)
    owner = np.arange(len(problems), dtype=np.int32)
    return rows.values(rows.margins(ops.convert_to_numpy(bounds), owner), owner)
