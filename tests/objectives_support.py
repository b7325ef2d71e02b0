"""Formulas that the tests of objectives share."""

import hypothesis as hp
import numpy as np
from hypothesis import strategies as hps

SETTINGS = hp.settings(derandomize=True, deadline=None, database=None, max_examples=12)
SEEDS = hps.integers(0, 2**20)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(y, z):
    return -np.log(np.take_along_axis(softmax(z), y[:, None], 1)[:, 0])
