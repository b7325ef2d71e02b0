"""The few types that every part of the package shares."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Bounds", "Tensor"]

# A tensor of whichever backend Keras runs on; keras.KerasTensor where a model is only described.
Tensor = Any


class Bounds(NamedTuple):
    """An elementwise enclosure: ``lower <= value <= upper``.

    A named tuple is a structure that ``keras.tree``, ``tf.function`` and XLA accept as it is.
    """

    lower: Tensor
    upper: Tensor
