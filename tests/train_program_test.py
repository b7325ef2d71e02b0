"""The training program: what it writes, resuming after a kill, what it refuses, the recipes."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from absl import app, flags

from tests import support
from tfcert import LpBall, bound_margins, datasets, models
from tfcert.cli import train, train_config, train_run
from tfcert.smoothing import Laplace

SMALL = {
    "objective": "crown-ibp",
    "model": "mlp_1x12",
    "eps": "0.03",
    "train_eps": "0.04",
    "ramp": "1,3",
    "epochs": "4",
    "batch_size": "100",
    "learning_rate": "0.01",
    "limit": "300",
    "verify": "ibp,crown",
    "attack_steps": "5",
    "verbose": "0",
}


def command(out, **changes):
    settings = {**SMALL, "out": str(out), **changes}
    options = settings.pop("option", [])
    names = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    return [
        sys.executable,
        "trainers/train.py",
        *names,
        *[f"--option={option}" for option in options],
    ]


def run(out, **changes):
    return subprocess.run(
        command(out, **changes),
        cwd=support.ROOT,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )


def run_here(out, **changes):
    """As `run`, without the seconds that a new process takes to import everything."""
    with parsed(command(out, **changes)[2:]):
        train.main(["train"])


def config_of(arguments):
    """A configuration as the program reads it from a command line."""
    with parsed(arguments):
        return train_run.Config(**{name: flags.FLAGS[name].value for name in train_run.SETTINGS})


@contextlib.contextmanager
def parsed(arguments):
    """The program's flags, with the values of a command line."""
    before = set(flags.FLAGS)
    train._define_flags()
    try:
        flags.FLAGS(["train", *arguments])
        yield
    finally:
        flags.FLAGS.unparse_flags()
        flags.FLAGS.mark_as_parsed()  # As conftest.py does, for absl's test cases.
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def test_a_run(tmp_path, capsys):
    out = tmp_path / "run"
    run_here(out)
    printed = capsys.readouterr().out
    facts = json.loads((out / "run.json").read_text())
    assert facts["flags"]["eps"] == 0.03 and facts["seed"] == 0
    assert facts["parameters"] == 64 * 12 + 12 + 120 + 10
    assert {"keras", "numpy", "python"} <= set(facts["versions"]) and facts["training_seconds"] > 0
    history = json.loads((out / "history.json").read_text())
    assert len(history["val_verified_accuracy"]) == len(history["seconds"]) == 4
    np.testing.assert_allclose(history["eps"][-1], 0.04)

    (_, _), (x, y) = datasets.load("digits")
    x, y = x[:300], y[:300]
    model = keras.saving.load_model(out / "model.keras")
    results = json.loads((out / "results.json").read_text())
    wrong = np.asarray(model(x)).argmax(1) != y
    np.testing.assert_allclose(results["clean_error"], wrong.mean())
    for method in ("ibp", "crown"):
        margins = np.asarray(bound_margins(model, x, y, LpBall(0.03, clip=(0, 1)), method))
        verified = (np.where(np.arange(10) == y[:, None], 1, margins) > 0).all(1) & ~wrong
        np.testing.assert_allclose(results["methods"][method]["error"], 1 - verified.mean())
    assert wrong.mean() <= results["attack"]["error"] <= results["methods"]["crown"]["error"]
    percent = f"{100 * results['methods']['crown']['error']:.2f} %"
    assert percent in printed

    with pytest.raises(app.UsageError, match="is not empty"):
        run_here(tmp_path / "run")
    with pytest.raises(app.UsageError, match="--eps=0.03"):
        run_here(tmp_path / "run", resume="true", eps="0.05")


def test_a_loss_that_is_no_number_is_a_message(tmp_path):
    with pytest.raises(SystemExit, match="^tfcert-train: The loss became"):
        run_here(
            tmp_path / "run", objective="standard", learning_rate="1e30", train_eps=None, ramp=None
        )


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    arguments = {"objective": "ibp", "epochs": "6", "model": "mlp_1x40", "verify": "ibp"}
    run_here(tmp_path / "whole", **arguments)
    process = subprocess.Popen(
        command(tmp_path / "killed", **arguments),
        cwd=support.ROOT,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    backup = tmp_path / "killed" / "backup" / "epoch_00001.weights.h5"
    deadline = time.monotonic() + 120
    while not backup.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # In a process of its own again, from its beginning to its end.
    resumed = run(tmp_path / "killed", resume="true", **arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert " %" in resumed.stdout
    facts = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("whole", "killed")]
    assert "earlier" not in facts[0]
    (part,) = facts[1]["earlier"]
    assert part == {"versions": facts[0]["versions"], "commit": facts[0]["commit"], "seconds": None}
    first, second = (
        json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "killed")
    )
    for name in first:
        if name != "seconds":
            assert first[name] == second[name], name
    trained = [
        keras.saving.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed")
    ]
    for a, b in zip(*(model.get_weights() for model in trained), strict=True):
        np.testing.assert_array_equal(a, b)


