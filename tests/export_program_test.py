"""The exporting program, as it is started and from within."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import support
from tfcert import naming
from tfcert.cli import export_run as program
from tfcert.cli.export_config import Config

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf


def _model(path, name="digits"):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name=name)
    model.set_weights([np.array([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]]), np.array([0.1, 0.0])])
    model.save(path)
    return model


def _config(folder, **changed):
    values = dict.fromkeys(field.name for field in dataclasses.fields(Config))
    values |= {"method": "ibp", "overwrite": False}
    values |= {"model_path": str(folder / "model.keras"), "out": str(folder / "served/1")}
    return Config(**{**values, **changed})


def _facts(folder):
    return json.loads((folder / "served/1/assets/certificate.json").read_text())


def test_the_program(tmp_path):
    _model(tmp_path / "model.keras")
    arguments = ["--model_path=model.keras", "--eps=0.05", "--method=ibp", "--out=served/1"]
    run = subprocess.run(
        [sys.executable, str(support.ROOT / "trainers/export.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "The SavedModel is in served/1.\n"
    served = tf.saved_model.load(str(tmp_path / "served/1")).signatures["serving_default"]
    found = served(x=tf.constant([[0.9, 0.5, 0.0], [0.2, 0.2, 0.2]]))
    # The scores differ by 2 x0 + x1/2 - 2 x2 + 0.1: each x by up to 0.05, where that is possible.
    np.testing.assert_allclose(found["margin"].numpy(), [1.925, -0.025], atol=1e-6)


def test_flags_arrive(tmp_path):
    _model(tmp_path / "model.keras")
    config = _config(tmp_path, eps=0.1, norm="2", clip=[], float_safe=True, method="crown")
    assert program.export_model(config) == []
    facts = _facts(tmp_path)
    assert facts["region"] == {"class": "LpBall", "eps": 0.1, "norm": 2.0, "clip": None}
    assert facts["method"]["class"] == "Crown" and facts["method"]["float_safe"] is True
    with pytest.raises(ValueError, match="--out=.* exists"):
        program.export_model(config)
    program.export_model(_config(tmp_path, eps=0.2, overwrite=True))
    assert _facts(tmp_path)["region"]["clip"] == [0.0, 1.0]


@pytest.mark.parametrize("text", ['{"a": 1}', '{"flags": null}', '{"flags": {"sigma": 0.5}}'])
def test_a_file_of_another_program_beside_the_model_says_nothing(text, tmp_path):
    _model(tmp_path / "model.keras")
    (tmp_path / "run.json").write_text(text)
    assert program.export_model(_config(tmp_path, eps=0.1)) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm": "2"}, "--norm has no meaning for --method=smoothing"),
        ({"clip": ["0", "1"]}, "--clip has no meaning for --method=smoothing"),
    ],
)
def test_flags_of_bounds_are_not_for_smoothing(changed, message, tmp_path):
    _model(tmp_path / "model.keras")
    config = _config(tmp_path, method="smoothing", sigma=0.25, n=400, **changed)
    with pytest.raises(ValueError, match=message):
        program.export_model(config)


def test_broken_files_are_named(tmp_path):
    _model(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="model.keras must be a Keras model"):
        program.export_model(_config(tmp_path, eps=0.1))
    (tmp_path / "model.keras").write_bytes(whole)
    (tmp_path / "run.json").write_text("nope")
    with pytest.raises(ValueError, match="run.json must be a JSON object"):
        program.export_model(_config(tmp_path, eps=0.1))


def test_smoothing(tmp_path):
    _model(tmp_path / "model.keras")
    (tmp_path / "run.json").write_text('{"flags": {"objective": "gaussian", "sigma": 0.5}}')
    config = _config(tmp_path, method="smoothing", sigma=0.25, n=400, alpha=0.01)
    wanted = ["Note: the model was trained with --noise=gaussian --sigma=0.5."]
    assert program.export_model(config) == wanted
    facts = _facts(tmp_path)
    assert facts["noise"] == {"class": "Gaussian", "scale": 0.25}
    assert (facts["n0"], facts["n"], facts["alpha"]) == (100, 400, 0.01)
    laplace = {"sigma": 0.5, "noise": "laplace", "overwrite": True}
    assert program.export_model(dataclasses.replace(config, **laplace)) == wanted
    assert _facts(tmp_path)["noise"] == {"class": "Laplace", "scale": 0.5}


def test_says_when_another_bound_was_trained_with(tmp_path):
    model = _model(tmp_path / "model.keras")
    naming.mark(model, "crown-ibp")
    model.save(tmp_path / "model.keras")
    wanted = ["Note: the model was trained with the bounds of --method=crown-ibp."]
    assert program.export_model(_config(tmp_path, eps=0.1)) == wanted
    assert (
        program.export_model(_config(tmp_path, eps=0.1, overwrite=True, method="crown-ibp")) == []
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--method=ibp needs --eps"),
        ({"eps": 0.1, "sigma": 0.5}, "--sigma has no meaning for --method=ibp"),
        ({"eps": 0.1, "noise": "laplace"}, "--noise has no meaning for --method=ibp"),
        ({"method": "smoothing", "sigma": 0.5, "eps": 0.1}, "--eps has no meaning"),
        ({"method": "smoothing"}, "--method=smoothing needs --sigma"),
        (
            {"method": "smoothing", "sigma": 0.5, "adaptive_precision": 0.1},
            "--adaptive_precision goes with --adaptive",
        ),
        ({"eps": 0.1, "clip": ["0"]}, "--clip must be low,high, or empty. Received: --clip=0"),
        ({"eps": 0.1, "clip": ["a", "b"]}, "--clip must be low,high, or empty"),
        ({"eps": 0.1, "norm": "0.5"}, "`norm` must be"),
    ],
)
def test_refuses_bad_flags(changes, message, tmp_path):
    _model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=message):
        program.export_model(_config(tmp_path, **changes))
    assert not (tmp_path / "served").exists()


def test_bounds_of_a_model_for_smoothing_are_refused(tmp_path):
    _model(tmp_path / "model.keras")
    (tmp_path / "run.json").write_text('{"flags": {"objective": "macer", "sigma": 0.25}}')
    with pytest.raises(ValueError, match=r"Use --method=smoothing --sigma=0\.25"):
        program.export_model(_config(tmp_path, eps=0.1))
