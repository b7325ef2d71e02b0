"""Logs of certification: lines as verdicts come, runs that go on, and what is refused."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import certification_support as support
from tests import soundness
from tests.certification_support import REGION, certify, classes
from tfcert import logs, methods
from tfcert.certification import goals, stages


@pytest.fixture(scope="module")
def digits():
    return support.trained(), *support.digits(90)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bounds_that_are_no_numbers_are_errors_that_name_the_input(value, monkeypatch, digits):
    model, x, y = digits
    right = np.flatnonzero(classes(model, x) == y)
    bound, bad = goals.least_margins, x[right[11]]

    def spoiled(model, x, y, region, method, again):
        least = bound(model, x, y, region, method, again=again)
        return ops.where(ops.all(ops.reshape(x == bad, (len(x), -1)), axis=1), value, least)

    monkeypatch.setattr(goals, "least_margins", spoiled)
    with pytest.raises(ValueError, match=rf"Input {100 + right[11]}: .*NaN or \+inf"):
        certify(model, x[:30], y[:30], REGION, "ibp", index=100, attack=None)


def test_a_model_that_returns_nan_is_an_error():
    model = support.line()
    model.layers[0].set_weights([np.full((2, 2), np.nan), np.zeros(2)])
    with pytest.raises(ValueError, match="Input 0: the model returns NaN"):
        certify(model, np.zeros((1, 2)), [0], tfcert.LpBall(0.1))


def test_log_holds_the_result(digits, tmp_path):
    model, x, y = digits
    log = tmp_path / "new" / "run.tsv"
    result = certify(
        *(model, x[:30], y[:30], REGION, "crown-ibp"),
        **{"log": log, "index": 200, "facts": {"dataset": "digits"}, "batch_size": 8},
    )
    entries = sorted(logs.read(log).entries, key=lambda entry: entry["idx"])
    assert [entry["idx"] for entry in entries] == list(range(200, 230))
    for i, entry in enumerate(entries):
        for name in ("label", "predict", "verdict", "margin", "method"):
            assert entry[name] == getattr(result, name)[i]
        assert entry["seconds"] == pytest.approx(result.seconds[i], abs=1e-6)
        point = logs.read_counterexample(log, entry["idx"])
        assert (point is not None) == (entry["verdict"] == "falsified")
        assert point is None or (point == result.counterexamples[i]).all()
    facts = logs.read_facts(log)
    assert facts["dataset"] == "digits" and facts["inputs"] == 30
    assert facts["settings"]["region"] == repr(REGION) and facts["settings"]["seed"] == 0
    assert set(facts["hashes"]) == {"model", "data", "region", "settings"}
    assert {"versions", "commit", "begun"} <= set(facts["sessions"][0])


def test_lines_come_as_verdicts_are_reached(digits, tmp_path, monkeypatch):
    model, x, y = digits
    written = []
    write = logs.Writer.write

    def noted(self, entries):
        entries = list(entries)
        written.append({entry["verdict"] for entry in entries})
        write(self, entries)

    monkeypatch.setattr(logs.Writer, "write", noted)
    certify(model, x, y, REGION, "crown-ibp", log=tmp_path / "a", batch_size=16)
    assert len(written) > 10 and written[0] <= {"misclassified", "falsified"}


def test_an_interrupted_run_goes_on(digits, tmp_path, monkeypatch):
    model, x, y = digits
    given = {"method": ["ibp", "crown-ibp"], "batch_size": 16, "max_eps": 0.1, "eps_steps": 5}
    whole = certify(model, x, y, REGION, log=tmp_path / "whole", **given)
    write, calls = logs.Writer.write, []

    def interrupted(self, entries):
        calls.append(1)
        if len(calls) in (3, 6):
            raise KeyboardInterrupt
        write(self, entries)

    monkeypatch.setattr(logs.Writer, "write", interrupted)
    arguments = (model, x, y, REGION)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            certify(*arguments, log=tmp_path / "parts", **given)
    # Another process builds the same model under other names.
    config = model.get_config()
    for number, layer in enumerate(config["layers"]):
        layer["config"]["name"] = f"again_{number}"
    model = keras.Sequential.from_config({**config, "name": "again"})
    model.set_weights(support.trained().get_weights())
    parts = certify(model, x, y, REGION, log=tmp_path / "parts", **given)
    again = certify(model, x, y, REGION, log=tmp_path / "parts", **given)
    for result in (parts, again):
        for name in ("verdict", "method", "predict"):
            assert (getattr(result, name) == getattr(whole, name)).all()
        assert result.margin == pytest.approx(whole.margin, abs=1e-5)
        assert result.radius == pytest.approx(whole.radius, abs=5e-3)
        assert result.counterexamples.keys() == whole.counterexamples.keys()
    assert (parts.seconds == again.seconds).mean() > 0.0
    lines = (tmp_path / "parts").read_text().splitlines()
    assert len(lines) == len(x) + 1
    assert len(logs.read_facts(tmp_path / "parts")["sessions"]) == 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model": None}, "model"),
        ({"x": 0.001}, "data"),
        ({"y": 1}, "data"),
        ({"index": 5}, "data"),
        ({"region": REGION.with_eps(0.04)}, "region, settings .*0.05.*0.04"),
        ({"region": REGION.with_eps(np.full(20, 0.05))}, "region"),
        ({"method": "crown"}, "settings .*method was"),
        ({"attack": None}, "settings .*attack was"),
        ({"time_limit": 50.0}, "settings .*time_limit was None, is 50.0"),
        ({"float_safe": True}, "settings"),
        ({"seed": 3}, "settings .*seed was 0, is 3"),
        ({"max_eps": 0.1}, "columns"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_run_is_refused(change, what, digits, tmp_path):
    model, x, y = digits
    x, y = x[:20], y[:20]
    log = tmp_path / "run.tsv"
    given = {"model": model, "x": x, "y": y, "region": REGION, "method": "ibp"}
    certify(**given, log=log)
    before = log.read_bytes()
    if "model" in change:
        given["model"] = keras.models.clone_model(model)
        weights = model.get_weights()
        weights[0][0, 0] = np.nextafter(weights[0][0, 0], 1)
        given["model"].set_weights(weights)
    elif "x" in change:
        given["x"] = np.where(np.arange(20)[:, None, None, None] == 7, np.clip(x + 0.001, 0, 1), x)
    elif "y" in change:
        given["y"] = np.where(np.arange(20) == 7, (y + 1) % 10, y)
    else:
        given |= change
    if "float_safe" in change:
        soundness.needs_float64()
    with pytest.raises(ValueError, match=f"is the log of a different run, with other {what}"):
        certify(**given, log=log)
    assert log.read_bytes() == before


@pytest.mark.parametrize("damage", ["label", "idx", "point", "no point"])
def test_a_changed_log_is_noticed(damage, digits, tmp_path):
    model, x, y = digits
    log = tmp_path / "run.tsv"
    result = certify(model, x[:20], y[:20], REGION, "ibp", log=log)
    lines = log.read_text().splitlines()
    fields = lines[1].split("\t")
    first = next(iter(result.counterexamples))
    if damage == "label":
        fields[1] = str((int(fields[1]) + 1) % 10)
    elif damage == "idx":
        fields[0] = "77"
    elif damage == "point":
        logs.counterexample_path(log, first).write_bytes(b"\x93NUMPY")
    else:
        logs.counterexample_path(log, first).unlink()
    log.write_text("\n".join([lines[0], "\t".join(fields), *lines[2:]]) + "\n")
    message = "is not in the data" if damage in ("label", "idx") else f"{first}.npy must hold"
    with pytest.raises(ValueError, match=message):
        certify(model, x[:20], y[:20], REGION, "ibp", log=log)


def test_errors_keep_what_was_reached(digits, tmp_path, monkeypatch):
    model, x, y = digits

    def broken(self, places):
        raise ValueError("no more")

    monkeypatch.setattr(stages.Bounds, "run", broken)
    with pytest.raises(ValueError, match="no more"):
        certify(model, x, y, REGION, "crown-ibp", log=tmp_path / "a", batch_size=8)
    kept = logs.read(tmp_path / "a").entries
    assert kept and {entry["verdict"] for entry in kept} <= {"misclassified", "falsified"}
    monkeypatch.undo()
    result = certify(model, x, y, REGION, "crown-ibp", log=tmp_path / "a", batch_size=8)
    assert "verified" in result.verdict


@pytest.mark.slow
def test_tables(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION)
    rows = result.per_class()
    assert [row["label"] for row in rows] == list(range(10))
    assert sum(row["inputs"] for row in rows) == len(x)
    for name in logs.VERDICTS:
        assert sum(row[name] for row in rows) == (result.verdict == name).sum()
    assert all(row["inputs"] == sum(row[name] for name in logs.VERDICTS) for row in rows)
    text = result.summary()
    count = (result.verdict == "verified").sum()
    assert f"verified  {count:>11}" in text.replace("  ", "  ") or f"{count}" in text
    assert f"accuracy {result.accuracy:.2%}" in text
    assert not dataclasses.replace(result, radius=None).summary().count("largest eps")


def test_progress(digits, capsys):
    model, x, y = digits
    certify(model, x, y, REGION)
    assert capsys.readouterr() == ("", "")
    result = certify(model, x, y, REGION, verbose=1)
    shown = capsys.readouterr().err.splitlines()[-1]
    counts = [(result.verdict == name).sum() for name in ("verified", "falsified")]
    assert shown == f"90/90  verified {counts[0]}, falsified {counts[1]}  0 s left"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "m"}, "`model` must be a keras.Model"),
        ({"x": np.zeros((3, 8, 8))}, r"`x` must have the shape \(batch, 8, 8, 1\)"),
        ({"x": np.zeros((0, 8, 8, 1)), "y": np.zeros(0, int)}, "`x` is empty"),
        ({"x": np.full((3, 8, 8, 1), np.nan)}, "`x` must be finite.*input 0 and 2 others"),
        ({"x": np.full((3, 8, 8, 1), 2.0)}, "x must lie inside clip"),
        ({"y": np.zeros(3)}, "one integer label per input"),
        ({"y": np.zeros(4, int)}, "one integer label per input"),
        ({"y": np.array([0, 1, 10])}, r"`y` must lie in \[0, 10\)"),
        ({"region": 0.1}, "`region` must be a tfcert.LpBall or tfcert.Box"),
        ({"method": "best"}, "`method` must be one of"),
        ({"method": []}, "`method` must hold at least one method"),
        ({"method": ["ibp", methods.IBP(float_safe=True)]}, "hold only float-safe methods"),
        ({"attack": "fgsm"}, "`attack` must be .auto., an object of tfcert.attacks, or None"),
        ({"time_limit": 0}, "`time_limit` must be seconds > 0"),
        ({"time_limit_per_input": -1.0}, "`time_limit_per_input` must be seconds > 0"),
        ({"self_check": 1.5}, r"`self_check` must lie in \[0, 1\]"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"verbose": 2}, "`verbose` must be 0, 1 or"),
        ({"index": -1}, "`index` must be the number of the first input"),
        ({"index": np.array([1, 1, 2])}, "`index` must not repeat a number"),
        ({"index": np.array([0.0, 1, 2])}, "`index` must be the number"),
        ({"max_eps": 0.01}, "`max_eps` must be finite and at least the region's eps, 0.05"),
        ({"max_eps": 0.1, "eps_steps": 0}, "`eps_steps` must be an integer >= 1"),
        ({"max_eps": 0.1, "region": tfcert.Box(0.0, 1.0)}, "`max_eps` needs an LpBall"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_refuses(changed, message, digits):
    model, x, y = digits
    given = {"model": model, "x": x[:3], "y": y[:3], "region": REGION, **changed}
    with pytest.raises(ValueError, match=message):
        tfcert.certify(**given)


def test_refuses_models_that_it_cannot_bound(tmp_path):
    layer = keras.layers.Lambda(keras.ops.sort)
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(2)])
    with pytest.raises(NotImplementedError, match=layer.name):
        tfcert.certify(model, np.zeros((1, 2)), [0], REGION)
    two = keras.Sequential([keras.Input((2, 2)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="one output of shape"):
        tfcert.certify(two, np.zeros((1, 2, 2)), [0], REGION)
    with pytest.raises(NotImplementedError, match="ends in softmax, whose rounding"):
        tfcert.certify(
            support.nearest_mean(softmax=True), *support.digits(1), REGION, float_safe=True
        )
    tanh = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "tanh")])
    with pytest.raises((NotImplementedError, ValueError), match="float_safe|float64"):
        certify(
            *(tanh, [[0.0, 0.0]], [0], REGION),
            **{"float_safe": True, "attack": None, "log": tmp_path / "a"},
        )
    certify(support.line(), [[1.0, 0.0]], [0], REGION, log=tmp_path / "a")  # It is free again.
    with pytest.raises(ValueError, match="must return a logit or a probability"):
        tfcert.certify(support.line(outputs=1, activation="relu"), [[0.0, 0.0]], [0], REGION)
