"""Noise from JAX's own generator: TensorFlow Probability does not import without TensorFlow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfcert.types import Tensor

__all__ = ["draw_noise", "noise_keys", "noise_parameters"]


def noise_parameters(distribution: Any) -> tuple[str, dict[str, np.ndarray]]:
    """The family of a distribution of TensorFlow Probability, and its parameters by name.

    Raises:
        TypeError: Always. The text says why there are no parameters.
    """
    raise TypeError("TensorFlow Probability's distributions need the TensorFlow backend.")


def draw_noise(
    family: str, scale: float, keys: Tensor, shape: tuple[int, ...], dtype: str
) -> Tensor:
    """Independent blocks of noise, ``(keys, *shape)``, each decided by its key alone.

    Args:
        family: "Gaussian" or "Laplace" around 0, or "Uniform" from -scale to scale.
        scale: The width of the noise.
        keys: As from ``noise_keys``.
        shape: The shape of a block.
        dtype: The type of the noise.
    """

    def block(key: Tensor) -> Tensor:
        if family == "Gaussian":
            return scale * jax.random.normal(key, shape, dtype)
        # The open interval: at -1 a logarithm would be infinite.
        low = float(np.nextafter(np.array(-1.0, dtype), np.array(0.0, dtype)))
        unit = jax.random.uniform(key, shape, dtype, low, 1.0)
        if family == "Uniform":
            return scale * unit
        return -scale * jnp.sign(unit) * jnp.log1p(-jnp.abs(unit))

    return jax.vmap(block)(jnp.asarray(keys).astype("uint32"))


def noise_keys(keys: np.ndarray) -> np.ndarray:
    """Pairs of uint32 as ``draw_noise`` takes them."""
    return keys
