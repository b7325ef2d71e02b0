"""The certifying program: its logs, its flags, and what it refuses."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from absl import app
from keras import ops

import tfcert
from tests import certification_support, certify_program_support
from tests.certify_program_support import BOUNDS, SMOOTH, run
from tfcert import logs, smoothing
from tfcert.certification import UnsoundCertificateError, goals
from tfcert.cli import certify, certify_run
from tfcert.runs import identity


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return certify_program_support.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(model_path, tmp_path):
    return certify_program_support.settings(model_path, tmp_path / "run.tsv")


def test_bounds_leave_a_log(settings, capsys):
    config = settings(**BOUNDS, self_check=1.0)
    text = run(config)
    log = logs.read(config.out)
    _, (x, y) = tfcert.datasets.load("digits")
    index = np.arange(0, 360, 6)
    model = certification_support.trained()
    expected = tfcert.certify(
        model, x[index], y[index], tfcert.LpBall(0.05, clip=(0, 1)), ["ibp", "crown-ibp"]
    )
    entries = sorted(log.entries, key=lambda entry: entry["idx"])
    assert [entry["idx"] for entry in entries] == index.tolist()
    assert [entry["verdict"] for entry in entries] == expected.verdict.tolist()
    assert [entry["label"] for entry in entries] == y[index].tolist()
    assert log.facts["flags"]["eps"] == 0.05 and log.facts["program"] == "tfcert-certify"
    verified = (expected.verdict == "verified").sum()
    assert f"self-check: {verified} claims attacked, none broken" in text
    assert text.splitlines()[0] == f"60 inputs, accuracy {expected.accuracy:.2%}"
    header, *rows = [line.split() for line in text.split("\n\n")[1].splitlines()]
    assert header == ["label", "inputs", "right", *logs.VERDICTS]
    assert [[int(cell) for cell in row] for row in rows] == [
        list(row.values()) for row in expected.per_class()
    ]
    assert capsys.readouterr() == ("", "")


def test_flags_reach_certify(settings, monkeypatch):
    given = {}

    def noted(*arguments, **more):
        given.update(more, arguments=arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(certify_run.certification, "certify", noted)
    flags = {
        **{"eps": 0.5, "norm": "2", "method": ["crown"], "float_safe": True, "max_eps": 0.7},
        **{"eps_steps": 3, "time_limit": 9.0, "time_limit_per_input": 2.0, "self_check": 0.2},
        **{"batch_size": 5, "seed": 4, "max": 10, "skip": 3, "split": "train"},
        **{"attack": "apgd", "attack_steps": 7, "attack_restarts": 2},
    }
    with pytest.raises(KeyboardInterrupt):
        run(settings(**flags))
    (x, y), _ = tfcert.datasets.load("digits")
    _, x_given, y_given, region, method = given.pop("arguments")
    assert (x_given == x[[0, 3, 6, 9]]).all() and (y_given == y[[0, 3, 6, 9]]).all()
    assert region == tfcert.LpBall(0.5, norm=2, clip=(0.0, 1.0)) and method == ["crown"]
    attack = given.pop("attack")
    assert type(attack).__name__ == "APGD" and (attack.steps, attack.restarts) == (7, 2)
    assert given.pop("index").tolist() == [0, 3, 6, 9] and given.pop("log").endswith("run.tsv")
    assert given.pop("facts")["flags"]["attack_steps"] == 7
    assert given == {
        **{name: flags[name] for name in ("float_safe", "max_eps", "eps_steps", "time_limit")},
        **{name: flags[name] for name in ("time_limit_per_input", "self_check", "batch_size")},
        **{"seed": 4, "verbose": 0},
    }


def test_largest_eps_is_a_column(settings):
    text = run(settings(**{**BOUNDS, "skip": 40, "method": ["ibp"]}, max_eps=0.1, eps_steps=4))
    assert "mean largest eps" in text and "mean_radius" in text
    assert "radius" in logs.read(settings().out).columns


def test_smoothing_leaves_the_lines_of_this_field(settings):
    text = run(settings(**SMOOTH))
    log = logs.read(settings().out)
    assert (
        pathlib.Path(settings().out)
        .read_text()
        .startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    )
    _, (x, y) = tfcert.datasets.load("digits")
    index = np.arange(0, 360, 30)
    smoothed = smoothing.SmoothedClassifier(certification_support.trained(), sigma=0.2)
    found = smoothed.certify(x[index], n=300, index=index)
    assert log.column("idx").tolist() == index.tolist()
    assert log.column("predict").tolist() == found.prediction.tolist()
    assert log.column("radius").tolist() == found.radius.tolist()
    assert log.column("correct").tolist() == (found.prediction == y[index]).tolist()
    radius = np.mean(found.radius * (found.prediction == y[index]))
    assert f"average certified radius  {radius:8.4f}" in text
    assert log.facts["settings"]["n"] == 300 and log.facts["kind"] == "smoothing"


def test_adaptive_precision(settings):
    run(settings(**{**SMOOTH, "n": 5000, "skip": 60}, adaptive=True, adaptive_precision=0.3))
    _, (x, _) = tfcert.datasets.load("digits")
    smoothed = smoothing.SmoothedClassifier(certification_support.trained(), sigma=0.2)
    rule = smoothing.Adaptive(0.3)
    found = smoothed.certify(x[::60], n=5000, index=np.arange(0, 360, 60), adaptive=rule)
    log = logs.read(settings().out)
    assert log.column("radius").tolist() == found.radius.tolist()
    assert log.facts["settings"]["adaptive"] == dataclasses.asdict(rule)
    with pytest.raises(ValueError, match="adaptive_precision goes with --adaptive"):
        run(settings(**SMOOTH, adaptive_precision=0.3))


@pytest.mark.parametrize("noise", ["laplace", "uniform"])
def test_noises(noise, settings):
    run(settings(**{**SMOOTH, "skip": 90}, noise=noise))
    _, (x, _) = tfcert.datasets.load("digits")
    kind = {"laplace": smoothing.Laplace, "uniform": smoothing.Uniform}[noise](0.2)
    smoothed = smoothing.SmoothedClassifier(certification_support.trained(), noise=kind)
    found = smoothed.certify(x[::90], n=300, index=np.arange(0, 360, 90))
    assert logs.read(settings().out).column("radius").tolist() == found.radius.tolist()


def test_bfloat16(settings):
    run(settings(**{**SMOOTH, "skip": 90}, precision="bfloat16"))
    log = logs.read(settings().out)
    _, (x, _) = tfcert.datasets.load("digits")
    model = smoothing.in_bfloat16(certification_support.trained())
    found = smoothing.SmoothedClassifier(model, sigma=0.2).certify(
        x[::90], n=300, index=np.arange(0, 360, 90)
    )
    assert log.column("radius").tolist() == found.radius.tolist()
    assert log.facts["settings"]["precision"] == "bfloat16"


def test_a_model_that_was_saved_in_bfloat16(settings, tmp_path):
    model = smoothing.in_bfloat16(certification_support.trained())
    model.save(tmp_path / "lowered.keras")
    flags = {**SMOOTH, "skip": 90, "model_path": str(tmp_path / "lowered.keras")}
    run(settings(**flags))
    assert logs.read(settings().out).facts["settings"]["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="compute in bfloat16.*Leave out --precision"):
        run(settings(**flags, precision="float32"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a model", None])
def test_a_half_written_model(content, settings, tmp_path, model_path):
    path = tmp_path / "half.keras"
    path.write_bytes(model_path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ValueError, match="half.keras"):
        certify_run.prepare(settings(**BOUNDS, model_path=str(path)))


def test_models_bring_no_code_along(settings, tmp_path):
    inputs = keras.Input((8, 8, 1))
    was_here = tmp_path / "was_here"
    path = str(was_here)
    layer = keras.layers.Lambda(lambda x: open(path, "w").close() or x)
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(layer(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "evil.keras")
    was_here.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        certify_run.prepare(settings(**BOUNDS, model_path=str(tmp_path / "evil.keras")))
    assert not was_here.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": ["auto"]}, "--method=auto needs --eps"),
        ({"method": ["smoothing"]}, "--method=smoothing needs --sigma"),
        ({"method": ["smoothing", "ibp"], "eps": 0.1}, "--method=smoothing cannot be combined"),
        ({"method": ["smoothing"], "sigma": 0.1, "eps": 0.1}, "--eps has no meaning for .* smooth"),
        ({"eps": 0.1, "sigma": 0.1}, "--sigma has no meaning for certification by bounds"),
        ({"eps": 0.1, "n": 10}, "--n has no meaning for certification by bounds"),
        ({"eps": 0.1, "model_path": "none.keras"}, "none.keras"),
        ({"eps": 0.1, "eps_steps": 5}, "--eps_steps needs --max_eps"),
        (
            {"eps": 0.1, "dataset": "mnist", "data_dir": "nowhere"},
            "--data_dir=nowhere holds no mnist.npz",
        ),
    ],
)
def test_refuses_before_it_starts(flags, message, settings, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        certify_run.prepare(settings(**flags))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"eps": 0.1, "method": ["best"]}, "`method` must be one of"),
        ({"eps": 0.1, "norm": "0.5"}, "`norm` must be"),
        ({"eps": 0.1, "attack_steps": 3}, "--attack_steps needs --attack=pgd or apgd"),
        ({"eps": 0.1, "max_eps": 0.05}, "`max_eps` must be"),
        ({"eps": 0.1, "time_limit": 0.0}, "`time_limit` must be"),
        ({"method": ["smoothing"], "sigma": 0.0}, "--sigma must be positive"),
        ({"method": ["smoothing"], "sigma": 0.1, "alpha": 2.0}, "alpha"),
    ],
)
def test_refuses_bad_values(flags, message, settings):
    with pytest.raises(ValueError, match=message):
        run(settings(**flags, skip=180))


def _with_flags(config, monkeypatch):
    values = {name: type("Flag", (), {"value": value}) for name, value in vars(config).items()}
    monkeypatch.setattr(certify.flags, "FLAGS", values)


def test_bad_flags_are_errors_of_usage(settings, monkeypatch):
    _with_flags(settings(eps=0.1, model_path="none.keras"), monkeypatch)
    with pytest.raises(app.UsageError, match="none.keras"):
        certify.main(["program"])
    with pytest.raises(app.UsageError, match="Unexpected arguments"):
        certify.main(["program", "more"])


@pytest.mark.parametrize("fault", [UnsoundCertificateError, ValueError, KeyboardInterrupt])
def test_exit_codes(fault, settings, monkeypatch, capsys):
    more = [pathlib.Path("there")] if fault is UnsoundCertificateError else []

    def broken(*arguments, **options):
        raise fault("it broke", *more)

    _with_flags(settings(**BOUNDS), monkeypatch)
    monkeypatch.setattr(certify_run, "run", broken)
    with pytest.raises(SystemExit) as error:
        certify.main(["program"])
    if fault is ValueError:
        assert error.value.code == "tfcert-certify: it broke"
        return
    assert error.value.code == {UnsoundCertificateError: 3, KeyboardInterrupt: 130}[fault]
    said = capsys.readouterr().err
    assert "it broke" in said or "The same command goes on where the log ends" in said


def test_a_false_bound_is_found(settings, monkeypatch):
    """The self-check of the program stops on a method that verifies everything."""

    def lie(model, x, y, region, method, again):
        return np.ones(len(x))

    monkeypatch.setattr(goals, "least_margins", lie)
    config = settings(**{**BOUNDS, "eps": 0.2}, attack="none", self_check=0.5)
    with pytest.raises(UnsoundCertificateError) as error:
        run(config)
    facts = json.loads((error.value.folder / "facts.json").read_text())
    assert pathlib.Path(error.value.folder).parent.name == "run.tsv.unsound"
    saved = keras.models.load_model(error.value.folder / "model.keras")
    point = np.load(error.value.folder / "point.npy", allow_pickle=False)
    assert int(np.argmax(ops.convert_to_numpy(saved(point[None])))) != facts["label"]
    assert identity.of_model(saved) == identity.of_model(certification_support.trained())


def test_complete(tmp_path):
    path = certify_program_support.save_model(tmp_path)
    settings = certify_program_support.settings(path, tmp_path / "run.tsv")
    text = run(settings(eps=0.05, method=["ibp", "complete"], skip=300, attack="none"))
    facts = logs.read_facts(tmp_path / "run.tsv")
    assert facts["settings"]["method"][-1] == "complete" and "inputs, accuracy" in text
