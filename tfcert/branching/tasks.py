"""The tasks that problems are decided by: one for each margin, or group of margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcert.branching.recording import numbered
from tfcert.branching.splitter import Problem
from tfcert.properties.questions import Question

__all__ = ["case_numbers", "tasks_of"]

Array = npt.NDArray[Any]

# The most cases that a recorder is told about.
_MOST_CASES = 10_000


def tasks_of(problems: Sequence[Problem]) -> tuple[list[Problem], list[tuple[int, Array]]]:
    """A problem for each group of each question; whose group it is, and which rows it has."""
    tasks, groups = [], []
    for owner, problem in enumerate(problems):
        question = problem.question
        for group, need in zip(question.groups, question.needs, strict=True):
            members = np.flatnonzero(group)
            # Where all must be positive, each is decided by itself: most are proved at once.
            for rows in members[:, None] if need == len(members) else [members]:
                one = np.ones((1, len(rows)), bool)
                least = min(int(need), len(rows)) if need <= len(members) else int(need)
                own = Question(question.rows[rows], question.offsets[rows], one, [least])
                tasks.append(problem._replace(question=own))
                groups.append((owner, rows))
    return tasks, groups


def case_numbers(
    problems: Sequence[Problem],
    tasks: Sequence[Problem],
    cases: Sequence[Sequence[int]] | None,
) -> list[int]:
    """The number of the case of each task; raises where a task has several."""
    if any(task.question.needs[0] != 1 for task in tasks):
        raise NotImplementedError(
            "A proof cannot be recorded for properties with alternatives, such as TopK."
        )
    ways = [problem.question.conjunctions(_MOST_CASES) for problem in problems]
    return [case for own in numbered(ways, cases) for case in own]
