"""The model under certification: scores to bound, predictions as executed, and a float64 twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import heads
from tfcert.network import Network, network_of
from tfcert.programs import programs_of

__all__ = ["Subject"]


class Subject:
    """A model, the scores that decide its class, and its predictions.

    The scores are those of ``heads.scored``: without a final softmax, and two of a model with a
    single output.

    Args:
        model: A built model with one output, ``(batch, classes)`` or ``(batch, 1)``.
        float_safe: Whether certificates have to hold for the model as executed.
        ranks: Whether only the order of the scores counts. Else they are the model's own outputs.
    """

    def __init__(self, model: keras.Model, float_safe: bool, ranks: bool = True):
        network = network_of(model)
        shape = getattr(network.outputs, "shape", None)
        if shape is None or len(shape) != 1:
            raise ValueError(
                "`model` must have one output of shape (batch, classes). "
                f"Received: output shape {model.output_shape}."
            )
        self.model = model
        scored = heads.scored(model) if ranks else heads.Scored(model)
        if float_safe:
            scored.check_rounding()
        self.scores, self.threshold = scored.model, scored.threshold
        self.network: Network = network_of(self.scores)
        self.classes: int = self.network.outputs.shape[0]
        self.dtype: str = self.network.dtype

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Returns the model's own outputs, executed in batches of this size."""
        points = ops.convert_to_tensor(x)
        program = programs_of(self.model).get(
            self.model, "predict", None, lambda: _prediction(self.model), (points,)
        )
        return np.asarray(ops.convert_to_numpy(program(points)))

    def classify(self, x: np.ndarray) -> np.ndarray:
        """The model's classes; -1 where an output is NaN."""
        return self.classes_of(self.outputs(x))

    def classes_of(self, outputs: np.ndarray) -> np.ndarray:
        """The classes that outputs stand for."""
        if self.threshold is not None:
            found = (outputs[:, 0] > self.threshold).astype(int)
        else:
            found = np.argmax(outputs, axis=-1)
        return np.where(np.isnan(outputs).any(axis=-1), -1, found)

    def margins(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The right score minus the largest other one, as executed."""
        return margins_of(np.asarray(ops.convert_to_numpy(self.scores(x, training=False))), y)


def _prediction(model: keras.Model) -> Callable[..., Any]:
    return lambda points: model(points, training=False)


def margins_of(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The right score minus the largest other one."""
    rows = np.arange(len(y))
    others = scores.astype("float64")
    right = others[rows, y].copy()
    others[rows, y] = -np.inf
    with np.errstate(invalid="ignore"):
        margins = right - others.max(axis=-1)
    return np.where(np.isnan(margins), -np.inf, margins)  # Of two infinite scores.
