"""Checks that a model can be trained."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import keras

from tfcert import entering, graph, heads, tracing
from tfcert.network import network_of
from tfcert.objectives.aims import Aim
from tfcert.regions import Product, Region

__all__ = ["check_model", "settle"]


def check_model(model: keras.Model, aim: Aim, bounded: bool) -> None:
    """Raises unless an objective can train the model; says where an activation is left out.

    Args:
        model: The model.
        aim: What margins are about.
        bounded: Whether the objective computes bounds. Without them any layer and mixed precision
            will do.
    """
    given = model if entering.joined(model) is None else entering.enter(model).model
    if bounded:
        _check_calls(model)
        network = network_of(given)
        if network.dtype != "float32" or network.reduced:
            raise ValueError(
                "Certified training needs float32. Rebuild the model with the policy 'float32'. "
                f"Received: model {model.name!r} of type {network.reduced or network.dtype}."
            )
    else:
        _check_graph(model)
    scored = aim.plain(given, read=bounded)
    output = model.output_shape if graph.wants_walk(model) else scored.model.output_shape
    if not isinstance(output, tuple) or len(output) != 2:
        raise ValueError(
            "Training needs a model with one output of shape (batch, classes). "
            f"Received: output shape {output}."
        )
    for layer in graph.layers_of(model):
        if graph.is_written_by_keras(type(layer)) and _augments(layer, bounded):
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) changes inputs at random while "
                "training. The clean pass and the bounds would see different inputs: augment in "
                "the data pipeline instead, dataset.map(lambda x, y: (augment(x), y))."
            )
        if isinstance(layer, keras.layers.ActivityRegularization) or (
            getattr(layer, "activity_regularizer", None) is not None
        ):
            raise ValueError(
                f"Layer {layer.name!r} has an activity regularizer. A training step passes "
                "through the model several times, at clean, attacked and bounded inputs, and its "
                "loss would be counted in each. Remove it, or add such a term in an objective of "
                "your own; regularizers of weights are fine."
            )
    head = heads.head_of(scored.model)
    if scored.ending:
        warnings.warn(
            f"Model {model.name!r} ends in {scored.ending}. Training uses the logits before "
            f"{scored.ending}, with the same weights; the model keeps {scored.ending}.",
            stacklevel=3,
        )
    elif aim.ranks and head.activation in ("softmax", "log_softmax", "sigmoid"):
        raise ValueError(
            f"Model {model.name!r} ends in {head.activation} (layer {head.operation.name!r}), "
            "which cannot be left out. Objectives train logits: build the model without that "
            "activation (the class with the largest score stays the same)."
        )


def settle(door: entering.Joined | None, region: Region | None) -> None:
    """Tells a region of several inputs which model it is for; raises where they do not fit."""
    if door is not None and region is not None:
        door.settle(entering.product_of(door.names, region))
    elif isinstance(region, Product):
        raise ValueError(
            "`region` must be a tfcert.LpBall or a tfcert.Box for a model with one input. "
            f"Received: region={region!r}."
        )


def _check_calls(model: keras.Model) -> None:
    """Raises where a layer or model that is read computes something else while training."""
    for layer in [model, *graph.layers_of(model)]:
        if tracing.is_hidden(layer) and "training" in inspect.signature(layer.call).parameters:
            raise NotImplementedError(
                f"{type(layer).__name__} {layer.name!r} is written as a class, and its call takes "
                "`training`: bounds cannot follow its behaviour during training. Remove this "
                "argument. Keras passes `training` to inner layers, such as Dropout and "
                "BatchNormalization, by itself."
            )


def _check_graph(model: Any) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a built Sequential or functional Keras model; wrap others: "
            f"keras.Model(inputs, model(inputs)). Received: {model!r}."
        )
    if len(model.inputs) != 1 and entering.joined(model) is None:
        raise NotImplementedError(
            f"Model {model.name!r} has {len(model.inputs)} inputs, and layers whose calls cannot "
            "be read. Concatenate the inputs to one, and split it inside the model."
        )


def _augments(layer: keras.layers.Layer, bounded: bool) -> bool:
    name = type(layer).__name__
    if bounded and name == "GaussianNoise":
        return True
    return name.startswith("Random") or name in (
        "AugMix",
        "AutoContrast",
        "CutMix",
        "MixUp",
        "Solarization",
    )
