"""A trained model remembers the bounds that it was trained with, in its name.

Of all that a plain Keras model has, its name alone is kept by saving, loading, saving again and
cloning, with or without tfcert.
"""

from __future__ import annotations

import keras

__all__ = ["mark", "trained_with"]

_MARK = "-trained-with-"


def mark(model: keras.Model, method: str | None) -> None:
    """Notes in a model's name which bounds it is trained with; None takes the note away.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)], name="small")
    >>> mark(model, "ibp")
    >>> model.name
    'small-trained-with-ibp'
    """
    name = model.name.partition(_MARK)[0]
    model.name = name if method is None else f"{name}{_MARK}{method}"


def trained_with(model: keras.Model) -> str | None:
    """The bounds that a model was trained with, as far as its name tells; else None."""
    return model.name.partition(_MARK)[2] or None
