"""Properties as the ways to break them: boxes of inputs, and rows of the outputs."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert.properties.questions import Problem, Question, rounded_outward

__all__ = ["Case", "Property"]

Array = npt.NDArray[np.float64]


class Case(NamedTuple):
    """One way to break a property: a box of inputs, and rows that the outputs fulfil.

    Attributes:
        lower: Lower limits of the inputs, flat, ``(inputs,)``.
        upper: Upper limits.
        rows: ``(rows, outputs + 1)``: all of ``rows @ (*outputs, 1)`` are at least 0.
    """

    lower: Array
    upper: Array
    rows: Array


class Property(NamedTuple):
    """A property as a list of cases: a counterexample fulfils one of the cases.

    Attributes:
        inputs: The number of inputs that the property declares.
        outputs: The number of outputs that the property declares.
        cases: The cases. An empty list means that there is no counterexample.
        file: The file of the property.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    file: pathlib.Path | None = None

    def is_met(self, inputs: npt.ArrayLike, outputs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Returns for each point whether it is a counterexample.

        Args:
            inputs: The points, ``(points, ...)``, in the order of the property's inputs.
            outputs: The network's outputs at the points, ``(points, ...)``.
        """
        x = np.asarray(inputs, np.float64).reshape(-1, self.inputs)
        y = np.asarray(outputs, np.float64).reshape(-1, self.outputs)
        met = np.zeros(len(x), bool)
        for case in self.cases:
            inside = ((case.lower <= x) & (x <= case.upper)).all(axis=1)
            met |= inside & (y @ case.rows[:, :-1].T + case.rows[:, -1] >= 0).all(axis=1)
        return met

    def places_by_box(self) -> list[list[int]]:
        """The positions of the cases, grouped by box."""
        groups: dict[bytes, list[int]] = {}
        for place, case in enumerate(self.cases):
            groups.setdefault(case.lower.tobytes() + case.upper.tobytes(), []).append(place)
        return list(groups.values())

    def by_box(self) -> list[list[Case]]:
        """The cases, grouped by box."""
        return [[self.cases[place] for place in places] for places in self.places_by_box()]

    def problems(self, shape: tuple[int, ...], dtype: str) -> list[Problem]:
        """Returns one problem per box: one row of every case must be below 0.

        Args:
            shape: The shape of one input of the network.
            dtype: The type of the network; the boxes are rounded outward to it.
        """
        found = []
        for cases in self.by_box():
            limits = (cases[0].lower.reshape(shape), cases[0].upper.reshape(shape))
            found.append(Problem(*rounded_outward(*limits, dtype), _question(cases), limits))
        return found


def _question(cases: list[Case]) -> Question:
    rows = -np.concatenate([case.rows for case in cases])
    if all(len(case.rows) == 1 for case in cases):
        return Question.all_positive(rows[:, :-1], rows[:, -1])
    owner = np.repeat(np.arange(len(cases)), [len(case.rows) for case in cases])
    groups = owner == np.arange(len(cases))[:, None]
    return Question(rows[:, :-1], rows[:, -1], groups, np.ones(len(cases), int))
