"""Tests of the attacking program, as it is started and from within."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tests import support
from tfcert import datasets
from tfcert.cli import attack_run as program
from tfcert.cli.attack_config import Config


def _model(path: pathlib.Path) -> keras.Model:
    """Scores by the distance to the mean image of every class: right on most, and easily broken."""
    (x, y), _ = datasets.load("digits")
    means = np.stack([x[y == label].mean(axis=0).ravel() for label in range(10)])
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.set_weights([2 * means.T, -(means**2).sum(axis=1)])
    model.save(path)
    return model


def _config(folder: pathlib.Path, **changed) -> Config:
    values = {
        "model_path": str(folder / "model.keras"),
        "dataset": "digits",
        "data_dir": None,
        "eps": 0.1,
        "norm": "inf",
        "attack": "pgd",
        "steps": 5,
        "restarts": None,
        "step_size": None,
        "momentum": None,
        "early_stop": True,
        "loss": None,
        "targets": None,
        "rounds": None,
        "time_limit": None,
        "limit": 90,
        "seed": 0,
        "batch_size": 40,
        "out": str(folder / "new/attack.json"),
    }
    return Config(**{**values, **changed})


def test_a_model_that_returns_nan_is_refused(tmp_path):
    model = _model(tmp_path / "model.keras")
    kernel, bias = model.get_weights()
    kernel[27, 3] = np.nan
    model.set_weights([kernel, bias])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"The model returns NaN for 90 of 90 images.*number 0"):
        program.attack_model(_config(tmp_path), log=print)


def _start(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(support.ROOT / "trainers/attack.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_program_leaves_its_results(tmp_path):
    model = _model(tmp_path / "model.keras")
    given = ("--model_path=model.keras", "--eps=0.1", "--attack=apgd", "--steps=10", "--limit=90")
    done = _start(*given, "--out=attack.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "attack.json").read_text())
    _, (x, y) = datasets.load("digits")
    right = np.asarray(ops.convert_to_numpy(model(x[:90]))).argmax(axis=1) == y[:90]
    assert results["samples"] == 90
    assert results["clean_accuracy"] == pytest.approx(right.mean())
    left = right.sum() - len(results["broken"])
    assert results["accuracy_under_attack"] == pytest.approx(left / 90)
    assert 0.05 < results["accuracy_under_attack"] < 0.8 * results["clean_accuracy"]
    assert right[results["broken"]].all()
    assert results["flags"]["steps"] == 10 and results["flags"]["restarts"] is None
    assert results["attack"].startswith("APGD(region=LpBall(eps=0.1")
    model_bytes = (tmp_path / "model.keras").read_bytes()
    assert results["model_sha256"] == hashlib.sha256(model_bytes).hexdigest()
    assert {"python", "tfcert", "keras"} <= set(results["versions"])
    assert "commit" in results
    for name in ("clean_accuracy", "accuracy_under_attack"):
        line = f"{name.replace('_', ' '):<22} {100 * results[name]:6.2f} %"
        assert line in done.stdout
        assert f"{name.replace('_', ' ')} {results[name]:.4f}" in done.stderr


@pytest.mark.slow
def test_program_refuses_bad_flags(tmp_path):
    done = _start("--model_path=none.keras", "--eps=0.1", "--out=a.json", cwd=tmp_path)
    assert done.returncode != 0
    assert "none.keras" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"attack": "fgsm", "steps": None},
        {"restarts": 3, "loss": "logits_ratio", "seed": 5},
        {"norm": "2", "eps": 0.7},
        {"norm": "1.5", "attack": "apgd", "loss": "cross_entropy", "targets": 2},
        {"attack": "square", "steps": 60},
        {"attack": "ensemble", "steps": None, "rounds": 2, "time_limit": 0.001},
    ],
)
def test_settings_reach_the_attack(changed, tmp_path):
    _model(tmp_path / "model.keras")
    lines = []
    results = program.attack_model(_config(tmp_path, **changed), lines.append)
    assert json.loads((tmp_path / "new/attack.json").read_text()) == results
    assert len(lines) == 2
    assert bool(results["broken"]) == ("time_limit" not in changed)  # no time for any batch
    text = results["attack"]
    name = changed.get("attack", "pgd")
    if name not in ("square", "ensemble"):
        assert f"loss='{changed.get('loss', 'margin')}'" in text
    if name not in ("fgsm", "ensemble"):
        assert f"restarts={changed.get('restarts', 1)}" in text
    for flag in ("targets", "rounds", "time_limit", "steps"):
        if changed.get(flag):
            assert f"{flag}={changed[flag]}" in text
    norm = changed.get("norm", "inf")
    assert f"norm={float(norm)}" in text or f'norm="{norm}"' in text


def test_data_of_the_user(tmp_path):
    _model(tmp_path / "model.keras")
    (x, y), _ = datasets.load("digits")
    arrays = {"x_train": x[:5], "y_train": y[:5], "x_test": x[:30], "y_test": y[:30]}
    np.savez(tmp_path / "mine.npz", **arrays)
    results = program.attack_model(_config(tmp_path, dataset=str(tmp_path / "mine.npz")), print)
    assert results["samples"] == 30 and results["clean_accuracy"] > 0.8


def test_eps_zero_breaks_nothing(tmp_path):
    _model(tmp_path / "model.keras")
    results = program.attack_model(_config(tmp_path, eps=0.0), print)
    assert results["broken"] == []
    assert results["accuracy_under_attack"] == results["clean_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attack": "fgsm"}, "=fgsm takes --loss, and no --steps. Received: {'steps': 5}"),
        ({"attack": "fgsm", "steps": None, "early_stop": False}, "'early_stop': False"),
        ({"attack": "apgd", "step_size": 0.1}, "=apgd takes .*, and no --step_size. Received"),
        ({"attack": "ensemble"}, "takes --rounds, --time_limit, and no --steps. Received"),
        ({"attack": "square", "loss": "margin", "targets": 3}, "and no --loss, --targets. Rec"),
        ({"attack": "square", "norm": "1"}, "balls of norm inf and 2"),
        ({"time_limit": 3.0}, "=pgd takes .*, and no --time_limit"),
        ({"step_size": 0.0}, "`step_size` must be > 0"),
        ({"momentum": 1.0}, "`momentum` must lie in"),
        ({"norm": "0.5"}, "`norm` must be .inf. or a number from 1 on"),
        ({"out": "."}, "--out=. exists"),
        ({"model_path": "none.keras"}, "none.keras"),
    ],
)
def test_refuses(changed, message, tmp_path):
    _model(tmp_path / "model.keras")
    with pytest.raises((ValueError, OSError), match=message):
        program.attack_model(_config(tmp_path, **changed), print)
    assert not (tmp_path / "new").exists()


def test_refuses_models_for_other_images(tmp_path):
    inputs = keras.Input((28, 28, 1))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\). Received: .* \(28, 28, 1\)"):
        program.attack_model(_config(tmp_path), print)


def test_the_shape_of_steps_reaches_the_attack():
    settings = {"step_size": 0.3, "momentum": 0.5, "early_stop": False}
    attack = program._attack(_config(pathlib.Path(), **settings))
    assert (attack.step_size.last, attack.momentum, attack.early_stop) == (0.3, 0.5, False)
    plain = program._attack(_config(pathlib.Path(), attack="apgd"))
    assert (plain.momentum, plain.early_stop) == (0.75, True)
    endless = _config(pathlib.Path(), attack="ensemble", steps=None, time_limit=9.0)
    assert program._attack(endless).rounds is None
