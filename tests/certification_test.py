"""Verdicts: right where they can be worked out, never unsound, and repeatable."""

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import certification_support as support
from tfcert import attacks, logs, methods, naming, objectives
from tfcert.certification import (
    UnsoundCertificateError,
    cascade,
    checking,
    findings,
    identity,
    stages,
)

REGION = tfcert.LpBall(0.05, clip=(0.0, 1.0))


@pytest.fixture(scope="module")
def digits():
    return support.trained(), *support.digits(90)


def classes(model, x):
    return np.argmax(ops.convert_to_numpy(model(x)), axis=-1)


def certify(*args, **changed):
    return tfcert.certify(*args, **{"self_check": 0.0, **changed})


# The verdicts.


def test_verdicts_that_can_be_worked_out():
    # z = x1 - x2: within eps, class 0 stays right where z > 2 eps.
    x = np.float32([[1, 0], [0.15, 0], [0, 0.5], [0.2001, 0]])
    result = certify(support.line(), x, np.zeros(4, int), tfcert.LpBall(0.1))
    assert result.verdict.tolist() == ["verified", "falsified", "misclassified", "verified"]
    assert result.margin[[0, 3]] == pytest.approx([0.8, 0.0001], abs=1e-6)
    assert result.margin[1] < 0 and result.margin[2] == -0.5
    assert result.method.tolist() == ["ibp", "pgd", "none", "ibp"]
    assert result.predict.tolist() == [0, 0, 1, 0] and result.label.tolist() == [0] * 4
    assert list(result.counterexamples) == [1]
    point = result.counterexamples[1]
    assert point[0] < point[1] and np.abs(point - x[1]).max() <= 0.1
    assert (result.accuracy, result.verified_accuracy, result.attacked_accuracy) == (0.75, 0.5, 0.5)
    assert (result.seconds > 0).all()


def test_zero_is_not_verified():
    # The least margin is exactly 0: nothing says that the right class wins there.
    x = np.float32([[0.25, 0.0]])
    result = certify(support.line(), x, [0], tfcert.LpBall(0.125), attack=None)
    assert result.verdict.tolist() == ["unknown"] and result.margin.tolist() == [0.0]
    assert result.method.tolist() == ["ibp"]


def test_cascade_agrees_with_its_methods(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION)
    assert set(result.verdict) == set(logs.VERDICTS)
    assert set(result.method[result.verdict == "verified"]) >= {"crown-ibp", "crown"}
    left = result.predict == y
    assert (left == (classes(model, x) == y)).all()
    assert (result.verdict[~left] == "misclassified").all()
    left &= result.verdict != "falsified"
    for name in ("ibp", "crown-ibp", "crown", "alpha-crown"):
        margins = ops.convert_to_numpy(tfcert.bound_margins(model, x, y, REGION, name))
        least = np.where(np.arange(10) == y[:, None], np.inf, margins).min(axis=1)
        here = left & (least > 1e-6)
        assert (result.verdict[here] == "verified").all()
        assert (result.method[here] == name).all()
        assert result.margin[here] == pytest.approx(least[here], abs=1e-5)
        left &= ~here
        assert (result.margin[left] >= least[left] - 1e-5).all()
    assert left.any()
    assert set(result.verdict[left]) == {"unknown"}


def test_counterexamples_are_counterexamples(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION)
    places = np.flatnonzero(result.verdict == "falsified")
    assert list(result.counterexamples) == places.tolist() and len(places) > 5
    points = np.stack([result.counterexamples[place] for place in places])
    assert REGION.contains(points, x[places]).all()
    assert (classes(model, points) != y[places]).all()
    scores = ops.convert_to_numpy(model(points)).astype("float64")
    right = np.take_along_axis(scores, y[places, None], 1)[:, 0]
    other = np.where(np.arange(10) == y[places, None], -np.inf, scores).max(axis=1)
    assert result.margin[places] == pytest.approx(right - other, abs=1e-5)


