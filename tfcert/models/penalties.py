"""Penalties on weights, for models that stay plain."""

from __future__ import annotations

import math

import keras

from tfcert.models.initialization import kernels

__all__ = ["l1_penalty"]


def l1_penalty(model: keras.Model, weight: float) -> keras.Model:
    """Adds ``weight`` times the sum of absolute kernel entries to the loss of training.

    The penalty covers the kernels of dense and convolutional layers, not biases and batch
    normalisation. Call this function before you create the ``CertifiedTrainer``, which logs the
    penalty as ``regularization``. The penalty belongs to the variables in memory: a saved model is
    loaded without it. Small weights make fewer units unstable, which helps complete verification.

    Args:
        model: A built model.
        weight: The weight of the penalty, at least 0. The literature uses 0 to 5e-5, and 1e-6 to
            1e-5 for small radii.

    Returns:
        The model.

    Example:

    >>> import keras, tfcert
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> len(tfcert.models.l1_penalty(model, 1e-5).losses)
    1
    """
    weight = float(weight)
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"`weight` must be at least 0 and finite. Received: weight={weight!r}.")
    for _, variable in kernels(model):
        variable.regularizer = keras.regularizers.L1(weight) if weight else None
    return model
