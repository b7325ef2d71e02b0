"""What an attack looks for: points of another class than the label, or that break a property."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.attacks import inputs
from tfcert.attacks.inputs import Scores
from tfcert.properties import OutputProperty
from tfcert.types import Tensor

__all__ = ["Sought", "sought"]


class Sought:
    """Points where another score than that of the label is the largest.

    Attributes:
        parts: Tensors with an entry for each input; arguments of the compiled search.
        key: What the compiled search depends on besides their shapes.
    """

    key: tuple[Any, ...] = ()

    def __init__(self, *parts: Tensor):
        self.parts = parts

    def without_parts(self) -> Sought:
        """What the compiled search keeps."""
        other = type(self)()
        other.key = self.key
        return other

    def select(self, places: np.ndarray) -> Sought:
        """The same for some of the inputs, which may come several times."""
        other = type(self)(*(ops.take(part, places, axis=0) for part in self.parts))
        other.key = self.key
        return other

    def scores(self, model: keras.Model, parts: tuple[Tensor, ...]) -> tuple[Scores, Tensor]:
        """The scores of points, and the labels whose scores should not be the largest.

        Args:
            model: The model.
            parts: Some of ``parts``, inside of the compiled search.
        """
        return inputs.scores_of(model), parts[0]

    def classes(self, model: keras.Model, x: Tensor) -> int:
        """How many scores there are."""
        return inputs.classes_of(model, x)


class _Breaking(Sought):
    """Points that break a property.

    The scores are 0, of the label, and minus each margin. Where not all margins are needed, they
    are those of the largest margins: one of them is at most 0 where too few are positive.

    The parts are the rows, ``(batch, rows, outputs)``, and the offsets of the margins. The key
    holds how many margins are needed, and whether a softmax before them is left out.
    """

    def scores(self, model: keras.Model, parts: tuple[Tensor, ...]) -> tuple[Scores, Tensor]:
        rows, offsets = parts
        needed, ranks = self.key
        outputs = inputs.scores_of(model) if ranks else inputs.outputs_of(model)

        def scores(points: Tensor) -> Tensor:
            found = outputs(points)
            count = ops.shape(found)[0] // ops.shape(rows)[0]  # Neighbours of each input.
            own = ops.repeat(rows, count, axis=0), ops.repeat(offsets, count, axis=0)
            margins = ops.einsum("brc,bc->br", own[0], found) + own[1]
            if needed < margins.shape[1]:
                margins = ops.top_k(margins, needed)[0]
            return ops.pad(-margins, ((0, 0), (1, 0)))

        return scores, ops.zeros((ops.shape(rows)[0],), "int32")

    def classes(self, model: keras.Model, x: Tensor) -> int:
        return self.key[0] + 1


def sought(
    model: keras.Model, x: Tensor, y: Any, least: int = 2, why: str = "The attack"
) -> tuple[Tensor, Sought]:
    """Inputs as floats, and what is looked for; raises unless all fit together.

    Args:
        model: The model.
        x: Inputs.
        y: Labels, a property, or what was found here before.
        least: How many scores are needed.
        why: What needs them.
    """
    if isinstance(y, Sought):
        return ops.convert_to_tensor(x), y
    if not isinstance(y, OutputProperty):
        x, y = inputs.check(model, x, y, least, why)
        return x, Sought(y)
    x = inputs.floats(model, x, why)
    outputs = inputs.classes_of(model, x) if y.ranks else inputs.width_of(model, x)
    rows, offsets = y.margins_of(x.shape[0], outputs)
    found = _Breaking(*(ops.convert_to_tensor(part, x.dtype) for part in (rows, offsets)))
    found.key = (y.needed(rows.shape[1]), y.ranks)
    if found.classes(model, x) < least:
        raise ValueError(
            f"{why} needs a property with at least {least - 1} margins. "
            f"Received: {y!r}, of which {y.needed(rows.shape[1])} must be positive."
        )
    return x, found