@pytest.mark.parametrize("size", [8])
def test_batches_do_not_change_verdicts(size, digits):
    model, x, y = digits
    x, y = x[:23], y[:23]
    chain = ["ibp", "crown-ibp"]
    one = certify(model, x, y, REGION, chain, batch_size=30)
    other = certify(model, x, y, REGION, chain, batch_size=size)
    assert (one.verdict == other.verdict).all() and (one.method == other.method).all()
    proved = np.isin(one.verdict, ("verified", "unknown"))
    assert one.margin[proved] == pytest.approx(other.margin[proved], abs=1e-5)


def test_every_stage_sees_only_what_is_open(digits, monkeypatch):
    model, x, y = digits
    seen = {}

    def noted(self, places):
        seen.setdefault(self.name, []).append(len(places))
        run(self, places)

    run = stages.Bounds.run
    monkeypatch.setattr(stages.Bounds, "run", noted)
    chain = ["ibp", "crown-ibp"]
    result = certify(model, x, y, REGION, chain, batch_size=8)
    open_ = np.isin(result.verdict, ("verified", "unknown"))
    for name in chain:
        assert sum(seen[name]) == open_.sum()
        assert all(count == 8 for count in seen[name][:-1])
        open_ &= ~((result.verdict == "verified") & (result.method == name))


def test_one_shape_for_each_stage(digits):
    _, x, y = digits
    model = keras.models.clone_model(support.trained())
    model.set_weights(support.trained().get_weights())
    certify(model, x, y, REGION, ["ibp", "crown-ibp"], batch_size=16)
    before = tfcert.bounds.api.trace_count(model)
    assert before == 2
    certify(model, x[:57], y[:57], REGION.with_eps(0.03), ["ibp", "crown-ibp"], batch_size=16)
    assert tfcert.bounds.api.trace_count(model) == before


@pytest.mark.parametrize(
    "region",
    [
        tfcert.LpBall(0.3, norm=2),
        tfcert.LpBall(0.9, norm=1, clip=(0.0, 1.0)),
        tfcert.LpBall(1.0, clip=(0.0, 1.0)).with_eps(np.linspace(0.0, 0.2, 30)),
        tfcert.LpBall(np.linspace(0.0, 0.06, 64).reshape(8, 8, 1)),
        "box",
        "box of each",
    ],
    ids=lambda region: region if isinstance(region, str) else repr(region)[:30],
)
def test_regions(region, digits):
    model, x, y = digits
    x, y = x[:30], y[:30]
    if region == "box":
        region = tfcert.Box(-0.05, 1.05).scaled(0.06)
    if region == "box of each":
        region = tfcert.Box(x - 0.06, x + 0.01)
    result = certify(model, x, y, region, ["ibp", "crown-ibp"], batch_size=8)
    assert {"verified", "falsified"} <= set(result.verdict)
    for method in ("ibp", "crown-ibp"):
        margins = ops.convert_to_numpy(tfcert.bound_margins(model, x, y, region, method))
        least = np.where(np.arange(10) == y[:, None], np.inf, margins).min(axis=1)
        verified = result.verdict == "verified"
        assert (verified[(least > 1e-6)]).all()
        same = verified & (result.method == method)
        assert result.margin[same] == pytest.approx(least[same], abs=1e-5)
    found = np.flatnonzero(result.verdict == "falsified")
    points = np.stack([result.counterexamples[place] for place in found])
    assert region.select(found, x).contains(points, x[found]).all()


def test_sizes_of_single_samples_are_their_own(digits):
    model, x, y = digits
    x, y = x[:40], y[:40]
    eps = np.where(np.arange(40) % 2, 0.02, 0.08)
    mixed = certify(model, x, y, REGION.with_eps(eps), "crown-ibp", batch_size=8)
    for one in (0.02, 0.08):
        alone = certify(model, x, y, REGION.with_eps(one), "crown-ibp", batch_size=8)
        assert (mixed.verdict == alone.verdict)[eps == one].all()
    assert set(mixed.verdict[eps == 0.02]) != set(mixed.verdict[eps == 0.08])


# Models.


