"""Points that may be counterexamples: evaluated as the model is executed, and in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.attacks.exact import in_float64
from tfcert.branching.outcome import Counterexample
from tfcert.network import network_of
from tfcert.properties.questions import Problem

__all__ = ["Referee"]

# Candidates of one call that are looked at one by one, and points that are told of.
_MOST, _NOTED = 8, 8
# Points that the model is run on at a time.
_BATCH = 2048


class Referee:
    """Decides which points break a property.

    A counterexample breaks it twice: by the outputs of the model as executed, and by those of the
    same network in float64. A point that breaks the property in one arithmetic alone is noted.

    Args:
        model: The model.
        problems: What is asked.

    Attributes:
        notes: What was found of points that break the property in one arithmetic alone.
    """

    def __init__(self, model: keras.Model, problems: Sequence[Problem]):
        self._model, self._problems = model, list(problems)
        self._dtype = np.dtype(network_of(model).dtype)
        self._limits = [np.stack([one.limits[side] for one in problems]) for side in (0, 1)]
        self._twin: keras.Model | None = None
        self._has_twin = True
        self.notes: list[str] = []

    def judge(
        self, points: npt.NDArray[Any], owner: npt.NDArray[np.int32]
    ) -> Counterexample | None:
        """The first of some points that is a counterexample.

        Args:
            points: ``(n, *input_shape)``; each is moved into the limits of its problem.
            owner: Which problem each belongs to, ``(n,)``.
        """
        if not len(points):
            return None
        lower, upper = (limit[owner] for limit in self._limits)
        exact_points = np.clip(points.astype(np.float64), lower, upper)
        outputs = self._outputs(exact_points.astype(self._dtype))
        broken = np.zeros(len(points), bool)
        for place in np.unique(owner):
            mine = owner == place
            broken[mine] = self._problems[place].question.broken(outputs[mine])
        for i in np.flatnonzero(broken)[:_MOST]:
            found = self._confirmed(exact_points[i], self._problems[owner[i]])
            if found is not None:
                return found
        return None

    def value(self, found: Counterexample) -> float:
        """The least value of a question at a counterexample, as executed."""
        values = [
            float(one.question.value(one.question.margins(found.outputs[None]))[0])
            for one in self._problems
            if ((one.limits[0] <= found.point) & (found.point <= one.limits[1])).all()
        ]
        return min(values)

    def values(
        self, points: npt.NDArray[Any], owner: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float64]:
        """The questions' values at some points, ``(n,)``: the smaller of those as executed and in
        float64."""
        found = np.full(len(points), np.inf)
        arrays = [self._outputs(points.astype(self._dtype))]
        exact = [self._exact(point) for point in points.astype(np.float64)]
        arrays += [np.stack([one for one in exact if one is not None])] if self._has_twin else []
        for outputs in arrays:
            for place in np.unique(owner):
                mine, question = owner == place, self._problems[place].question
                own = question.value(question.margins(outputs[mine]))
                found[mine] = np.minimum(found[mine], own)
        return found

    def _confirmed(self, point: npt.NDArray[np.float64], problem: Problem) -> Counterexample | None:
        """The point as a counterexample, if it breaks the question in both arithmetics."""
        if not ((problem.limits[0] <= point) & (point <= problem.limits[1])).all():
            return None  # The limits leave no number between them.
        outputs = self._outputs(point[None].astype(self._dtype))[0]
        exact = self._exact(point)
        executed = bool(problem.question.broken(outputs[None])[0])
        wide = executed if exact is None else bool(problem.question.broken(exact[None])[0])
        if executed and wide:
            return Counterexample(point, outputs, exact)
        if (executed or wide) and len(self.notes) < _NOTED:
            where = f"as executed in {self._dtype}" if executed else "in float64"
            other = "in float64" if executed else f"as executed in {self._dtype}"
            self.notes.append(
                f"The input {np.array2string(point.ravel(), threshold=8)} breaks the property "
                f"{where}, and does not {other}."
            )
        return None

    def _outputs(self, points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the model returns as executed."""
        parts = [
            ops.convert_to_numpy(self._model(ops.convert_to_tensor(part), training=False))
            for part in np.array_split(points, -(-len(points) // _BATCH))
        ]
        return np.concatenate(parts)

    def _exact(self, point: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """The outputs in float64; None where the backend has none, or the model no twin."""
        if self._twin is None and self._has_twin:
            try:
                self._twin = in_float64(self._model)
            except (ValueError, TypeError, NotImplementedError) as reason:
                self._has_twin = False
                self.notes.append(f"Points were not evaluated in float64. {reason}")
        if self._twin is None:
            return None
        outputs = self._twin(ops.convert_to_tensor(point[None]), training=False)
        return np.asarray(ops.convert_to_numpy(outputs), np.float64)[0]
