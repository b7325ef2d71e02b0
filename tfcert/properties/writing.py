"""Writes problems as a VNN-LIB file, in exact decimals."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from tfcert.properties.questions import Problem, Question

__all__ = ["MOST_WAYS", "write_problems"]

# The most ways to break the question of one problem that are written down.
MOST_WAYS = 10_000


def write_problems(path: str | os.PathLike[str], problems: Sequence[Problem]) -> None:
    """Writes a VNN-LIB file in which a counterexample breaks one of some problems.

    The cases of the file are the ways to break the questions, problem by problem, in the order of
    ``Question.conjunctions``.

    Args:
        path: The file to write.
        problems: The problems, at least one.
    """
    inputs = problems[0].lower.size
    outputs = problems[0].question.rows.shape[1]
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    parts = [part for problem in problems for part in ("(and", *_parts(problem), ")")]
    text = "\n".join([*lines, "(assert (or", *parts, "))"])
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def _parts(problem: Problem) -> Iterator[str]:
    """The limits of the inputs, and the ways to break the question."""
    for i, (low, high) in enumerate(
        zip(problem.lower.ravel().tolist(), problem.upper.ravel().tolist(), strict=True)
    ):
        yield f"(>= X_{i} {_exact(low)}) (<= X_{i} {_exact(high)})"
    yield "(or"
    for way in problem.question.conjunctions(MOST_WAYS):
        yield f"(and {' '.join(_broken(problem.question, row) for row in way)})"
    yield ")"


def _broken(question: Question, row: int) -> str:
    """The condition that a margin is not positive."""
    factors: npt.NDArray[np.float64] = question.rows[row]
    terms = " ".join(f"(* {_exact(factors[i])} Y_{i})" for i in np.flatnonzero(factors))
    return f"(<= (+ {terms} {_exact(question.offsets[row])}) 0.0)"


def _exact(number: float) -> str:
    """All digits of a number: the shortest ones that stand for it would be another number."""
    return str(Decimal(float(number)))
