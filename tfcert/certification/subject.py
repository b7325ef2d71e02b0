"""The model under certification: scores to bound, predictions as executed, and a float64 twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import heads
from tfcert.network import Network, derived_from, network_of
from tfcert.programs import programs_of

__all__ = ["Subject"]


class Subject:
    """A model, the scores that decide its class, and its predictions.

    A final softmax is left out of the scores, since it changes no order. A model with a single
    output is a binary classifier: class 1 where the output, a logit or behind a sigmoid a
    probability, is above 0 or 1/2.

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
        self.scores, self.threshold = (
            _scores_of(model, shape[0], float_safe) if ranks else (model, None)
        )
        self.network: Network = network_of(self.scores)
        self.classes: int = self.network.outputs.shape[0]
        self.dtype: str = self.network.dtype

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """What the model itself returns, as it is executed in batches of this size."""
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


def _scores_of(
    model: keras.Model, outputs: int, float_safe: bool
) -> tuple[keras.Model, float | None]:
    """The model of the scores; for one output also the threshold between the classes."""
    head = heads.head_of(model)
    ending = head.activation
    strips = ending == ("softmax" if outputs > 1 else "sigmoid")
    if strips and float_safe:
        raise NotImplementedError(
            f"Model {model.name!r} ends in {ending}, whose rounding float_safe does not cover. "
            "Certify, and deploy, the model that ends in logits."
        )
    if outputs == 1 and ending in ("softmax", "relu"):
        raise ValueError(
            "`model` must return a logit or a probability where it has one output. "
            f"Received: model {model.name!r}, which ends in {ending}."
        )
    if strips and outputs == 1 and not head.removable:
        raise NotImplementedError(
            f"Model {model.name!r} ends in a function {ending} that is not Keras's own, so tfcert "
            "cannot bound the logit before it. Certify the model that ends in the logit."
        )
    strips = strips and head.removable
    if outputs > 1 and not strips:
        return model, None
    # Kept with the model, so that compiled bounds are used again.
    scores, copies = derived_from(model).once(_stripped if strips else _paired)
    for layer, copy in copies:
        copy.set_weights(layer.get_weights())
    threshold = 0.5 if ending == "sigmoid" else 0.0
    return scores, threshold if outputs == 1 else None


def _stripped(model: keras.Model) -> tuple[keras.Model, list]:
    """The model of the scores where the model ends in an activation, and the copied layers."""
    scores, copies = heads.without_activation(model)
    return (scores if model.output_shape[-1] > 1 else _pair(scores)), copies


def _paired(model: keras.Model) -> tuple[keras.Model, list]:
    """The model of two scores where the model gives one logit."""
    return _pair(model), []


def _pair(logit: keras.Model) -> keras.Model:
    """Scores 0 and z of a model with the output z: class 1 where z > 0."""
    layer = keras.layers.Dense(2, use_bias=False, trainable=False, dtype=logit.dtype_policy)
    inputs = keras.Input(tuple(logit.input_shape[1:]), dtype=logit.inputs[0].dtype)
    pair = keras.Model(inputs, layer(logit(inputs)))
    layer.set_weights([np.array([[0.0, 1.0]])])
    return pair