def test_softmax_is_left_out(digits):
    _, x, y = digits
    x, y = x[:40], y[:40]
    plain = certify(support.nearest_mean(), x, y, REGION, "crown-ibp")
    model = support.nearest_mean(softmax=True)
    result = certify(model, x, y, REGION, "crown-ibp")
    assert (result.verdict == plain.verdict).all()
    proved = plain.verdict == "verified"
    assert result.margin[proved] == pytest.approx(plain.margin[proved], abs=1e-5)
    inner, inputs = support.nearest_mean(), keras.Input((8, 8, 1))
    for outputs in (
        keras.layers.Softmax()(inner(inputs)),
        keras.layers.Activation("softmax")(inner(inputs)),
        model(inputs),
    ):
        nested = certify(keras.Model(inputs, outputs), x, y, REGION, "crown-ibp")
        assert (nested.verdict == plain.verdict).all()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_is_a_binary_classifier(activation):
    x = np.float32([[1, 0], [0.15, 0], [0, 0.5], [0, 0.5]])
    model = support.line(outputs=1, activation=activation)
    result = certify(model, x, np.array([1, 1, 1, 0]), tfcert.LpBall(0.1))
    assert result.verdict.tolist() == ["verified", "falsified", "misclassified", "verified"]
    assert result.predict.tolist() == [1, 1, 0, 0]
    assert result.margin[[0, 3]] == pytest.approx([0.8, 0.3], abs=1e-6)
    assert float(model(result.counterexamples[1][None])[0, 0]) <= (0.5 if activation else 0.0)


def test_weights_are_read_anew():
    x, region = np.float32([[1, 0]]), tfcert.LpBall(0.1)
    for activation in (None, "softmax"):
        model = support.line(activation=activation)
        assert certify(model, x, [0], region, "ibp").verdict[0] == "verified"
        model.layers[0].set_weights([np.zeros((2, 2)), np.zeros(2)])
        assert certify(model, x, [0], region, "ibp").verdict[0] != "verified"


# Methods.


def test_methods_as_given(digits):
    model, x, y = digits
    x, y = x[:30], y[:30]
    one = certify(model, x, y, REGION, method="crown-ibp", attack=None)
    assert set(one.method) <= {"crown-ibp", "none"} and "falsified" not in one.verdict
    several = certify(
        *(model, x, y, REGION, [methods.IBP(), methods.AlphaCrown(iterations=3), "crown-ibp"]),
        attack=None,
    )
    assert (one.verdict == "verified").sum() <= (several.verdict == "verified").sum()
    assert set(several.method) <= {"ibp", "alpha-crown", "crown-ibp", "none"}


