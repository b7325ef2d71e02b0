"""Flags of the training program that act on gradients, weights and statistics."""

import json

import keras
import numpy as np
import pytest

from tests import soundness
from tests.train_program_test import config_of, run_here
from tfcert import datasets
from tfcert.cli import train_run
from tfcert.models import architectures


def test_clipping_of_the_whole_gradient_and_averages():
    flags = ["--objective=sabr", "--eps=0.1", "--out=unused", "--global_clipnorm=10"]
    optimizer = train_run._optimizer(config_of([*flags, "--ema_momentum=0.99"]), 10)
    assert (optimizer.global_clipnorm, optimizer.clipnorm) == (10.0, None)
    assert (optimizer.use_ema, optimizer.ema_momentum) == (True, 0.99)
    assert not train_run._optimizer(config_of(flags), 10).use_ema


@pytest.mark.slow
def test_penalty_and_population_statistics(tmp_path, monkeypatch):
    """One epoch of a network that normalises, twice: with the statistics of the set and without."""
    # Of the networks with a name, those that normalise have seven layers, which take a minute.
    small = lambda: architectures._convolutions([(4, 3, 2, 1)], [8], batch_norm=True)  # noqa: E731
    monkeypatch.setitem(architectures._ARCHITECTURES, "cnn7_narrow", small)
    options = {"objective": "staps", "model": "cnn7_narrow", "epochs": "1", "ramp": None}
    options |= {"limit": "60", "batch_size": "20", "option": ["ratio=0.3", "trailing_layers=1"]}
    options |= {"verify": "ibp", "attack_steps": "2", "l1": "1e-5"}
    with soundness.eagerly():  # Six steps: to trace one takes longer.
        for name, on in (("with", "true"), ("without", "false")):
            run_here(tmp_path / name, population_statistics=on, **options)
    history = json.loads((tmp_path / "with" / "history.json").read_text())
    assert history["regularization"][0] > 0
    (x, _), _ = datasets.load("digits")
    kept = {}
    for name in ("with", "without"):
        model = keras.saving.load_model(tmp_path / name / "model.keras")
        norm = next(x for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
        inputs = np.asarray(keras.Model(model.inputs, norm.input)(x[:60]))
        kept[name] = np.abs(norm.moving_mean - inputs.mean(axis=(0, 1, 2))).max()
    assert kept["with"] < 1e-5 < 1e-3 < kept["without"]
