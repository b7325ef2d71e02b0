"""Questions about a network's outputs: margins, and how many of them must be positive."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Problem", "Question", "rounded_margins", "rounded_outward"]

Array = npt.NDArray[np.float64]


class Question:
    """Margins, which are linear functions of the outputs, and how many of them must be positive.

    The margins are ``rows @ outputs + offsets``. They stand in groups; in each group at least
    ``needs`` of them must be above 0. That covers all that is asked about one box of inputs:
    "all are positive" (one group that
    needs all), "one of a clause is positive" (needs 1), and "at most k - 1
    are not" (one group).

    All that decides is one number, the *value*: the least over the groups of the needs-th largest
    margin. The question is answered yes at a point, or on a whole set, where the value is above 0.
    It is monotone in every margin, so lower bounds of the margins give a lower bound of the value.

    Args:
        rows: ``(rows, outputs)``.
        offsets: ``(rows,)``.
        groups: Boolean, ``(groups, rows)``: which rows belong to each group.
        needs: ``(groups,)``: how many of them must be positive, at least 1.

    Example:

    >>> # Output 0 is above output 1, or above output 2.
    >>> question = Question([[1, -1, 0], [1, 0, -1]], [0, 0], [[True, True]], [1])
    >>> question.value(question.margins([[3.0, 4.0, 1.0]])).tolist()
    [2.0]
    """

    def __init__(
        self,
        rows: npt.ArrayLike,
        offsets: npt.ArrayLike,
        groups: npt.ArrayLike,
        needs: npt.ArrayLike,
    ):
        self.rows = np.asarray(rows, np.float64)
        self.offsets = np.asarray(offsets, np.float64)
        self.groups = np.asarray(groups, bool)
        self.needs = np.asarray(needs, np.int64)

    @classmethod
    def all_positive(cls, rows: npt.ArrayLike, offsets: npt.ArrayLike) -> Question:
        """Every margin must be positive: one group that needs all of its members."""
        count = len(np.asarray(rows))
        return cls(rows, offsets, np.ones((1, count), bool), [count])

    def margins(self, outputs: npt.ArrayLike) -> Array:
        """The margins of some points, ``(n, rows)``, from their outputs, ``(n, outputs)``."""
        return np.asarray(outputs, np.float64) @ self.rows.T + self.offsets

    def value(self, margins: npt.ArrayLike) -> Array:
        """Returns the deciding value, ``(n,)``, above 0 if enough margins of every group are
        positive.

        Args:
            margins: ``(n, at least rows)``, of points, or lower bounds on sets; entries behind the
                last row are ignored. NaN counts as -inf.
        """
        margins = np.asarray(margins, np.float64)[:, : len(self.rows)]
        margins = np.where(np.isnan(margins), -np.inf, margins)
        value = np.full(len(margins), np.inf)
        for group, need in zip(self.groups, self.needs, strict=True):
            own = np.sort(margins[:, group], axis=1)
            # A group with fewer members than must be positive holds nowhere.
            kept = own[:, -need] if need <= own.shape[1] else -np.inf
            value = np.minimum(value, kept)
        return value

    def proved(self, lower: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Returns whether lower bounds of the margins prove the question, ``(n,)``."""
        return self.value(lower) > 0

    def broken(self, outputs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Returns whether points are counterexamples by their outputs, ``(n,)``; NaN is one."""
        return ~(self.value(self.margins(outputs)) > 0)

    def conjunctions(self, most: int) -> list[npt.NDArray[np.int64]]:
        """The ways to break the question: sets of rows, none of which is positive.

        Args:
            most: The largest number of ways.

        Raises:
            NotImplementedError: There are more.
        """
        found = []
        for group, need in zip(self.groups, self.needs, strict=True):
            members = np.flatnonzero(group)
            for chosen in itertools.combinations(members, max(0, len(members) - int(need) + 1)):
                found.append(np.array(chosen, np.int64))
                if len(found) > most:
                    raise NotImplementedError(
                        f"There are more than {most} ways to break this question."
                    )
        return found

    def in_clauses(self, most: int) -> Question:
        """The same question with a group for each way to break it: one of its margins is positive.

        Args:
            most: As for ``conjunctions``.
        """
        ways = self.conjunctions(most)
        groups = np.zeros((len(ways), len(self.rows)), bool)
        for group, way in zip(groups, ways, strict=True):
            group[way] = True
        return Question(self.rows, self.offsets, groups, np.ones(len(ways), int))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Question) and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(self._fields(), other._fields(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def _fields(self) -> tuple[npt.NDArray[Any], ...]:
        return self.rows, self.offsets, self.groups, self.needs

    def __repr__(self) -> str:
        return f"<Question: {len(self.rows)} rows in {len(self.groups)} groups>"


class Problem(NamedTuple):
    """A question about the outputs of a network on one box of inputs.

    Attributes:
        lower: Lower limits of the inputs, in the shape of one input and the type of the network,
            rounded outward.
        upper: Upper limits.
        question: What has to hold for the outputs of all inputs between them.
        limits: The lower and the upper limits before they were rounded, float64: a counterexample
            lies between them.
    """

    lower: npt.NDArray[Any]
    upper: npt.NDArray[Any]
    question: Question
    limits: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

    def with_slack(self, slack: float) -> Problem:
        """The problem that all margins are above a number in place of 0."""
        asked = self.question
        question = Question(asked.rows, asked.offsets - slack, asked.groups, asked.needs)
        return self._replace(question=question)

    def in_clauses(self, most: int) -> Problem:
        """The problem with a group for each way to break its question."""
        return self._replace(question=self.question.in_clauses(most))


def rounded_outward(
    lower: npt.NDArray[Any], upper: npt.NDArray[Any], dtype: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The smallest box with limits of a float type that holds a given box."""
    low, high = np.asarray(lower, dtype), np.asarray(upper, dtype)
    low = np.where(low > lower, np.nextafter(low, low.dtype.type(-np.inf)), low)
    high = np.where(high < upper, np.nextafter(high, high.dtype.type(np.inf)), high)
    return low, high


def rounded_margins(
    rows: npt.NDArray[Any], offsets: npt.NDArray[Any], dtype: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Margins in a float type, which are no larger than the given ones.

    Args:
        rows: Factors of the outputs; raises unless the type holds them exactly.
        offsets: What is added; rounded down, since one that was rounded up would raise a bound.
        dtype: The type.
    """
    factors, shift = rows.astype(dtype), offsets.astype(dtype)
    if (factors != rows).any():
        raise NotImplementedError(
            f"A factor of the property is no {dtype} number. Use a model of dtype float64."
        )
    below = np.nextafter(shift, -np.inf, dtype=dtype)
    return factors, np.where(shift > offsets, below, shift)
