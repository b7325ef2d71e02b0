"""The door: model, inputs and region as bounds, attacks and searches take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.entering.embedding import split_embedding
from tfcert.entering.joining import Joined, joining, names_of, product_of
from tfcert.network import checked_model
from tfcert.regions import Product, Region, WordSubstitutions
from tfcert.types import ArrayLike

__all__ = ["Entry", "Inputs", "Regions", "enter", "joined"]

# Of a model with several inputs: one for each.
Inputs: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]
OneRegion: TypeAlias = Region | WordSubstitutions | str
Regions: TypeAlias = OneRegion | Mapping[str, OneRegion] | Sequence[OneRegion]


class Entry(NamedTuple):
    """A model with one input of floats, and what belongs to it.

    Attributes:
        model: The model; its layers and variables are those of the model that was given.
        x: Its inputs; None where none were given.
        region: The region around them; None where none was given.
        apart: ``apart(points, places)`` makes inputs of the model that was given of points of the
            region, one or several, which belong to the inputs at these places; None where the
            points are such inputs.
    """

    model: Any
    x: Any
    region: Any
    apart: Callable[[Any, Any], Any] | None = None


def enter(model: Any, x: Any = None, region: Any = None) -> Entry:
    """Model, inputs and region as bounds, attacks and searches take them.

    A model with several inputs becomes one of a vector, and words that may be replaced become their
    vectors. Anything else stays as it is.

    Args:
        model: A model.
        x: Inputs, in the structure of the model's; None where there are none.
        region: The region, for several inputs in the structure of x; None where there is none.

    Example:

    >>> entry = enter(model, {"image": images, "kind": kinds}, {"image": ball, "kind": "fixed"})
    >>> entry.model(entry.x)
    """
    if not isinstance(model, keras.Model):
        return Entry(model, x, region)
    if _has_one_input(model) and not isinstance(region, WordSubstitutions):
        return Entry(model, x, region)
    try:
        readable = checked_model(model, x)
    except NotImplementedError:
        if isinstance(region, Mapping | Sequence | Product):
            raise
        return Entry(model, x, region)  # Refused, with the reason, where it is bounded.
    if len(readable.inputs) > 1:
        return _of_several(readable, x, region)
    if isinstance(region, WordSubstitutions):
        return _of_words(readable, x, region)
    return Entry(model, x, region)


def _has_one_input(model: keras.Model) -> bool:
    """Whether a model tells at once that it has one input: every call for bounds asks."""
    return graph.wants_walk(model) and len(getattr(model, "inputs", None) or ()) == 1


def joined(model: keras.Model) -> Joined | None:
    """How the inputs of a model become one vector; None for a model with one input."""
    try:
        readable = checked_model(model)
    except NotImplementedError:
        return None
    return None if len(readable.inputs) == 1 else joining(readable)


def _of_several(model: keras.Model, x: Any, region: Any) -> Entry:
    asked = None if region is None else product_of(names_of(model), region)
    door = joining(model, () if asked is None else asked.words())
    if x is None:
        return Entry(door.model, None, None if asked is None else door.region(asked))
    vectors = door.vector(x)
    around = None if asked is None else door.region(asked, x)
    return Entry(door.model, vectors, around, lambda points, _: door.apart(points, x, asked))


def _of_words(model: keras.Model, x: Any, region: WordSubstitutions) -> Entry:
    parts = split_embedding(model)
    words = np.asarray(ops.convert_to_numpy(x))
    vectors = ops.convert_to_numpy(parts.embedding.embeddings)
    around = region.around(words, vectors)

    def apart(points: Any, places: Any) -> np.ndarray:
        if places is None:  # A point of any of the regions.
            several = np.repeat(np.asarray(points)[None], len(words), axis=0)
            inside = around.contains(several.astype(vectors.dtype), vectors[words.astype("int64")])
            places = int(np.argmax(inside))
        found = region.nearest(words[places], ops.convert_to_numpy(points), vectors)
        return found.astype(words.dtype)

    return Entry(parts.rest, vectors[words.astype("int64")], around, apart)
