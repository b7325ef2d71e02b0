"""How noise is drawn: from TensorFlow Probability under TensorFlow, else from ``keras.random``.

The only module of the smoothing code that asks which backend is used. TensorFlow Probability does
not import under JAX; where it is used, it is imported with the first classifier, since that takes
seconds.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions.seeds import Seeds
from tfcert.types import Tensor

__all__ = ["describe", "draw", "on_accelerator", "pack_keys"]

_FITS = (
    "What fits: tfp.distributions.Normal(0.0, sigma), Laplace(0.0, scale) or "
    "Uniform(-width, width), exactly these classes, or tfcert.smoothing.Gaussian(sigma), "
    "Laplace(scale) or Uniform(width)."
)


def _refuse(noise: Any, reason: str) -> NotImplementedError:
    return NotImplementedError(
        f"`noise` of type {type(noise).__name__} has no radius here: {reason} {_FITS}"
    )


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    def describe(noise: Any) -> tuple[str, dict[str, np.ndarray]]:
        """The family and the parameters of a distribution of TensorFlow Probability."""
        from tensorflow_probability import distributions as tfd

        names = {
            tfd.Normal: ("loc", "scale"),
            tfd.Laplace: ("loc", "scale"),
            tfd.Uniform: ("low", "high"),
        }
        if type(noise) not in names:
            raise _refuse(noise, "its class is not one of those with a proven radius.")
        parameters = {name: getattr(noise, name) for name in names[type(noise)]}
        values = {
            name: np.asarray(ops.convert_to_numpy(value), "float64")
            for name, value in parameters.items()
        }
        return type(noise).__name__, values

    def draw(noise: Any, keys: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Independent blocks of noise, ``(keys, *shape)``, each decided by its key alone.

        Measured on two cores, 784,000 normals: 10 ms outside XLA, for one block or for ten; 340 ms
        inside XLA, where the sampler of TensorFlow Probability is slow on a CPU.
        """
        from tensorflow_probability import distributions as tfd

        scale = tf.constant(noise.scale, dtype)
        distribution = {
            "Gaussian": lambda: tfd.Normal(tf.zeros((), dtype), scale),
            "Laplace": lambda: tfd.Laplace(tf.zeros((), dtype), scale),
            "Uniform": lambda: tfd.Uniform(-scale, scale),
        }[type(noise).__name__]()
        return tf.stack([distribution.sample(shape, seed=key) for key in tf.unstack(keys)])

    def pack_keys(keys: np.ndarray) -> np.ndarray:
        """Pairs of uint32 as the backend takes them."""
        return keys.view("int32")

    def on_accelerator() -> bool:
        """Whether networks run on something else than a CPU."""
        return bool(tf.config.list_logical_devices("GPU"))

else:
    import jax

    def describe(noise: Any) -> tuple[str, dict[str, np.ndarray]]:
        """The family and the parameters of a distribution of TensorFlow Probability."""
        raise _refuse(noise, "TensorFlow Probability's distributions need the TensorFlow backend.")

    def draw(noise: Any, keys: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Independent blocks of noise, ``(keys, *shape)``, each decided by its key alone."""

        def block(key: Tensor) -> Tensor:
            seed = Seeds(key)[0]
            if type(noise).__name__ == "Gaussian":
                return noise.scale * keras.random.normal(shape, dtype=dtype, seed=seed)
            # The open interval: at -1 a logarithm would be infinite.
            low = float(np.nextafter(np.array(-1.0, dtype), np.array(0.0, dtype)))
            unit = keras.random.uniform(shape, low, 1.0, dtype=dtype, seed=seed)
            if type(noise).__name__ == "Uniform":
                return noise.scale * unit
            return -noise.scale * ops.sign(unit) * ops.log1p(-ops.abs(unit))

        return jax.vmap(block)(keys)

    def pack_keys(keys: np.ndarray) -> np.ndarray:
        """Pairs of uint32 as the backend takes them."""
        return keys

    def on_accelerator() -> bool:
        """Whether networks run on something else than a CPU."""
        return jax.default_backend() != "cpu"
