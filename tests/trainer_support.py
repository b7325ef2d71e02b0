"""Trainers that the tests of training share."""

import keras
import numpy as np
import pytest

from tests import training_support as ts
from tfcert import CertifiedTrainer, LpBall, objectives

tf = pytest.importorskip("tensorflow", reason="these tests use TensorFlow's trainer")
TARGET = LpBall(0.03, clip=(0.0, 1.0))


# To trace a step takes longer than to carry out a dozen steps one operation at a time.
EAGERLY = {"run_eagerly": True}


def ibp(**options):
    return objectives.IBP(TARGET, **{"train_eps": 0.06, "ramp": (1, 3), **options})


def fitted(objective=None, model=None, compile_options=None, verified_share=0.125, **options):
    x, y = ts.data(40)
    # What is tested does not depend on the depth, and tracing takes longer than training.
    model = model or ts.mlp(units=(6,))
    trainer = CertifiedTrainer(model, objective or ibp(), seed=3, verified_share=verified_share)
    trainer.compile(keras.optimizers.Adam(1e-2), **(compile_options or {}))
    options = {"x": x, "y": y, "epochs": 4, "batch_size": 16, "verbose": 0, **options}
    return trainer, trainer.fit(**options).history


def same_weights(first, second, **tolerance):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
