"""Models that begin with integers: the embedding, and the part of the model behind it."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.network import checked_model, derived_from
from tfcert.regions import WordSubstitutions

__all__ = ["SplitModel", "entered", "split_embedding"]


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
    """Cuts a model behind the ``Embedding`` that reads its input.

    A ball around integers means nothing. Around the vectors it does:

    >>> parts = tfcert.split_embedding(model)
    >>> vectors = parts.embed(words)
    >>> margins = tfcert.bound_margins(parts.rest, vectors, y, tfcert.LpBall(0.01))

    Args:
        model: A built model with one input of the shape ``(positions,)``.

    Returns:
        The embedding, and both parts. They stay with the model, and follow its weights.
    """
    return derived_from(checked_model(model)).once(_split)


def _split(model: keras.Model) -> SplitModel:
    if len(model.inputs) != 1:
        raise NotImplementedError(
            f"Model {model.name!r} has {len(model.inputs)} inputs. Words are read from a model "
            "with one input."
        )
    readers = graph.readers(model, model.inputs[0])
    masking = [r.operation.name for r in readers if getattr(r.operation, "mask_zero", False)]
    if masking:
        raise NotImplementedError(
            f"Layer {masking[0]!r} (Embedding) hides the word 0 by a mask, so that which steps "
            "count would depend on the words. Build the model with mask_zero=False."
        )
    if len(readers) != 1 or type(readers[0].operation) is not keras.layers.Embedding:
        names = ", ".join(repr(reader.operation.name) for reader in readers)
        raise NotImplementedError(
            f"The input of model {model.name!r} must be read by one keras.layers.Embedding and "
            f"nothing else. Received: an input that is read by {names}."
        )
    layer, vectors = readers[0].operation, readers[0].outputs[0]
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.outputs
    embed = keras.Model(model.inputs[0], vectors)
    return SplitModel(layer, embed, keras.Model(vectors, outputs))


def entered(model: Any, x: Any, region: Any) -> tuple[Any, Any, Any]:
    """Model, inputs and region as bounds take them: behind the embedding, where words may change.

    Args:
        model: The model.
        x: Its inputs.
        region: The region, or ``WordSubstitutions``.
    """
    if not isinstance(region, WordSubstitutions):
        return model, x, region
    parts = split_embedding(model)
    words = np.asarray(ops.convert_to_numpy(x))
    vectors = ops.convert_to_numpy(parts.embedding.embeddings)
    around = region.around(words, vectors)
    return parts.rest, vectors[words.astype("int64")], around
