"""The arguments of ``verify``, as problems of a model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import checks, heads
from tfcert.branching import attacking
from tfcert.branching.checking import Referee
from tfcert.branching.choices import Choices, VerifyBoxes
from tfcert.branching.outcome import Counterexample, Outcome
from tfcert.network import checked_model, network_of
from tfcert.properties import OutputProperty, Property
from tfcert.properties.questions import Problem
from tfcert.regions import Region
from tfcert.regions.checking import check_region
from tfcert.types import ArrayLike, Tensor

__all__ = ["Boxes", "check_output", "question_of", "subject_of"]


class Boxes(NamedTuple):
    """Problems about boxes of inputs.

    Attributes:
        problems: The problems; all of them must hold.
    """

    problems: list[Problem]

    def boxes(self) -> list[Problem]:
        """The problems, as ``Choices.boxes`` gives them."""
        return self.problems

    def verified(self, model: keras.Model, settings: Any, verify_boxes: VerifyBoxes) -> Outcome:
        """Decides whether all problems hold, as ``Choices.verified`` does."""
        return verify_boxes(model, self.problems, settings)

    def counterexample(
        self, model: keras.Model, steps: int, starts: int, seed: int
    ) -> Counterexample | None:
        """A point that breaks a problem, by random points and gradient steps."""
        if not self.problems:
            return None
        referee = Referee(model, self.problems)
        found = referee.judge(*attacking.drawn(self.problems, starts, seed))
        return found or referee.judge(*attacking.attack(model, self.problems, steps, starts, seed))


def question_of(
    model: keras.Model, asked: Any, x: ArrayLike | None, region: Region | None
) -> Boxes | Choices:
    """Returns what is asked of the model; raises an error if it does not fit."""
    network = network_of(model)
    shape, outputs = network.input.shape, network.outputs.shape[0]
    if isinstance(asked, Property):
        if x is not None or region is not None:
            raise ValueError(
                "`x` and `region` must be None for a VNN-LIB property, which contains its "
                f"inputs. Received: x={'None' if x is None else 'an array'}, region={region!r}."
            )
        if (asked.inputs, asked.outputs) != (math.prod(shape), outputs):
            raise ValueError(
                f"The property is about {asked.inputs} inputs and {asked.outputs} outputs. "
                f"Received: a model with {math.prod(shape)} inputs and {outputs} outputs."
            )
        return Boxes(asked.problems(shape, network.dtype))
    inputs, around = _checked(model, asked, x, region)
    points = np.asarray(ops.convert_to_numpy(inputs))
    if around.splits and around.options(points) is not None:
        around.validate(points)
        return Choices(around, points, asked.questions(len(points), outputs))
    return Boxes(asked.problems(inputs, around, outputs))


def _checked(model: keras.Model, asked: Any, x: Any, region: Any) -> tuple[Tensor, Region]:
    """The inputs in the type of the model, and the region; raises where they do not fit."""
    network = network_of(model)
    if not isinstance(asked, OutputProperty):
        raise ValueError(
            "`asked` must be one of tfcert.properties, such as "
            f"tfcert.properties.ClassStays(labels). Received: asked={asked!r}."
        )
    if x is None or region is None:
        raise ValueError(
            "`x` and `region` are required, because the property is about a region around x. "
            f"Received: x={'None' if x is None else 'an array'}, region={region!r}."
        )
    check_region(region)
    x = ops.cast(ops.convert_to_tensor(x), network.dtype)
    checks.check_inputs(x, network.input.shape, model.name)
    return x, region


def subject_of(model: Any, asked: Any, float_safe: bool = False) -> keras.Model:
    """The model that a property is about: that of the scores where only their order counts."""
    checked_model(model)
    if not isinstance(asked, OutputProperty) or not asked.ranks:
        return model
    found = heads.scored(model)
    if float_safe:
        found.check_rounding()
    return found.model


def check_output(model: keras.Model) -> None:
    """Raises unless a model has one output, a vector."""
    network = network_of(model)
    if len(getattr(network.outputs, "shape", ())) != 1:
        raise ValueError(
            "`model` must have one output of shape (batch, outputs). "
            f"Received: output shape {model.output_shape}."
        )
