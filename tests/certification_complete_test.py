"""Certification of other properties, and with branch and bound as the last stage."""

import time
import types

import numpy as np
import pytest

import tfcert
from tests import branching_support, certification_support
from tests.certification_support import certify
from tfcert import attacks, logs, properties
from tfcert.certification import cascade, complete

REGION = tfcert.LpBall(0.25)
BALL = tfcert.LpBall(0.25, norm=2)


def inputs(count=24):
    x = np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype("float32")
    y = np.asarray(branching_support.network()(x)).argmax(axis=1)
    return x, y


def least_on_grid(x, y):
    """The least margin around each input, on a grid."""
    found = []
    for center, label in zip(x, y, strict=True):
        points = branching_support.grid(center - 0.25, center + 0.25, 40).astype("float32")
        scores = np.asarray(branching_support.network()(points))
        found.append((scores[:, [label]] - np.delete(scores, label, axis=1)).min())
    return np.array(found)


def test_complete_decides_what_bounds_leave_open(tmp_path):
    model, (x, y) = branching_support.network(), inputs()
    loose = certify(model, x, y, REGION, method="ibp", attack=None)
    path = tmp_path / "run.tsv"
    given = {"method": ["ibp", "complete"], "attack": None, "time_limit_per_input": 60}
    result = certify(model, x, y, REGION, log=path, **given)
    assert "unknown" in loose.verdict and "unknown" not in result.verdict
    least = least_on_grid(x, y)
    assert ((result.verdict == "verified") <= (least > 0)).all()
    assert ((result.verdict == "falsified") >= (least < 0)).all()
    assert (result.margin[result.verdict == "verified"] <= least[least > 0] + 1e-4).all()
    assert {"verified", "falsified"} <= set(result.verdict)
    assert "boxes" in result.method
    for place, point in result.counterexamples.items():
        assert np.abs(point - x[place]).max() <= 0.25 + 1e-6
        assert np.asarray(model(point[None])).argmax() != y[place]
    # The log is complete: the same call takes everything from there.
    assert len(logs.read(path).entries) == len(x)
    again = certify(model, x, y, REGION, log=path, **given)
    assert (again.verdict == result.verdict).all()
    np.testing.assert_allclose(again.seconds, result.seconds, atol=1e-6)
    with pytest.raises(ValueError, match="different run|another run"):
        certify(model, x, y, REGION, log=path, **{**given, "method": "ibp"})


def test_complete_stops_in_time():
    model, (x, y) = branching_support.network(), inputs()
    given = {"method": ["ibp", "complete"], "attack": None}
    result = certify(model, x, y, REGION, **given, time_limit_per_input=1e-9)
    assert set(result.verdict) == {"unknown"}


def test_a_slow_first_search_keeps_no_other_input_out(monkeypatch):
    """The first search compiles, and may take longer than an input may."""
    model, (x, y) = branching_support.network(), inputs()
    begin, searched = time.perf_counter(), complete.Complete._searched

    def slow(self, place, settings):
        offsets.append(1000.0)
        return searched(self, place, settings)

    offsets = []
    monkeypatch.setattr(complete.Complete, "_searched", slow)
    clock = types.SimpleNamespace(
        perf_counter=lambda: begin + sum(offsets[:1]), monotonic=time.monotonic
    )
    monkeypatch.setattr(cascade, "time", clock)
    given = {"method": ["ibp", "complete"], "attack": None}
    result = certify(model, x, y, REGION, **given, time_limit_per_input=60.0)
    assert len(offsets) > 1
    assert "unknown" not in result.verdict


def test_complete_needs_a_box():
    model, (x, y) = branching_support.network(), inputs()
    with pytest.raises(NotImplementedError, match='method="complete" splits boxes, words'):
        certify(model, x, y, BALL, method="complete")
    with pytest.raises(ValueError, match='"complete" must be the last'):
        certify(model, x, y, REGION, method=["complete", "ibp"])


@pytest.mark.parametrize("region", [REGION, BALL], ids=["inf", "2"])
def test_other_properties(region, tmp_path):
    model, (x, y) = branching_support.network(), inputs()
    points = np.asarray(region.sample(x, 300, 0))
    outputs = np.asarray(model(points.reshape(-1, 2))).reshape(len(x), 300, 3)
    clean = np.asarray(model(x))
    several = set()
    attack = attacks.PGD(region, 10, loss="margin", random_start=False)
    for asked in (properties.TopK(y, 2), properties.OutputRange(-15.0, 15.0)):
        given = {"method": ["crown-ibp"], "attack": attack}
        path = tmp_path / f"{type(asked).__name__}.tsv"
        result = certify(model, x, asked, region, log=path, **given)
        questions = asked.questions(len(x), 3)
        for place, (question, verdict) in enumerate(zip(questions, result.verdict, strict=True)):
            broken = question.broken(outputs[place]).any()
            at_input = question.broken(clean[place : place + 1])[0]
            assert (verdict == "misclassified") == at_input
            assert not (verdict == "verified" and broken)
            if verdict == "falsified":
                point = result.counterexamples[place]
                assert question.broken(np.asarray(model(point[None])))[0]
            if verdict in ("misclassified", "falsified"):
                assert result.margin[place] <= 0
        several |= set(result.verdict)
        assert (result.label == asked.labels(len(x))).all()
        with pytest.raises(ValueError, match="different run|another run"):
            other = properties.OutputRange(-14.0, 15.0)
            certify(model, x, other, region, log=path, **given)
    assert {"verified", "falsified"} <= several


def test_the_property_that_the_class_stays_is_the_same_as_labels():
    model, (x, y) = branching_support.network(), inputs(6)
    given = {"method": ["ibp"], "attack": None}
    plain = certify(model, x, y, REGION, **given)
    other = certify(model, x, properties.ClassStays(y), REGION, **given)
    assert (plain.verdict == other.verdict).all() and (plain.margin == other.margin).all()


def test_softmax_counts_for_values_and_not_for_ranks():
    model = certification_support.nearest_mean(softmax=True)
    x, y = certification_support.digits(6)
    given = {"method": ["crown-ibp"], "attack": None, "self_check": 0.0}
    ranks = certify(model, x, properties.TopK(y, 3), tfcert.LpBall(0.001), **given)
    assert ranks.verdict.tolist() == ["misclassified"] + 5 * ["verified"]
    # Probabilities lie in [0, 1], logits do not.
    values = certify(model, x, properties.OutputRange(upper=1.5), tfcert.LpBall(0.001), **given)
    assert (values.verdict == "verified").all()
    with pytest.raises(ValueError, match="one output for each class"):
        logit = certification_support.line(outputs=1)
        certify(logit, np.zeros((1, 2)), properties.Targeted(0, 1), REGION, **given)
