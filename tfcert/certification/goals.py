"""The goal of a certification: inputs keep their class, or outputs have another property."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcert import attacks
from tfcert.bounds import bound_margins, least_margins, methods
from tfcert.branching.attacking import worst_points
from tfcert.branching.rows import Rows
from tfcert.certification.subject import Subject, margins_of
from tfcert.properties import ClassStays, OutputProperty
from tfcert.properties.questions import Question
from tfcert.regions import Region

__all__ = ["Classes", "Goal", "Outputs"]


# What a question is made of.
_PARTS = ("rows", "offsets", "groups", "needs")


class Goal:
    """The goal of a run: the condition that each input must fulfil.

    Attributes:
        labels: The class that the property of each input is about, ``(inputs,)``; -1 for none.
        asked: The property.
    """

    labels: np.ndarray
    asked: OutputProperty

    def __init__(self, subject: Subject, inputs: int):
        self._subject, self._inputs = subject, inputs
        self._questions: list[Question] | None = None

    def values(self, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the deciding values of some inputs, above 0 if the property holds, from
        scores."""
        raise NotImplementedError

    def broken(self, outputs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns whether each input breaks the property, by the model's outputs; NaN does."""
        raise NotImplementedError

    def attacked(
        self, attack: attacks.Attack, x: np.ndarray, places: np.ndarray, seed: int
    ) -> np.ndarray:
        """The worst points around some inputs that an attack finds."""
        raise NotImplementedError

    def least(
        self,
        x: np.ndarray,
        places: np.ndarray,
        region: Region,
        method: methods.Method,
        again: bool,
    ) -> Any:
        """Lower bounds of what decides for some inputs.

        Args:
            x: The inputs.
            places: Their places among all inputs.
            region: The region around them.
            method: Bounds them.
            again: Whether more batches of this size will follow.
        """
        raise NotImplementedError

    def questions(self, places: Sequence[int] | np.ndarray) -> list[Question]:
        """The property of some inputs as questions about the scores."""
        if self._questions is None:
            self._questions = self.asked.questions(self._inputs, self._subject.classes)
        return [self._questions[place] for place in places]

    def arrays(self) -> list[np.ndarray]:
        """The labels, and all else that the property is made of, to tell runs apart."""
        return [self.labels]

    def executed(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """``values`` of inputs as the scores are executed."""
        scores = self._subject.scores(ops.convert_to_tensor(x), training=False)
        return self.values(np.asarray(ops.convert_to_numpy(scores)), places)


class Classes(Goal):
    """The class of every input is its label.

    Args:
        subject: The model.
        labels: One an input.
    """

    def __init__(self, subject: Subject, labels: np.ndarray):
        super().__init__(subject, len(labels))
        self.labels, self.asked = labels, ClassStays(labels)

    def values(self, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
        return margins_of(scores, self.labels[places])

    def broken(self, outputs: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._subject.classes_of(outputs) != self.labels[places]

    def attacked(
        self, attack: attacks.Attack, x: np.ndarray, places: np.ndarray, seed: int
    ) -> np.ndarray:
        found = attack(self._subject.scores, x, self.labels[places], seed, len(x))
        return np.asarray(ops.convert_to_numpy(found))

    def least(
        self,
        x: np.ndarray,
        places: np.ndarray,
        region: Region,
        method: methods.Method,
        again: bool,
    ) -> Any:
        labels = self.labels[places]
        return least_margins(self._subject.scores, x, labels, region, method, again=again)


class Outputs(Goal):
    """A property of the outputs that is not about the largest one alone.

    Args:
        subject: The model.
        asked: The property.
        inputs: The number of inputs.
    """

    def __init__(self, subject: Subject, asked: OutputProperty, inputs: int):
        super().__init__(subject, inputs)
        if subject.threshold is not None:
            raise ValueError(
                f"{type(asked).__name__} needs a model with one output for each class. "
                f"Received: a model with one output."
            )
        self.asked, self.labels = asked, asked.labels(inputs)
        self.questions([0])  # Raises where the property does not fit the model.

    def values(self, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
        rows = self._rows(places, "float64")
        factors, owner = rows.factors, np.arange(len(places), dtype=np.int32)
        margins = np.einsum("nro,no->nr", factors, scores.astype("float64")) + rows.offsets
        return rows.values(margins, owner)

    def broken(self, outputs: np.ndarray, places: np.ndarray) -> np.ndarray:
        # Where a softmax was left out, the property asks for the order of the outputs only.
        return ~(self.values(outputs, places) > 0)

    def attacked(
        self, attack: attacks.Attack, x: np.ndarray, places: np.ndarray, seed: int
    ) -> np.ndarray:
        if not isinstance(attack, attacks.Search):
            raise ValueError(
                "`attack` must be one search for a property other than ClassStays, such as "
                f"tfcert.attacks.APGD. Received: attack={attack!r}."
            )
        owner = np.arange(len(places), dtype=np.int32)
        rows = self._rows(places, self._subject.dtype)
        return worst_points(self._subject.scores, attack, x, rows, owner, (seed, 0))

    def least(
        self,
        x: np.ndarray,
        places: np.ndarray,
        region: Region,
        method: methods.Method,
        again: bool,
    ) -> Any:
        del again  # Rows of the outputs are always compiled when they come back.
        rows = self._rows(places, method.dtype(self._subject.network))
        bounds = bound_margins(
            *(self._subject.scores, x, None, region, method),
            specification=ops.convert_to_tensor(rows.factors),
        )
        owner = np.arange(len(places), dtype=np.int32)
        return rows.values(rows.margins(ops.convert_to_numpy(bounds), owner), owner)

    def arrays(self) -> list[np.ndarray]:
        questions = self.questions(range(self._inputs))
        parts = [np.stack([getattr(one, name) for one in questions]) for name in _PARTS]
        return [self.labels, *parts]

    def _rows(self, places: np.ndarray, dtype: str) -> Rows:
        return Rows(self.questions(places), dtype)
