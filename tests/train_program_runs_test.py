"""Runs of the training program: extended, interrupted, and on data of the user."""

import dataclasses
import json
import os
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
from absl import app

from tests import support
from tests.train_program_test import command, config_of, run_here
from tfcert import datasets
from tfcert.cli import train_config, train_run

QUICK = {"ramp": None, "train_eps": None, "limit": "100", "verify": "ibp", "attack_steps": "1"}
QUICK |= {"objective": "ibp", "epochs": "1"}


def test_a_finished_run_is_extended(tmp_path):
    """To what a run of as many epochs gives."""
    out = tmp_path / "run"
    run_here(out, **QUICK)
    first = json.loads((out / "history.json").read_text())
    model = keras.saving.load_model(out / "model.keras")
    run_here(out, **{**QUICK, "epochs": "3"}, resume="true")
    history = json.loads((out / "history.json").read_text())
    assert [len(values) for values in history.values()] == [3] * len(history)
    assert all(values[:1] == first[name] for name, values in history.items())
    assert json.loads((out / "run.json").read_text())["flags"]["epochs"] == 3
    trained = keras.saving.load_model(out / "model.keras")
    assert not np.array_equal(trained.get_weights()[0], model.get_weights()[0])
    for changes in ({"epochs": "2"}, {"epochs": "4", "decay": "cosine"}):
        with pytest.raises(app.UsageError, match="--resume continues with the flags of the run"):
            run_here(out, **{**QUICK, **changes}, resume="true")
    run_here(tmp_path / "whole", **{**QUICK, "epochs": "3"})
    whole = json.loads((tmp_path / "whole" / "history.json").read_text())
    for name in set(whole) - {"seconds"}:
        assert whole[name] == history[name], name


def test_cosine_is_not_extended():
    flags_ = ["--objective=ibp", "--eps=0.1", "--out=unused", "--decay=cosine"]
    known = dataclasses.asdict(config_of(flags_))
    with pytest.raises(ValueError, match="may grow only, and not with --decay=cosine"):
        train_config.check_same(config_of([*flags_, "--epochs=40"]), known)


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run, "run", interrupted)
    with pytest.raises(SystemExit) as error:
        run_here(tmp_path / "run", **QUICK)
    assert error.value.code == 130
    said = capsys.readouterr().err
    assert said == (
        "\ntfcert-train: Stopped. The same command with --resume goes on after the last whole "
        "epoch.\n"
    )


@pytest.mark.slow
def test_ctrl_c_in_the_middle(tmp_path):
    out = tmp_path / "run"
    settings = {**QUICK, "epochs": "4000", "model": "mlp_1x40"}
    process = subprocess.Popen(
        command(out, **settings),
        cwd=support.ROOT,
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background ignore the signal, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("backup/*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    (line,) = [line for line in said.splitlines() if line]
    assert line.startswith("tfcert-train: Stopped. The same command with --resume goes on")
    assert len(json.loads((out / "history.json").read_text())["loss"]) >= 1
    train_run.prepare(config_of([*command(out, **settings)[2:], "--resume"]))


def test_data_of_the_user(tmp_path):
    (x, y), _ = datasets.load("digits")
    chosen = y < 3
    x, y = x[chosen][:150], y[chosen][:150]
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    run_here(tmp_path / "run", **{**QUICK, "dataset": str(path), "limit": None})
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.output_shape == (None, 3)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["samples"] == 50
    wrong = np.asarray(model(x[100:])).argmax(1) != y[100:]
    np.testing.assert_allclose(results["clean_error"], wrong.mean())
