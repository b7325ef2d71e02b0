"""The rows of several questions, side by side in arrays of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfcert.properties.questions import Question

__all__ = ["Rows"]

Array = npt.NDArray[np.float64]


class Rows:
    """What bounds are wanted of, for domains that belong to one of several problems.

    Questions with fewer rows than others are filled up with rows of zeros.

    Args:
        questions: The questions of the problems, in their order.
        dtype: The type that bounds are computed in.

    Attributes:
        count: Rows of the longest question, at least 1.
        factors: ``(problems, count, outputs)``, of the type of the bounds.
        offsets: ``(problems, count)``, float64.
        groups: Boolean, ``(problems, groups, count)``; missing groups repeat the first one.
        places: ``(problems, groups)``: where the margin that decides for a group stands among all
            margins in ascending order, with -inf for those outside of the group.

    Raises:
        NotImplementedError: A factor is no number of that type.
    """

    def __init__(self, questions: Sequence[Question], dtype: str):
        self._questions = list(questions)
        self.count = max(1, *(len(question.rows) for question in self._questions))
        outputs = self._questions[0].rows.shape[1]
        exact = np.zeros((len(questions), self.count, outputs))
        self.offsets = np.zeros((len(questions), self.count))
        for place, question in enumerate(self._questions):
            exact[place, : len(question.rows)] = question.rows
            self.offsets[place, : len(question.rows)] = question.offsets
        self.factors = exact.astype(dtype)
        if (self.factors != exact).any():
            raise NotImplementedError(
                f"A factor of the property is no {dtype} number. Load the network as float64."
            )

        most = max(len(question.needs) for question in self._questions)
        self.groups = np.zeros((len(questions), most, self.count), bool)
        self.places = np.zeros((len(questions), most), np.int32)
        for place, question in enumerate(self._questions):
            chosen = np.arange(most) * (np.arange(most) < len(question.needs))
            self.groups[place, :, : len(question.rows)] = question.groups[chosen]
            self.places[place] = self.count - question.needs[chosen]

    def margins(self, bounds: npt.ArrayLike, owner: npt.NDArray[np.int32]) -> Array:
        """Lower bounds of margins, ``(n, count)``, from those of the rows without offsets."""
        sums = np.asarray(bounds, np.float64) + self.offsets[owner]
        # What adding may have rounded up.
        return np.where(self.offsets[owner] == 0, sums, np.nextafter(sums, -np.inf))

    def values(self, margins: Array, owner: npt.NDArray[np.int32]) -> Array:
        """The values of the owners' questions, ``(n,)``."""
        found = np.empty(len(owner))
        for place in np.unique(owner):
            mine = owner == place
            found[mine] = self._questions[place].value(margins[mine])
        return found

    def deciding(self, margins: Array, owner: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """The row whose margin is the value, ``(n,)``."""
        values = self.values(margins, owner)
        apart = np.abs(np.nan_to_num(margins - values[:, None], nan=np.inf))
        for place in np.unique(owner):  # Rows that only fill up do not decide.
            apart[owner == place, len(self._questions[place].rows) :] = np.inf
        return apart.argmin(axis=1)
