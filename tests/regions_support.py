"""Balls, boxes and exact membership for the tests of regions."""

import fractions

import hypothesis as hp
import keras
import numpy as np
from hypothesis import strategies as hps
from keras import ops

from tfcert import regions

SHAPE = (2, 2, 2)  # 8 coordinates, the last axis the channels
BATCH = 3
NORMS = ("inf", 2, 1, 1.5, 3)
EPS = {
    "scalar": np.array(8 / 255),
    "per_channel": np.array([0.1, 0.3]),
    "full": np.linspace(0.0, 0.35, 8).reshape(SHAPE),
}
CASES = {
    f"{norm}_{name}{'_clip' if clip else ''}": (norm, name, clip)
    for norm in NORMS
    for name in EPS
    for clip in (False, True)
}
settings = hp.settings(derandomize=True, deadline=None, database=None, max_examples=4)
seeds = hps.integers(0, 2**31 - 1)
scales = hps.sampled_from([1e-3, 1.0, 1e3])


def array(value):
    return np.asarray(ops.convert_to_numpy(value))


def make_x(seed, scale=1.0, batch=BATCH, shape=SHAPE, dtype="float32"):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (batch, *shape))).astype(dtype)


def make_ball(norm, eps, clip, scale=1.0):
    limits = ([-1.0 * scale, -1.1 * scale], 1.0 * scale) if clip else None
    return regions.LpBall(EPS[eps] * scale, norm, limits)


def exact(number):
    return fractions.Fraction(float(number))


def compiled(function, xla=True):
    """The function as the backend compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=xla)
