"""Models with several inputs, as models of one vector: all inputs, one behind the other.

Bounds, attacks and searches know one input. The public functions ask here for the model of the
vector, and for what belongs to it: x, and the region of the vector. Points are handed back in the
structure of the model's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.network import checked_model, derived_from
from tfcert.regions import LpBall, Product, Region
from tfcert.types import ArrayLike

__all__ = ["Inputs", "Joined", "Regions", "as_one"]

# Of a model with several inputs: one for each.
Inputs: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]
Regions: TypeAlias = Region | Mapping[str, Region | str] | Sequence[Region | str]


class Joined(NamedTuple):
    """A model with several inputs as a model of one vector.

    Attributes:
        model: The model of the vector; its layers and variables are those of the model.
        names: How each input is called: its key in a dictionary of inputs, or its own name.
        shapes: The shapes of the inputs, without the batch axis.
        structure: The inputs in their structure.
    """

    model: keras.Model
    names: list[str]
    shapes: list[tuple[int, ...]]
    structure: Any

    def vector(self, x: Any) -> Any:
        """Inputs in the structure of the model's as vectors, ``(batch, size)``."""
        parts, dtype = self._parts("x", x), self.model.inputs[0].dtype
        arrays = [ops.cast(ops.convert_to_tensor(part), dtype) for part in parts]
        for name, array, shape in zip(self.names, arrays, self.shapes, strict=True):
            sizes = tuple(array.shape)
            if sizes[1:] != shape or sizes[0] != arrays[0].shape[0]:
                raise ValueError(
                    f"`x` must hold input {name!r} of shape (batch, {', '.join(map(str, shape))}) "
                    f"with one batch for all inputs. Received: shape {sizes}."
                )
        flat = [
            ops.reshape(array, (-1, math.prod(shape)))
            for array, shape in zip(arrays, self.shapes, strict=True)
        ]
        return ops.concatenate(flat, axis=1)

    def region(self, regions: Any) -> Region:
        """The region of the vector, of a region or "fixed" for each input."""
        found = []
        for name, one in zip(self.names, self._parts("region", regions), strict=True):
            one = LpBall(0.0) if isinstance(one, str) and one == "fixed" else one
            if not isinstance(one, Region):
                raise ValueError(
                    'Each input of `region` must be a tfcert.LpBall, a tfcert.Box, or "fixed". '
                    f"Received: region={one!r} for input {name!r}."
                )
            found.append(one)
        return Product(found, self.shapes)

    def apart(self, point: Any) -> Any:
        """A vector, or several, in the structure of the model's inputs, as arrays of NumPy."""
        point = np.asarray(point)
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        cut = np.split(point, ends, axis=-1)
        parts = [
            part.reshape(point.shape[:-1] + shape)
            for part, shape in zip(cut, self.shapes, strict=True)
        ]
        return keras.tree.pack_sequence_as(self.structure, parts)

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


def as_one(model: Any, x: Any = None, region: Any = None) -> tuple[Any, Any, Any, Joined | None]:
    """The model, x and the region, where the model has several inputs those of the vector.

    Args:
        model: A model.
        x: Inputs, in the structure of the model's; None where there are none.
        region: The region, for several inputs in the structure of x; None where there is none.

    Returns:
        The model, x, the region, and how to take vectors apart; None for one input.
    """
    if not isinstance(model, keras.Model):
        return model, x, region, None
    try:
        readable = checked_model(model, x)
    except NotImplementedError:
        return model, x, region, None  # Refused, with the reason, where it is bounded.
    if len(readable.inputs) == 1:
        return model, x, region, None
    joined = derived_from(readable).once(_joined)
    return (
        joined.model,
        None if x is None else joined.vector(x),
        None if region is None else joined.region(region),
        joined,
    )


def _joined(model: keras.Model) -> Joined:
    structure, tensors = graph.inputs_of(model), model.inputs
    if isinstance(structure, dict):
        keys = {id(tensor): str(key) for key, tensor in structure.items()}
        names = [keys.get(id(tensor), tensor.name) for tensor in tensors]
    else:
        names = [tensor.name for tensor in tensors]
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        kinds = ", ".join(f"{n!r} ({t.dtype})" for n, t in zip(names, tensors, strict=True))
        raise NotImplementedError(
            f"Model {model.name!r} has inputs of several types, or of others than float32 and "
            f"float64: {kinds}. Give all inputs one float type. Of categories, bound the model "
            "from the embedded or encoded values on."
        )
    shapes = [tuple(tensor.shape)[1:] for tensor in tensors]
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(
            f"Model {model.name!r} has inputs of open sizes, {shapes}; bounds need every size but "
            "the batch. Give keras.Input a fixed shape."
        )
    vector = keras.Input((sum(map(math.prod, shapes)),), dtype=tensors[0].dtype)
    ends = np.cumsum([0, *map(math.prod, shapes)])
    parts = [
        ops.reshape(vector[:, low:high], (-1, *shape))
        for low, high, shape in zip(map(int, ends), map(int, ends[1:]), shapes, strict=False)
    ]
    outputs = model(keras.tree.pack_sequence_as(structure, parts))
    return Joined(keras.Model(vector, outputs, name=model.name), names, shapes, structure)
