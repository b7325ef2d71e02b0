"""The largest certified radius, and certificates that are checked anew."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import certification_support as support
from tests import soundness
from tests.certification_support import REGION, certify, classes
from tfcert import logs
from tfcert.certification import UnsoundCertificateError, checking, goals


@pytest.fixture(scope="module")
def digits():
    return support.trained(), *support.digits(90)


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

    def odd(model, x, y, region, method, again):
        eps = np.broadcast_to(region.eps, len(x))
        holds = (eps <= 0.1) | ((eps > 0.3) & (eps < 0.4))
        asked.extend(eps[holds].tolist())
        return np.where(holds, 1.0, -1.0)

    monkeypatch.setattr(goals, "least_margins", odd)
    x = np.float32([[1, 0]] * 3)
    region = tfcert.LpBall(1.0).with_eps(np.array([0.1, 0.05, 0.2]))
    result = certify(support.line(), x, np.zeros(3, int), region, "ibp", max_eps=0.7, attack=None)
    assert set(result.radius.tolist()) <= set(asked)
    assert (result.radius > 0).all()


@pytest.fixture
def _lies(monkeypatch):
    """A method that verifies everything."""

    def lie(model, x, y, region, method, again):
        return np.ones(len(x))

    monkeypatch.setattr(goals, "least_margins", lie)


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


@pytest.mark.usefixtures("_lies")
def test_rounding_is_recorded(tmp_path):
    soundness.needs_float64()
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
    soundness.needs_float64()

    def holds(model, x, y, region, method, again):
        return np.ones(len(x))

    monkeypatch.setattr(goals, "least_margins", holds)
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
    soundness.needs_float64()
    model, x, _ = digits
    twin = checking.in_float64(model)
    found = ops.convert_to_numpy(twin(x[:5].astype("float64")))
    assert found.dtype == np.float64
    assert found == pytest.approx(ops.convert_to_numpy(model(x[:5])), abs=1e-5)
