"""Models that begin with integers: the embedding, and the part of the model behind it."""

from __future__ import annotations

from typing import NamedTuple

import keras

from tfcert.entering.cutting import embedding_of
from tfcert.network import checked_model, derived_from

__all__ = ["SplitModel", "split_embedding"]


class SplitModel(NamedTuple):
    """A model in two parts, which share its layers.

    Attributes:
        embedding: The ``Embedding`` layer that reads the words.
        embed: The model from words to their vectors.
        rest: The model from vectors to the outputs; this is what regions and bounds are for.
    """

    embedding: keras.layers.Embedding
    embed: keras.Model
    rest: keras.Model


def split_embedding(model: keras.Model) -> SplitModel:
    """Cuts a model after the ``Embedding`` that reads its input.

    A ball around integers has no meaning, but a ball around their vectors has one:

    >>> parts = tfcert.split_embedding(model)
    >>> vectors = parts.embed(words)
    >>> margins = tfcert.bound_margins(parts.rest, vectors, y, tfcert.LpBall(0.01))

    Args:
        model: A built model with one input of the shape ``(positions,)``.

    Returns:
        The embedding, and both parts. The parts share the weights of the model.
    """
    return derived_from(checked_model(model)).once(_split)


def _split(model: keras.Model) -> SplitModel:
    if len(model.inputs) != 1:
        raise NotImplementedError(
            f"Model {model.name!r} has {len(model.inputs)} inputs. Words are read from a model "
            "with one input."
        )
    call = embedding_of(model, model.inputs[0])
    layer, vectors = call.operation, call.outputs[0]
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.outputs
    embed = keras.Model(model.inputs[0], vectors)
    return SplitModel(layer, embed, keras.Model(vectors, outputs))