def test_minus_infinity_goes_to_the_next_stage(monkeypatch, digits):
    model, x, y = digits
    bound = findings.bound_margins

    def infinite(model, x, y, region, method):
        margins = bound(model, x, y, region, method)
        if isinstance(method, methods.IBP):
            return ops.where(ops.abs(margins) > 0, -np.inf, margins)
        return margins

    chain = ["ibp", "crown-ibp"]
    expected = certify(model, x[:20], y[:20], REGION, chain)
    monkeypatch.setattr(findings, "bound_margins", infinite)
    result = certify(model, x[:20], y[:20], REGION, chain)
    assert (result.verdict == expected.verdict).all()
    result = certify(model, x[:20], y[:20], REGION, "ibp", attack=None)
    assert set(result.verdict) <= {"unknown", "misclassified"}
    assert (result.margin[result.verdict == "unknown"] == -np.inf).all()
    assert set(result.method) == {"none"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bounds_that_are_no_numbers_are_errors_that_name_the_input(value, monkeypatch, digits):
    model, x, y = digits
    right = np.flatnonzero(classes(model, x) == y)
    bound, bad = findings.bound_margins, x[right[11]]

    def spoiled(model, x, y, region, method):
        margins = bound(model, x, y, region, method)
        mine = ops.all(ops.reshape(x == bad, (len(x), -1)), axis=1)
        return ops.where(ops.logical_and(mine[:, None], ops.abs(margins) > 0), value, margins)

    monkeypatch.setattr(findings, "bound_margins", spoiled)
    with pytest.raises(ValueError, match=rf"Input {100 + right[11]}: .*NaN or \+inf"):
        certify(model, x[:30], y[:30], REGION, "ibp", index=100, attack=None)


def test_a_model_that_returns_nan_is_an_error():
    model = support.line()
    model.layers[0].set_weights([np.full((2, 2), np.nan), np.zeros(2)])
    with pytest.raises(ValueError, match="Input 0: the model returns NaN"):
        certify(model, np.zeros((1, 2)), [0], tfcert.LpBall(0.1))


# Time limits.


def test_without_time_all_is_unknown(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION, time_limit=1e-9)
    right = classes(model, x) == y
    assert (result.verdict == np.where(right, "unknown", "misclassified")).all()
    assert (result.predict == classes(model, x)).all()
    assert (result.margin[right] == -np.inf).all()


def test_time_for_each_input(digits, monkeypatch):
    model, x, y = digits
    clock = [0.0]
    run = stages.Bounds.run

    def slow(self, places):
        clock[0] += len(places) * {"ibp": 0.1, "crown-ibp": 1.0, "crown": 10.0}[self.name]
        run(self, places)

    monkeypatch.setattr(stages.Bounds, "run", slow)
    monkeypatch.setattr(cascade.time, "perf_counter", lambda: clock[0])
    chain = ["ibp", "crown-ibp", "crown"]
    result = certify(
        model, x, y, REGION, chain, attack=None, batch_size=10, time_limit_per_input=5.0
    )
    # The first batch shows what CROWN costs; no other input gets it.
    late = result.seconds > 5
    assert 0 < late.sum() <= 10
    assert result.seconds[~late].max() == pytest.approx(1.1)
    assert {"crown-ibp"} <= set(result.method[result.verdict == "verified"])


def test_limits():
    limits = cascade.Limits(per_input=5.0, whole=None, spent=0.0)
    stage, free = stages.Stage(None, None, 1), stages.Stage(None, None, 1)
    free.limited = False
    assert limits.allow(stage, 4.9) and not limits.allow(stage, 5.0) and limits.allow(free, 9.0)
    limits.note(stage, 60.0)  # With compilation.
    assert not limits.allow(stage, 0.0)
    limits.note(stage, 2.0)
    assert limits.allow(stage, 2.9) and not limits.allow(stage, 3.0)
    assert not cascade.Limits(None, 10.0, spent=10.5).allow(stage, 0.0)
    assert cascade.Limits(None, 10.0, spent=9.0).allow(stage, 0.0)


# The largest eps.


def test_largest_eps_that_can_be_worked_out():
    x = np.float32([[1, 0], [0.15, 0], [0, 0.5], [0.2001, 0], [8, 0]])
    result = certify(
        support.line(), x, np.zeros(5, int), tfcert.LpBall(0.1), max_eps=2.0, eps_steps=20
    )
    assert result.radius == pytest.approx([0.5, 0.075, 0.0, 0.10005, 2.0], abs=1e-5)
    assert (result.radius <= [0.5, 0.075, 0.0, 0.10005, 2.0]).all()
    assert result.verdict.tolist()[:2] == ["verified", "falsified"]


def test_largest_eps_was_verified_itself(digits):
    model, x, y = digits
    x, y = x[:24], y[:24]
    result = certify(
        model, x, y, REGION, ["ibp", "crown-ibp"], max_eps=0.2, eps_steps=6, batch_size=10
    )
    assert (result.radius[result.verdict == "verified"] >= 0.05).all()
    assert (result.radius[result.verdict == "misclassified"] == 0).all()
    assert (result.radius[result.verdict == "falsified"] < 0.05).all()
    some = result.radius > 0
    at = REGION.with_eps(np.where(some, result.radius, 0.0))
    least = [
        np.where(
            np.arange(10) == y[:, None],
            np.inf,
            ops.convert_to_numpy(tfcert.bound_margins(model, x, y, at, method)),
        ).min(axis=1)
        for method in ("ibp", "crown-ibp")
    ]
    assert (np.max(least, axis=0)[some] > -1e-7).all()
    assert some.sum() > 15
    assert result.per_class()[0]["mean_radius"] == pytest.approx(result.radius[y == 0].mean())


def test_largest_eps_is_sound_where_bounds_are_not_monotone(monkeypatch):
    """Only sizes that were verified themselves may be given."""
    asked = []

    def odd(model, x, y, region, method):
        eps = np.broadcast_to(region.eps, len(x))
        holds = (eps <= 0.1) | ((eps > 0.3) & (eps < 0.4))
        asked.extend(eps[holds].tolist())
        return np.where(np.arange(2) == 0, 0.0, np.where(holds, 1.0, -1.0)[:, None])

    monkeypatch.setattr(findings, "bound_margins", odd)
    x = np.float32([[1, 0]] * 3)
    region = tfcert.LpBall(1.0).with_eps(np.array([0.1, 0.05, 0.2]))
    result = certify(support.line(), x, np.zeros(3, int), region, "ibp", max_eps=0.7, attack=None)
    assert set(result.radius.tolist()) <= set(asked)
    assert (result.radius > 0).all()


# The self-check.


@pytest.fixture
def _lies(monkeypatch):
    """A method that verifies everything."""

    def lie(model, x, y, region, method):
        return np.where(np.arange(model.output_shape[-1]) == np.asarray(y)[:, None], 0.0, 1.0)

    monkeypatch.setattr(findings, "bound_margins", lie)


@pytest.mark.usefixtures("_lies")
def test_an_unsound_certificate_stops_the_run(tmp_path):
    x = np.float32([[1, 0], [0.15, 0], [3, 0]])
    model, region, log = support.line(), tfcert.LpBall(0.1), tmp_path / "run.tsv"
    with pytest.raises(
        UnsoundCertificateError, match="Input 41 was verified by ibp.* unsound"
    ) as e:
        tfcert.certify(
            model,
            x,
            [0, 0, 0],
            region,
            log=log,
            attack=None,
            self_check=1.0,
            index=40,
            batch_size=1,
        )
    folder = tmp_path / "run.tsv.unsound" / "41"
    assert e.value.folder == folder
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["idx"] == 41 and facts["float64_margin"] < 0 and facts["executed_margin"] < 0
    assert facts["margin_bound"] == 1.0 and facts["region"] == repr(region)
    # All that reproduces it.
    saved = keras.models.load_model(folder / "model.keras")
    point = np.load(folder / "point.npy", allow_pickle=False)
    assert (np.load(folder / "x.npy", allow_pickle=False) == x[1]).all()
    assert classes(saved, point[None])[0] == 1
    again = keras.saving.deserialize_keras_object(facts["region_config"])
    assert again == region and again.contains(point[None], x[1:2])[0]
    # What was reached before stays; the broken input has no line.
    assert 41 not in logs.read(log).column("idx")


@pytest.mark.usefixtures("_lies")
def test_an_unsound_certificate_without_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UnsoundCertificateError) as error:
        tfcert.certify(
            support.line(), [[0.15, 0.0]], [0], tfcert.LpBall(0.1), attack=None, self_check=1.0
        )
    assert error.value.folder.parent.parent == tmp_path
    assert (error.value.folder / "facts.json").exists()


