"""Draws of noise, and the noise behind distributions of TensorFlow Probability."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcert import backend
from tfcert.types import Tensor

__all__ = ["describe", "draw"]


def describe(noise: Any) -> tuple[str, dict[str, np.ndarray]]:
    """The family and the parameters of a distribution of TensorFlow Probability."""
    try:
        return backend.noise_parameters(noise)
    except TypeError as error:
        raise NotImplementedError(
            f"`noise` of type {type(noise).__name__} has no radius here: {error} What fits: "
            "tfp.distributions.Normal(0.0, sigma), Laplace(0.0, scale) or Uniform(-width, width), "
            "exactly these classes, or tfcert.smoothing.Gaussian(sigma), Laplace(scale) or "
            "Uniform(width)."
        ) from error


def draw(noise: Any, keys: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Independent blocks of noise, ``(keys, *shape)``, each decided by its key alone."""
    return backend.draw_noise(type(noise).__name__, noise.scale, keys, shape, dtype)