BAD = {
    "option": (
        {"option": ["weight=5.0"]},
        "does not take weight. Did you .* It takes: .*natural_weight",
    ),
    "model": ({"model": "vgg"}, "--model=vgg: there is no such architecture.*dm_small"),
    "image": ({"ramp": "3"}, "--ramp must be begin,end"),
    "data": ({"dataset": "mnist", "data_dir": "/nowhere"}, "holds no mnist.npz"),
    "schedule": ({"option": ["natural_weight=linear(1,0,5)"]}, "=linear.1,0,5.: linear"),
    "arguments": ({"option": ["natural_weight=linear(1,2)"]}, r"\): linear missing 2 required"),
    "text": ({"option": ["tolerance=abc"]}, "--option=tolerance=abc: could not convert"),
    "switch": ({"objective": "advibp", "option": ["rescale=no"]}, "`rescale` must be True or Fal"),
    "count": ({"objective": "advibp", "option": ["attack_steps=1.5"]}, "`attack_steps` must be a"),
    "twice": ({"option": ["train_eps=0.3"]}, "train_eps is a flag: --train_eps. Received"),
    "noise_option": (
        {"objective": "macer", "train_eps": None, "ramp": None, "option": ["sigma=0.5"]},
        "sigma is a flag",
    ),
    "lipschitz": ({"verify": "lipschitz"}, "--verify=lipschitz: Layer 'dense"),
    "lipschitz_norm": ({"verify": "lipschitz", "norm": "2"}, "is for --norm=inf"),
    "noise_norm": (
        {"objective": "gaussian", "eps": None, "sigma": "0.5", "norm": "2"},
        "--norm is the norm of --eps",
    ),
    "noise_verify": (
        {"objective": "gaussian", "eps": None, "train_eps": None, "ramp": None, "sigma": "0.5"},
        "--verify is for runs with --eps.*--objective=gaussian --verify=ibp,crown",
    ),
    "rate": ({"learning_rate": "0"}, "--learning_rate must be > 0"),
    "rate_nan": ({"learning_rate": "nan"}, "--learning_rate must be > 0"),
    "clipnorm": ({"clipnorm": "0"}, "--clipnorm must be > 0"),
    "global_clipnorm": ({"global_clipnorm": "0"}, "--global_clipnorm must be > 0"),
    "clipnorms": ({"clipnorm": "1", "global_clipnorm": "10"}, "limits all gradients together"),
    "average": ({"ema_momentum": "1"}, r"--ema_momentum must lie in \[0, 1\)"),
    "beta": ({"beta_2": "1"}, r"--beta_2 must lie in \[0, 1\)"),
    "factor": ({"drop_factor": "0.5"}, "--drop_factor needs --drops"),
    "distances": ({"model": "linf_mlp_2x8", "init": "ibp"}, "has no dense or convolutional layers"),
    "early_drop": ({"drops": "0,3"}, "--drops must be epochs > 0"),
    "std": ({"std": "0"}, "`std` must be > 0"),
    "channels": ({"mean": "0.1,0.2"}, "`mean` must be a finite number, or one for each of 1 ch"),
    "small": ({"model": "lenet"}, "Model 'lenet' does not fit inputs of shape .8, 8, 1."),
    "mean": ({"mean": "a"}, "--mean must be numbers"),
    "norm": ({"objective": "advibp", "norm": "2"}, "norm inf"),
    "resume": ({"resume": "true"}, "there is no run.json"),
    "sigma": ({"sigma": "0.5"}, "needs --eps and takes no --sigma"),
    "smooth": ({"objective": "gaussian"}, "does not take train_eps"),
    "noise": ({"noise": "laplace"}, "--noise is for the objectives of smoothing, with --sigma"),
    "momentum": ({"momentum": "0.9"}, "--momentum is for sgd"),
    "attack": ({"attack_step_size": "0"}, "--attack_step_size must be > 0"),
    "shape": ({"ramp": None, "ramp_shape": "smoothed"}, "--ramp_shape needs --ramp"),
    "pixels": ({"crop_pixels": "2"}, "need --augment"),
    "fill": ({"crop_fill": "edge"}, "need --augment"),
    "drops": ({"drops": "40,20"}, "--drops must be increasing epochs. Received: 40,20"),
    "pair": ({"option": ["regularizer=(1,2)"]}, r"crown-ibp --option=regularizer=\(1,2\): float"),
    "none": (
        {"objective": "advibp", "option": ["stage=None"]},
        "--option=stage=None: `stage` must",
    ),
    "stage": (
        {"objective": "advibp", "option": ["stage=2"]},
        "continues from the model of stage 1",
    ),
    "init": ({"init": "ibp", "init_model": "model.keras"}, "--init has no meaning"),
    "precision": ({"precision": "bfloat16"}, "--precision=bfloat16 is for the objectives of smoo"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_before_training(name, tmp_path):
    changes, text = BAD[name]
    options = changes.pop("option", [])
    settings = {**SMALL, "out": str(tmp_path / "o"), **changes}
    arguments = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    arguments += [f"--option={option}" for option in options]
    with pytest.raises((ValueError, OSError), match=text):
        train_run.prepare(config_of(arguments))
    assert not (tmp_path / "o").exists()


def test_training_radius_below_the_tested_one_warns():
    config = config_of(["--objective=ibp", "--eps=0.1", "--train_eps=0.05", "--out=unused"])
    with pytest.warns(UserWarning, match="--train_eps=0.05 is less than --eps=0.1"):
        train_config.warn(config)


def test_flags_refused_beside_noise_are_compared_with_their_defaults():
    config = dataclasses.asdict(config_of(["--objective=ibp", "--out=unused"]))
    assert {name: config[name] for name in train_config.EVALUATION} == train_config.EVALUATION


def test_drops_after_the_end_warn():
    config = config_of(["--objective=ibp", "--eps=0.1", "--out=unused", "--drops=2,30"])
    with pytest.warns(UserWarning, match="--drops=2,30: training ends after epoch 30"):
        train_config.warn(config)


def test_switches_as_texts():
    flags = ["--objective=advibp", "--eps=0.1", "--out=unused", "--option=rescale=false"]
    objective = train_run._objective(config_of([*flags, "--option=clean_warmup=True"]))
    assert (objective.rescale, objective.clean_warmup) == (False, True)


def test_what_is_measured_after_training_may_change_on_resuming():
    flags_ = ["--objective=ibp", "--eps=0.1", "--out=unused"]
    known = dataclasses.asdict(config_of(flags_))
    changed = ["--verify=crown", "--attack_steps=7", "--attack_step_size=0.5"]
    train_config.check_same(config_of([*flags_, *changed]), known)
    with pytest.raises(ValueError, match="which had --epochs=30"):
        train_config.check_same(config_of([*flags_, "--epochs=3"]), known)


def test_a_later_stage_starts_from_a_model_with_its_first_layers_frozen(tmp_path):
    keras.utils.set_random_seed(7)
    first = models.get("mlp_1x12", (8, 8, 1), 10)
    first.save(tmp_path / "first.keras")

    def prepared(model):
        settings = {"objective": "advibp", "model": model, "eps": "0.03", "out": tmp_path / "o"}
        settings |= {"init_model": tmp_path / "first.keras", "option": "stage=2", "limit": "50"}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        return train_run.prepare(config_of(arguments)).trainer

    trainer = prepared("mlp_1x12")
    for a, b in zip(trainer.model.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer.objective.stage == 2
    assert [len(x.trainable_weights) for x in trainer.model.layers if x.weights] == [0, 2]
    with pytest.raises(ValueError, match=r"a model like --model.*\(64, 9\).*\(64, 12\)"):
        prepared("mlp_1x9")


def test_a_run_for_smoothing(tmp_path, capsys):
    changes = {"objective": "consistency", "model": "mlp_1x40", "eps": None, "train_eps": None}
    changes |= {
        "ramp": None,
        "verify": None,
        "attack_steps": None,
        "sigma": "0.25",
        "limit": "900",
        "epochs": "12",
    }
    changes |= {"optimizer": "sgd", "momentum": "0.9", "weight_decay": "1e-3", "drops": "6"}
    run_here(tmp_path / "run", **changes, learning_rate="0.1", option=["weight=1.0"])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert (results["sigma"], results["noise"]) == (0.25, "gaussian")
    assert results["samples"] == 360
    # The noise of a validation batch is the same every time.
    np.testing.assert_allclose(results["noisy_error"], 1 - history["val_noisy_accuracy"][-1])
    assert results["noisy_error"] < 0.6
    assert results["clean_error"] < results["noisy_error"]
    assert f"{100 * results['noisy_error']:.2f} %" in printed and "sigma=0.25" in printed
    assert history["noisy"][-1] < history["noisy"][0]


def test_a_run_in_bfloat16_saves_a_model_that_computes_in_it(tmp_path):
    settings = {"objective": "gaussian", "sigma": "0.25", "limit": "200", "model": "mlp_1x40"}
    settings |= {"epochs": "1", "precision": "bfloat16", "verbose": "0", "out": tmp_path / "run"}
    settings["noise"] = "laplace"
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    results = train_run.run(train_run.prepare(config_of(arguments)), log=lambda line: None)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["noise"], results["sigma"]) == ("laplace", 0.25)
    assert "sigma=0.25, laplace noise:" in train_run.summary(results)
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    dense = [layer for layer in model.layers if layer.weights]
    assert [layer.compute_dtype for layer in dense] == ["bfloat16", "float32"]
    assert {layer.variable_dtype for layer in dense} == {"float32"}


def test_other_noise():
    flags = ["--sigma=0.3", "--noise=laplace", "--out=unused", "--option=copies=2"]
    objective = train_run._objective(config_of(["--objective=gaussian", *flags]))
    assert objective.noise == Laplace(0.3) and objective.copies == 2
    with pytest.raises(ValueError, match="--objective=macer is for Gaussian noise"):
        train_config.check_objective(config_of(["--objective=macer", *flags]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decay=cosine", "--drops=3"], "--drops needs --decay=drops"),
        (["--optimizer=sgd", "--beta_2=0.9"], "--beta_2 is for adam"),
        (["--optimizer=sgd", "--epsilon=1e-10"], "--epsilon is for adam"),
    ],
)
def test_settings_of_the_optimizer_that_do_not_go_together(flags, message):
    config = config_of(["--objective=ibp", "--eps=0.1", "--out=unused", *flags])
    with pytest.raises(ValueError, match=message):
        train_run._optimizer(config, 10)


def test_cosine_falls_in_every_step():
    flags = ["--decay=cosine", "--learning_rate=0.03", "--epochs=4", "--beta_2=0.99"]
    config = config_of(["--objective=ibp", "--eps=0.1", "--out=unused", *flags, "--epsilon=1e-10"])
    optimizer = train_run._optimizer(config, 10)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 10, 20, 40)]
    expected = [0.015 * (1.0 + np.cos(np.pi * t)) for t in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose(rates, expected, atol=1e-8)
    assert (optimizer.beta_2, optimizer.epsilon) == (0.99, 1e-10)


RECIPES = sorted((support.ROOT / "trainers" / "recipes").rglob("*.flags"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_recipes_build(path, monkeypatch):
    """Every recipe gives an objective and a model, on arrays of the shape of its data."""
    paths = [path]
    if path.name.startswith("small_"):  # These change the network and the schedule of another.
        paths = [path.with_name("mnist_0.1_maar.flags"), path]
    text = "\n".join(path.read_text() for path in paths)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    config = config_of([*shlex.split(" ".join(map(shlex.quote, lines))), "--out=unused"])
    shape = (32, 32, 3) if config.dataset == "cifar10" else (28, 28, 1)
    train_config.check(config)
    objective = train_run._objective(config)
    ends = [s.end for s in objective.schedules().values() if s.unit == "epochs"]
    assert max(ends, default=0) <= config.epochs
    assert config.sigma is not None or config.train_eps >= config.eps
    mean, std = train_run.numbers("mean", config.mean), train_run.numbers("std", config.std)
    families = ("mlp_", "linf_mlp_", "sort_mlp_")
    assert config.model.startswith(families) or config.model in train_run.models.NAMES
    if not re.search("large|medium|110|5120|cnn7$", config.model):  # Those take long.
        train_run.models.get(config.model, shape, 10, mean, std)
    assert mean is None or len(mean) in (1, shape[-1])
    train_run._optimizer(config, 100)
    assert pathlib.Path(config.out).name == "unused"
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(path.name in line for line in comment), "the head shows the command"