def cancelling():
    """z = (x + 2^24) - 2^24 + 0.75, where float32 rounds x to an integer, -0.6 to -1."""
    first, second, last = keras.layers.Dense(1), keras.layers.Dense(1), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((1,)), first, second, last])
    first.set_weights([np.float32([[1]]), np.float32([2**24])])
    second.set_weights([np.float32([[1]]), np.float32([-(2**24)])])
    last.set_weights([np.float32([[1, 0]]), np.float32([0.75, 0])])
    return model


@pytest.mark.usefixtures("_lies")
def test_what_cannot_be_decided_stops_the_run(tmp_path, monkeypatch):
    def refuse(model):
        raise ValueError("no float64")

    monkeypatch.setattr(checking, "in_float64", refuse)
    with pytest.raises(UnsoundCertificateError, match="cannot be told without float64") as error:
        tfcert.certify(
            *(cancelling(), np.float32([[0.0]]), [0], tfcert.LpBall(0.6)),
            **{"attack": None, "self_check": 1.0, "log": tmp_path / "run.tsv"},
        )
    assert json.loads((error.value.folder / "facts.json").read_text())["float64_margin"] is None


def _needs_float64():
    try:
        tfcert.backend.check_float64("this test")
    except ValueError as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("_lies")
def test_rounding_is_recorded(tmp_path):
    _needs_float64()
    model, x = cancelling(), np.float32([[0.0], [8.0]])
    assert classes(model, np.float32([[-0.6]]))[0] == 1  # In float64: -0.6 + 0.75 > 0.
    region, log = tfcert.LpBall(0.6), tmp_path / "run.tsv"
    with pytest.warns(UserWarning, match="Input 0: rounding in float32 breaks its certificate"):
        result = tfcert.certify(model, x, [0, 0], region, attack=None, self_check=1.0, log=log)
    assert result.verdict.tolist() == ["falsified", "verified"]
    assert result.method.tolist() == ["rounding", "ibp"]
    assert classes(model, result.counterexamples[0][None])[0] == 1
    assert [broken["idx"] for broken in result.rounding] == [0]
    assert logs.read_facts(log)["rounding"] == result.rounding
    assert result.rounding[0]["float64_margin"] > 0 >= result.rounding[0]["executed_margin"]
    assert "broken in float32, though not in float64: inputs 0" in result.summary()
    again = tfcert.certify(model, x, [0, 0], region, attack=None, self_check=1.0, log=log)
    assert again.rounding == result.rounding
    with pytest.raises(UnsoundCertificateError, match="float_safe promises it for float32"):
        tfcert.certify(model, x, [0, 0], region, attack=None, self_check=1.0, float_safe=True)


