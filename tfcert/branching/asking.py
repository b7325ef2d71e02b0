"""The arguments of ``verify``, as problems of a model."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcert import checks, heads
from tfcert.network import checked_model, network_of
from tfcert.properties import OutputProperty, Property
from tfcert.properties.questions import Problem
from tfcert.regions import Region
from tfcert.regions.checking import check_region
from tfcert.types import ArrayLike

__all__ = ["check_output", "problems_of", "subject_of"]


def problems_of(
    model: keras.Model, asked: Any, x: ArrayLike | None, region: Region | None
) -> list[Problem]:
    """Returns a property as problems of the model; raises an error if it does not fit."""
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
        return asked.problems(shape, network.dtype)
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
    checks.check_inputs(x, shape, model.name)
    return asked.problems(x, region, outputs)


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
