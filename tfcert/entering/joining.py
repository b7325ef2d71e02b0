"""Models with several inputs, as models of one vector: all inputs, one behind the other.

Inputs of the model's float type are blocks of the vector as they are. An input of another type,
such as a category, cannot be moved. What the model makes of such inputs alone is computed before,
and is a block, too. The last entry of the vector then is the place in the batch, which no layer
reads: it tells which values of these inputs a point belongs to.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.entering.cutting import Cut, cut
from tfcert.network import derived_from
from tfcert.regions import LpBall, Product, Region, WordSubstitutions
from tfcert.regions.product import as_region
from tfcert.types import Tensor

__all__ = ["Joined", "joining", "names_of", "product_of"]


class Joined(NamedTuple):
    """A model with several inputs as a model of one vector.

    Attributes:
        model: The model of the vector; its layers and variables are those of the model.
        names: How each input is called: its key in a dictionary of inputs, or its own name.
        tensors: The symbolic inputs.
        structure: The same in their structure.
        own: The numbers of the inputs that are blocks of the vector.
        kept: The numbers of those that keep a type of their own.
        cut: How the model is cut behind these; None where there are none.
        shapes: The shapes of the blocks.
    """

    model: keras.Model
    names: list[str]
    tensors: list[keras.KerasTensor]
    structure: Any
    own: list[int]
    kept: list[int]
    cut: Cut | None
    shapes: list[tuple[int, ...]]

    def vector(self, x: Any, training: bool = False) -> Tensor:
        """Inputs in the structure of the model's as vectors, ``(batch, size)``.

        Args:
            x: The inputs.
            training: Whether layers that read nothing but inputs of another type train.
        """
        dtype = self.model.inputs[0].dtype
        given = self._given(x)
        blocks = [ops.cast(given[number], dtype) for number in self.own]
        if self.cut is not None:
            found = self.cut.front([given[number] for number in self.kept], training=training)
            blocks += [ops.cast(value, dtype) for value in keras.tree.flatten(found)]
            blocks.append(ops.arange(ops.shape(given[0])[0], dtype=dtype))
        sizes = map(math.prod, self.shapes)
        flat = [ops.reshape(t, (-1, size)) for t, size in zip(blocks, sizes, strict=True)]
        return ops.concatenate(flat, axis=1)

    def _given(self, x: Any) -> list[Tensor]:
        """The inputs as tensors of their own types."""
        found: list[Tensor] = []
        for name, part, symbol in zip(self.names, self._parts("x", x), self.tensors, strict=True):
            tensor = ops.convert_to_tensor(part)
            sizes, shape = tuple(tensor.shape), tuple(symbol.shape)[1:]
            if sizes[1:] != shape or (found and sizes[0] != found[0].shape[0]):
                raise ValueError(
                    f"`x` must hold input {name!r} of shape (batch, {', '.join(map(str, shape))}) "
                    f"with one batch for all inputs. Received: shape {sizes}."
                )
            found.append(tensor if symbol.dtype == "string" else ops.cast(tensor, symbol.dtype))
        return found

    def arrays(self, x: Any) -> Any:
        """Inputs as arrays of NumPy of their own types: a dictionary, or a tuple for a list."""
        found = [np.asarray(ops.convert_to_numpy(tensor)) for tensor in self._given(x)]
        if isinstance(self.structure, dict):
            return keras.tree.pack_sequence_as(self.structure, found)
        return tuple(found)

    def region(self, asked: Product, x: Any = None) -> Product:
        """The region of the vector.

        Args:
            asked: A region for each input.
            x: The inputs, where words among them may change.
        """
        if asked.is_placed:
            self._check_placed(asked)
            return asked
        regions = self._regions(asked)
        found: list[Region] = [LpBall(0.0) for _ in self.shapes]
        for place, number in enumerate(self.own):
            found[place] = regions[number]
        for number, place in () if self.cut is None else self.cut.words.items():
            if x is None:
                raise _words_alone(self.names[number], regions[number])
            table = self._table(number)
            around = regions[number].around(self._array(x, number), table)
            found[len(self.own) + place] = around
        return Product(found, self.shapes)

    def settle(self, asked: Product) -> None:
        """Tells a region for each input how the vector is made of them."""
        if asked.is_placed:
            self._check_placed(asked)
            return
        self._regions(asked)
        places = self._parts("region", asked.by_input(range(len(self.names))))
        order = [places[number] for number in self.own]
        asked.settle([*order, *[None] * (len(self.shapes) - len(order))], self.shapes)

    def _check_placed(self, asked: Product) -> None:
        if self.kept or list(asked.shapes) != self.shapes:
            shapes = [tuple(tensor.shape)[1:] for tensor in self.tensors]
            raise ValueError(
                f"`shapes` of a Product must be those of the model's inputs, {shapes}, all of one "
                f"type; leave it out, and the model tells. Received: region={asked!r}."
            )

    def _regions(self, asked: Product) -> list[Any]:
        """The regions in the order of the inputs; raises where one does not fit its input."""
        regions = self._parts("region", asked.by_input(asked.regions))
        words = {} if self.cut is None else self.cut.words
        for number, (name, one) in enumerate(zip(self.names, regions, strict=True)):
            dtype = self.tensors[number].dtype
            if isinstance(one, WordSubstitutions) and number not in words:
                raise _words_alone(name, one)
            if number in self.kept and number not in words and one != LpBall(0.0):
                raise ValueError(
                    f"Input {name!r} has the type {dtype}, and the model computes in "
                    f'{self.model.inputs[0].dtype}: its region must be "fixed", or of integers '
                    "that an Embedding reads tfcert.regions.WordSubstitutions. "
                    f"Received: region={one!r}."
                )
        return regions

    def apart(self, points: Any, x: Any, asked: Product | None = None) -> Any:
        """Vectors in the structure of the model's inputs, as arrays of NumPy.

        Args:
            points: One vector, or several: the last axis is that of the vector.
            x: The inputs that the points belong to.
            asked: The region for each input.
        """
        points = np.asarray(ops.convert_to_numpy(points))
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        blocks = [
            part.reshape(points.shape[:-1] + shape)
            for part, shape in zip(np.split(points, ends, axis=-1), self.shapes, strict=True)
        ]
        parts: list[Any] = [None] * len(self.names)
        for number, block in zip(self.own, blocks, strict=False):
            parts[number] = block
        for number in self.kept:
            parts[number] = self._array(x, number)[blocks[-1].astype("int64")]
        for number, place in () if self.cut is None else self.cut.words.items():
            assert asked is not None
            region, block = self._regions(asked)[number], blocks[len(self.own) + place]
            found = region.nearest(parts[number], block, self._table(number))
            parts[number] = found.astype(self.tensors[number].dtype)
        return keras.tree.pack_sequence_as(self.structure, parts)

    def _table(self, number: int) -> np.ndarray:
        """The embedding of an input whose words may change."""
        assert self.cut is not None
        return np.asarray(ops.convert_to_numpy(self.cut.embeddings[number].embeddings))

    def _array(self, x: Any, number: int) -> np.ndarray:
        part = self._parts("x", x)[number]
        return np.asarray(ops.convert_to_numpy(part) if ops.is_tensor(part) else part)

    def _parts(self, argument: str, given: Any) -> list[Any]:
        """What is given for each input, in the order of the inputs."""
        if isinstance(given, dict) and set(given) == set(self.names):
            return [given[name] for name in self.names]
        listed = not isinstance(self.structure, dict) and isinstance(given, (list, tuple))
        if listed and len(given) == len(self.names):
            return list(given)
        kind = f"keys {sorted(given)}" if isinstance(given, dict) else type(given).__name__
        raise ValueError(
            f"`{argument}` must be a dictionary with an entry for each input of the model, "
            f"{', '.join(map(repr, self.names))}, or a list where the model takes a list. "
            f"Received: {kind}."
        )


def _words_alone(name: str, region: WordSubstitutions) -> ValueError:
    return ValueError(
        "WordSubstitutions are for words that are given, and no region of training or of an "
        f"export. Received: region={region!r} for input {name!r}."
    )


def product_of(names: list[str], region: Any) -> Product:
    """A region for each of these inputs; raises where that is not what was given."""
    found = as_region(region)
    if not isinstance(found, Product):
        raise ValueError(
            "`region` must be a dictionary, or where the model takes a list a list, with a region "
            f'or "fixed" for each input of the model: {", ".join(map(repr, names))}. '
            f"Received: region={region!r}."
        )
    return found


def names_of(model: keras.Model) -> list[str]:
    """How each input is called: its key in a dictionary of inputs, or its own name."""
    structure = graph.inputs_of(model)
    if not isinstance(structure, dict):
        return [tensor.name for tensor in model.inputs]
    keys = {id(tensor): str(key) for key, tensor in structure.items()}
    return [keys.get(id(tensor), tensor.name) for tensor in model.inputs]


def joining(model: keras.Model, words: tuple[Any, ...] = ()) -> Joined:
    """How the inputs of a functional model become one vector.

    Args:
        model: The model, which has several inputs.
        words: The inputs whose words may change, by name or by number.
    """
    known = derived_from(model).once(_Known)
    return known.joined(words)


class _Known:
    """The ways to join the inputs of a model that were asked for, by the inputs that hold words."""

    def __init__(self, model: keras.Model):
        self._model, self._made = model, dict[tuple, Joined]()

    def joined(self, words: tuple[Any, ...]) -> Joined:
        if words not in self._made:
            self._made[words] = _joined(self._model, words)
        return self._made[words]


def _joined(model: keras.Model, words: tuple[Any, ...]) -> Joined:
    structure, tensors, names = graph.inputs_of(model), model.inputs, names_of(model)
    for name, tensor in zip(names, tensors, strict=True):
        if None in tuple(tensor.shape)[1:]:
            raise ValueError(
                f"Input {name!r} of model {model.name!r} has an open size, {tensor.shape}; bounds "
                "need every size but the batch. Give keras.Input a fixed shape."
            )
    dtype = graph.weight_type(model) or next(
        (t.dtype for t in tensors if t.dtype in ("float32", "float64")), "float32"
    )
    changing = [n for n, name in enumerate(names) if name in words or n in words]
    kept = [n for n, t in enumerate(tensors) if t.dtype != dtype or n in changing]
    own = [number for number in range(len(tensors)) if number not in kept]
    if not own and not changing:
        kinds = ", ".join(f"{n!r} ({t.dtype})" for n, t in zip(names, tensors, strict=True))
        raise NotImplementedError(
            f"No input of model {model.name!r} has the type of its weights, {dtype}, so that "
            f"nothing can be moved: {kinds}. Give keras.Input the dtype {dtype}."
        )
    shapes = [tuple(tensors[number].shape)[1:] for number in own]
    parts = cut(model, kept, changing, dtype) if kept else None
    if parts is not None:
        shapes += [tuple(tensor.shape)[1:] for tensor in parts.front.outputs]
        shapes.append(())
    vector = keras.Input((sum(map(math.prod, shapes)),), dtype=dtype)
    ends = np.cumsum([0, *map(math.prod, shapes)])
    blocks = [
        ops.reshape(vector[:, low:high], (-1, *shape))
        for low, high, shape in zip(map(int, ends), map(int, ends[1:]), shapes, strict=False)
    ]
    if parts is None:
        outputs = model(keras.tree.pack_sequence_as(structure, blocks))
    else:
        outputs = parts.rest(blocks[:-1])
    whole = keras.Model(vector, outputs, name=model.name)
    return Joined(whole, names, list(tensors), structure, own, kept, parts, shapes)
