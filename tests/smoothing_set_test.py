"""Tests of smoothing on whole data sets: logs, interrupted runs, and what is told in the end."""

import dataclasses
import pathlib

import numpy as np
import pytest

from tests import certification_support
from tfcert import logs, smoothing

N = 3000  # Three inputs are certified together.


@pytest.fixture(scope="module")
def smoothed():
    return smoothing.SmoothedClassifier(certification_support.nearest_mean(), sigma=0.25)


@pytest.fixture
def data():
    return certification_support.digits(10)


def certify(smoothed, data, log=None, **changed):
    arguments = {"n": N, "index": np.arange(100, 110), "seed": 2, **changed}
    return smoothing.certify_set(smoothed, *data, log, **arguments)


def same(one, other):
    for field in dataclasses.fields(one):
        if field.name != "seconds":
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def test_the_certificates_are_those_of_the_classifier(smoothed, data):
    result = certify(smoothed, data)
    found = smoothed.certify(data[0], n=N, index=np.arange(100, 110), seed=2)
    np.testing.assert_array_equal(result.prediction, found.prediction)
    np.testing.assert_array_equal(result.radius, found.radius)
    right = found.prediction == data[1]
    assert right.sum() > 0
    assert result.mean_radius == np.mean(found.radius * right)
    assert result.certified_accuracy(0.3) == np.mean(right & (found.radius > 0.3))
    assert result.abstained == np.mean(found.prediction == -1)
    text = result.summary()
    assert text.startswith("10 inputs, gaussian noise of width 0.25, at most 3000 samples")
    assert f"average certified radius  {result.mean_radius:8.4f}" in text
    assert f"certified beyond 0.125    {result.certified_accuracy(0.125):8.2%}" in text


@pytest.mark.parametrize("adaptive", [False, smoothing.Adaptive(0.2)])
def test_interrupted_runs_end_as_unbroken_ones(smoothed, data, adaptive, tmp_path, monkeypatch):
    whole = certify(smoothed, data, tmp_path / "whole.tsv", adaptive=adaptive)
    certified = smoothed.certify
    seen = []

    def interrupted(x, **arguments):
        seen.append(len(x))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return certified(x, **arguments)

    path = tmp_path / "broken.tsv"
    monkeypatch.setattr(smoothed, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        certify(smoothed, data, path, adaptive=adaptive)
    assert logs.read(path).column("idx").tolist() == list(range(100, 106))
    same(certify(smoothed, data, path, adaptive=adaptive), whole)
    assert sum(seen[3:]) == 4  # What was in the log is not certified again.
    lines = [
        [line.rpartition("\t")[0] for line in one.read_text().splitlines()]
        for one in (path, tmp_path / "whole.tsv")
    ]
    assert lines[0] == lines[1]
    assert len(logs.read_facts(path)["sessions"]) == 2
    del seen[:]
    same(certify(smoothed, data, path, adaptive=adaptive), whole)
    assert seen == []


def test_a_line_that_was_cut_off_is_written_again(smoothed, data, tmp_path):
    path = tmp_path / "run.tsv"
    whole = certify(smoothed, data, path)
    text = path.read_text()
    path.write_text(text[: len(text) - 5])
    same(certify(smoothed, data, path), whole)
    assert len(path.read_text().splitlines()) == 11


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"n": 2000}, "settings .*n was 3000, is 2000"),
        ({"seed": 3}, "settings .*seed was 2, is 3"),
        ({"adaptive": True}, "settings .*adaptive"),
        ({"index": 0}, "data"),
    ],
)
def test_logs_of_other_runs_are_refused(smoothed, data, changed, what, tmp_path):
    path = tmp_path / "run.tsv"
    certify(smoothed, data, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"is the log of a different run, with other {what}"):
        certify(smoothed, data, path, **changed)
    assert path.read_bytes() == before


def test_changed_logs_are_refused(smoothed, data, tmp_path):
    path = tmp_path / "run.tsv"
    certify(smoothed, data, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[-1].replace("109", "200", 1)]))
    with pytest.raises(ValueError, match="a line for input 200 with label .*The file was changed"):
        certify(smoothed, data, path)


def test_facts_go_beside_the_log(smoothed, data, tmp_path):
    path = tmp_path / "run.tsv"
    certify(smoothed, data, path, facts={"dataset": "digits"})
    facts = logs.read_facts(path)
    assert facts["dataset"] == "digits" and facts["kind"] == "smoothing"
    assert facts["settings"]["noise"] == "gaussian" and facts["settings"]["sigma"] == 0.25
    certify(smoothed, data, path, facts={"dataset": "others"})  # They do not decide.


def test_progress(smoothed, data, capsys):
    result = certify(smoothed, data, verbose=1)
    shown = capsys.readouterr().err.splitlines()[-1]
    right = int(result.correct.sum())
    assert shown == f"10/10  right {right}, mean radius {result.mean_radius:.3f}  0 s left"
    certify(smoothed, data)
    assert capsys.readouterr().err == ""


def test_results_print_their_summary(smoothed, data):
    result = certify(smoothed, data)
    assert str(result) == result.summary() and len(result) == 10
    share = result.certified_accuracy()
    assert f"<SmoothedResult of 10 inputs: {share:.1%} certified, average radius" in repr(result)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"index": np.zeros(10, int)}, "`index` must not repeat a number"),
        ({"index": -1}, "`index` must be the place"),
        ({"n": 0}, "`n` must be an integer of at least 1"),
        ({"alpha": 2.0}, "`alpha`"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"adaptive": 0.1}, "`adaptive` must be True, False"),
        ({"verbose": 2}, "`verbose` must be 0, 1 or"),
    ],
)
def test_arguments(smoothed, data, changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        certify(smoothed, data, tmp_path / "run.tsv", **changed)
    assert not list(pathlib.Path(tmp_path).iterdir())  # No log of a run that cannot begin.


def test_labels(smoothed, data):
    with pytest.raises(ValueError, match="one integer label per input"):
        certify(smoothed, (data[0], data[1][:5]))
