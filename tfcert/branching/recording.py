"""Records the splits and proofs of boxes, for example in a ``tfcert.proofs.Tree``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfcert.properties.questions import Problem
from tfcert.properties.writing import MOST_WAYS

__all__ = ["BoxRecord", "Recorder", "numbered"]


class Recorder(Protocol):
    """The interface of objects that record the tree of a search.

    Nodes are numbers. A *case* is one way to break the question of a problem: margins none of which
    is positive. It is refuted on a part where one of these margins stays above 0.
    """

    def add_root(self, case: Any) -> int:
        """The whole box of a problem, with the numbers of all its cases."""
        ...

    def split_input(self, node: Any, axis: Any, point: Any) -> Any:
        """Cuts boxes of nodes, ``(n,)``, in two, ``(n, 2)``: ``<= point``, then ``>= point``."""
        ...

    def split_unit(self, node: Any, place: Any, unit: Any) -> Any:
        """Cuts the parts of nodes in two, ``(n, 2)``: values of a unit >= 0, then those <= 0."""
        ...

    def close(
        self,
        node: Any,
        row: Any,
        slopes: Mapping[int, Any] | None = None,
        multipliers: Mapping[int, Any] | None = None,
        case: int | None = None,
    ) -> None:
        """Says which margin of a case, by its place in the case, is positive on parts of nodes.

        Slopes and multipliers are those that give the bound; without a case, the root has one.
        """
        ...


def numbered(
    ways: Sequence[Sequence[Any]], cases: Sequence[Sequence[int]] | None
) -> list[list[int]]:
    """The numbers of the ways to break each problem; by default from 0 on, over all problems."""
    if cases is None:
        ends = np.cumsum([0, *map(len, ways)])
        cases = [range(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return [list(own) for own in cases]


class BoxRecord:
    """The tree of a search that splits boxes.

    Args:
        recorder: Is told.
        problems: The problems.
        cases: Of each problem, the numbers of its cases in the order of
            ``Question.conjunctions``; None: numbers from 0 on, over all problems.
    """

    def __init__(
        self,
        recorder: Recorder,
        problems: Sequence[Problem],
        cases: Sequence[Sequence[int]] | None = None,
    ):
        self._recorder = recorder
        self._questions = [problem.question for problem in problems]
        self._ways = [question.conjunctions(MOST_WAYS) for question in self._questions]
        self._cases = numbered(self._ways, cases)

    def roots(self) -> npt.NDArray[np.int64]:
        """One node a problem."""
        return np.array([self._recorder.add_root(own) for own in self._cases], np.int64)

    def split(
        self,
        nodes: npt.NDArray[np.int64],
        axis: npt.NDArray[np.int64],
        point: npt.NDArray[Any],
    ) -> npt.NDArray[np.int64]:
        """The nodes of the lower halves and of the upper ones, ``(2, n)``."""
        return np.asarray(self._recorder.split_input(nodes, axis, point), np.int64).T

    def bounded(
        self,
        nodes: npt.NDArray[np.int64],
        owner: npt.NDArray[np.int32],
        margins: npt.NDArray[np.float64],
    ) -> None:
        """Closes the nodes on which lower bounds of the margins prove the question."""
        for problem in np.unique(owner):
            mine = np.flatnonzero(owner == problem)
            proved = mine[self._questions[problem].proved(margins[mine])]
            if not len(proved):
                continue
            for case, way in zip(self._cases[problem], self._ways[problem], strict=True):
                row = margins[proved][:, way].argmax(axis=1)
                self._recorder.close(nodes[proved], row, case=case)