def test_rounding_beyond_the_region_takes_back_the_radius(monkeypatch):
    _needs_float64()

    def holds(model, x, y, region, method):
        return np.where(np.arange(2) == np.asarray(y)[:, None], 0.0, 1.0)

    monkeypatch.setattr(findings, "bound_margins", holds)
    with pytest.warns(UserWarning, match="rounding in float32"):
        result = tfcert.certify(
            cancelling(),
            np.float32([[0.0]]),
            [0],
            tfcert.LpBall(0.25),
            attack=None,
            self_check=1.0,
            max_eps=0.6,
        )
    assert result.verdict.tolist() == ["verified"] and result.radius.tolist() == [0.25]


def test_self_check_of_sound_certificates(digits):
    model, x, y = digits
    result = tfcert.certify(model, x[:40], y[:40], REGION, "crown-ibp", self_check=1.0)
    assert result.checked == (result.verdict == "verified").sum() > 10
    assert f"{result.checked} claims attacked, none broken" in result.summary()


def test_a_share_is_checked_whatever_the_batch():
    index = np.arange(2000)
    picked = checking.chosen(index, 0.1, 0)
    assert 150 < picked.sum() < 250
    assert (checking.chosen(index[500:700], 0.1, 0) == picked[500:700]).all()
    assert (checking.chosen(index, 0.1, 1) != picked).any()
    assert checking.chosen(index, 1.0, 0).all() and not checking.chosen(index, 0.0, 0).any()


def test_float64_twin(digits):
    _needs_float64()
    model, x, _ = digits
    twin = checking.in_float64(model)
    found = ops.convert_to_numpy(twin(x[:5].astype("float64")))
    assert found.dtype == np.float64
    assert found == pytest.approx(ops.convert_to_numpy(model(x[:5])), abs=1e-5)


# The log.


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
        _needs_float64()
    with pytest.raises(ValueError, match=f"is the log of another run: it has another {what}"):
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


# The result.


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


# What training leaves.


