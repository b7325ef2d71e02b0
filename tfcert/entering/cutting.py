"""Cuts a model behind the inputs that keep their own type: what they alone decide, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from tfcert import graph
from tfcert.entering.computed import AsComputed, is_exact

__all__ = ["Cut", "cut", "embedding_of"]


class Cut(NamedTuple):
    """A model in two parts, which share its layers and variables.

    Attributes:
        front: From the inputs that keep their type to what the rest reads of them, a list.
        rest: From a list of the other inputs, and what the front gives, to the outputs.
        words: For each input that holds words, by its number, which of the front's outputs is the
            words' vectors.
        embeddings: The layers that make these.
    """

    front: keras.Model
    rest: keras.Model
    words: dict[int, int]
    embeddings: dict[int, keras.layers.Embedding]


def cut(model: keras.Model, kept: Sequence[int], words: Sequence[int], dtype: str) -> Cut:
    """Cuts a model where values that some of its inputs alone decide meet the others.

    What those inputs alone decide may be of any type, and pass through any layers: it is computed
    by these layers as they are. The cut lies behind the ``Embedding`` of words that may change.

    Args:
        model: A functional model.
        kept: The numbers of these inputs.
        words: The numbers of those among them that hold words.
        dtype: The float type of the rest.
    """
    return _Cutting(model, kept, words, dtype).run()


class _Cutting:
    def __init__(
        self, model: keras.Model, kept: Sequence[int], words: Sequence[int], dtype: str
    ) -> None:
        self.model, self.dtype = model, dtype
        self.symbols = [
            keras.Input(tuple(tensor.shape)[1:], dtype=tensor.dtype) for tensor in model.inputs
        ]
        self.kept = [self.symbols[number] for number in kept]
        self.own = [s for number, s in enumerate(self.symbols) if number not in kept]
        self.words = {id(self.symbols[number]): number for number in words}
        self.embeddings = {n: embedding_of(model, model.inputs[n]).operation for n in words}
        # What the kept inputs alone decide; what the rest reads of it, and what stands for that.
        self.front = {id(tensor): tensor for tensor in self.kept}
        self.read: list[Any] = []
        self.entries: list[Any] = []
        self.places: dict[int, Any] = {}
        # Those that other executions may round otherwise, by the layer that gave them.
        self.rounded: dict[int, str] = {}
        self.behind: dict[int, int] = {}

    def run(self) -> Cut:
        outputs = graph.interpret(self.model, self.symbols, self._visit, checked=False)
        outputs = keras.tree.map_structure(lambda t: self._in_rest(t, None), outputs)
        rest = keras.Model([*self.own, *self.entries], outputs, name=self.model.name)
        front = keras.Model(self.kept, self.read)
        return Cut(front, rest, self.behind, self.embeddings)

    def _visit(self, operation: Any, args: tuple, kwargs: dict, outputs: list) -> Any:
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if _is_symbolic(t)]
        if len(tensors) == 1 and id(tensors[0]) in self.words:
            return self._embedded(operation, tensors[0])
        if all(id(tensor) in self.front for tensor in tensors):
            result = operation(*args, **kwargs)
            found = keras.tree.flatten(result)
            self.front.update((id(tensor), tensor) for tensor in found)
            before = [self.rounded[id(t)] for t in tensors if id(t) in self.rounded]
            if before or not is_exact(operation):
                source = before[0] if is_exact(operation) else operation.name
                self.rounded.update((id(tensor), source) for tensor in found)
            return result
        graph.check_call(operation, kwargs)
        args, kwargs = keras.tree.map_structure(
            lambda value: self._in_rest(value, operation), (args, kwargs)
        )
        return operation(*args, **kwargs)

    def _embedded(self, embedding: Any, words: Any) -> Any:
        """The vectors of words that may change, which are an input of the rest."""
        vectors = embedding(words)
        self.behind[self.words[id(words)]] = len(self.read)
        return self._in_rest(self.front.setdefault(id(vectors), vectors), embedding)

    def _in_rest(self, value: Any, reader: Any) -> Any:
        """What stands for a value in the rest: an input, for what the kept inputs decide."""
        if not _is_symbolic(value) or id(value) not in self.front:
            return value
        if id(value) not in self.places:
            layer = isinstance(reader, keras.layers.Layer)  # Layers convert to their own type.
            if value.dtype == "float64" != self.dtype and reader is not None and not layer:
                raise NotImplementedError(
                    f"{reader.name!r} ({type(reader).__name__}) of model {self.model.name!r} reads "
                    f"float64 beside {self.dtype}, and would compute in float64. Convert before: "
                    f'keras.ops.cast(value, "{self.dtype}").'
                )
            shape = tuple(value.shape)[1:]
            if None in shape:
                raise ValueError(
                    f"Model {self.model.name!r} computes a value of open size, {shape}, of its "
                    "inputs that are fixed. Give keras.Input a fixed shape."
                )
            entry = keras.Input(shape, dtype=self.dtype)
            self.entries.append(entry)
            if id(value) in self.rounded:
                entry = AsComputed(self.rounded[id(value)], self.dtype)(entry)
            self.places[id(value)] = entry
            self.read.append(value)
        return self.places[id(value)]


def embedding_of(model: keras.Model, words: keras.KerasTensor) -> Any:
    """The one call that reads an input whose words may change, which must be an ``Embedding``."""
    readers = graph.readers(model, words)
    masking = [r.operation.name for r in readers if getattr(r.operation, "mask_zero", False)]
    if masking:
        raise NotImplementedError(
            f"Layer {masking[0]!r} (Embedding) hides the word 0 by a mask, so that which steps "
            "count would depend on the words. Build the model with mask_zero=False."
        )
    if len(readers) != 1 or type(readers[0].operation) is not keras.layers.Embedding:
        names = ", ".join(repr(reader.operation.name) for reader in readers)
        raise NotImplementedError(
            f"Input {words.name!r} of model {model.name!r} must be read by one "
            "keras.layers.Embedding and nothing else. Received: an input that is read by "
            f"{names or 'no layer'}."
        )
    return readers[0]


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)