@pytest.mark.parametrize(
    ("objective", "bound"),
    [
        (objectives.IBP(REGION), "ibp"),
        (objectives.CrownIBP(REGION), "ibp"),
        (objectives.CrownIBP(REGION, backward_weight=1.0), "crown-ibp"),
        (objectives.AdversarialTraining(REGION, steps=1), None),
        (objectives.Standard(REGION), None),
    ],
)
def test_models_remember_their_bounds(objective, bound, tmp_path, digits):
    _, x, y = digits
    model = support.nearest_mean()
    trainer = tfcert.CertifiedTrainer(model, objective, verified_share=0.0)
    trainer.compile(keras.optimizers.Adam(0.0))
    trainer.fit(x[:8], y[:8], batch_size=8, verbose=0)
    model.save(tmp_path / "first.keras")
    plain = keras.models.load_model(tmp_path / "first.keras")  # as without tfcert
    plain.save(tmp_path / "second.keras")
    model = keras.models.clone_model(keras.models.load_model(tmp_path / "second.keras"))
    assert naming.trained_with(model) == bound
    assert model.name == ("digits" if bound is None else f"digits-trained-with-{bound}")


def test_marks_replace_each_other():
    model = support.nearest_mean()
    for method, name in (
        ("ibp", "digits-trained-with-ibp"),
        ("crown", "digits-trained-with-crown"),
    ):
        naming.mark(model, method)
        assert model.name == name
    naming.mark(model, None)
    assert model.name == "digits" and naming.trained_with(model) is None


def test_a_looser_method_than_in_training_is_said():
    model = support.line()
    x, y = np.float32([[1, 0]]), np.array([0])
    region = tfcert.LpBall(0.1)
    naming.mark(model, "crown-ibp")
    with pytest.warns(UserWarning, match="trained with crown-ibp bounds. ibp is looser"):
        certify(model, x, y, region, "ibp")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for method in ("crown-ibp", "crown", "auto", ["ibp", "crown"]):
            certify(model, x, y, region, method)
        naming.mark(model, "lines")
        certify(model, x, y, region, "ibp")


# What is refused.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "m"}, "`model` must be a keras.Model"),
        ({"x": np.zeros((3, 8, 8))}, r"`x` must have the shape \(batch, 8, 8, 1\)"),
        ({"x": np.zeros((0, 8, 8, 1)), "y": np.zeros(0, int)}, "`x` must have the shape"),
        ({"x": np.full((3, 8, 8, 1), np.nan)}, "`x` must be finite.*input 0 and 2 others"),
        ({"x": np.full((3, 8, 8, 1), 2.0)}, "x must lie inside clip"),
        ({"y": np.zeros(3)}, "`y` must hold one integer label per input"),
        ({"y": np.zeros(4, int)}, "`y` must hold one integer label per input"),
        ({"y": np.array([0, 1, 10])}, r"`y` must lie in \[0, 10\)"),
        ({"region": 0.1}, "`region` must be a tfcert.LpBall or tfcert.Box"),
        ({"method": "best"}, "`method` must be one of"),
        ({"method": []}, "`method` must hold at least one method"),
        ({"method": ["ibp", methods.IBP(float_safe=True)]}, "float-safe throughout or not at all"),
        ({"attack": "fgsm"}, "`attack` must be .auto., an object of tfcert.attacks, or None"),
        ({"time_limit": 0}, "`time_limit` must be seconds > 0"),
        ({"time_limit_per_input": -1.0}, "`time_limit_per_input` must be seconds > 0"),
        ({"self_check": 1.5}, r"`self_check` must lie in \[0, 1\]"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"verbose": 2}, "`verbose` must be 0 or 1"),
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
    layer = keras.layers.Lambda(lambda x: x)
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


def test_attack_is_used_as_given(digits):
    model, x, y = digits
    weak = attacks.FGSM(tfcert.LpBall(1e-9))  # Its own region does not count.
    result = certify(model, x[:40], y[:40], REGION, "ibp", attack=weak)
    assert set(result.method[result.verdict == "falsified"]) == {"fgsm"}


def test_identity_of_models():
    one, other = support.nearest_mean(), support.nearest_mean(name="other")
    assert identity.of_model(one) == identity.of_model(other)
    assert identity.of_model(one) != identity.of_model(support.nearest_mean(softmax=True))
