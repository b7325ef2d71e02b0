"""Certification on Beam: every input once, with the verdict that one process gives it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import app

import tfcert
from tests import certification_support, support
from tfcert import logs, scaling

pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install apache-beam")

from tfcert.scaling import joining, pipeline

COUNT, EPS = 90, 0.03


@pytest.fixture(scope="module", name="work")
def _work(tmp_path_factory):
    """A folder with a model and shards, and what one process says."""
    folder = tmp_path_factory.mktemp("beam")
    _, (x_test, y_test) = tfcert.datasets.load("digits")
    model = certification_support.nearest_mean()
    model.save(folder / "model.keras")
    x_test, y_test = x_test[:COUNT], y_test[:COUNT]
    scaling.write_shards(x_test, y_test, folder / "shards", 3)
    region = tfcert.LpBall(EPS, clip=(0.0, 1.0))
    alone = tfcert.certify(model, x_test, y_test, region, method=METHODS)
    assert {"verified", "falsified", "misclassified"} <= set(alone.verdict)
    return folder, model, (x_test, y_test), alone


METHODS = ["ibp", "crown-ibp"]


def settings(folder, **changes):
    values = {
        "model_path": str(folder / "model.keras"),
        "eps": EPS,
        "norm": "inf",
        "clip": (0.0, 1.0),
        "method": tuple(METHODS),
        "attack": True,
        "float_safe": False,
        "time_limit_per_input": None,
        "self_check": 0.05,
        "seed": 0,
        "block": 16,
        "batch_size": None,
    }
    return pipeline.Settings(**{**values, **changes})


def certified(work, out, pattern="shards/*.npz", options=(), shards=3, **changes):
    folder = work[0]
    return pipeline.certify_shards(
        settings(folder, **changes), str(folder / pattern), str(out), shards, list(options), {}
    )


def check(paths, work):
    """Whether logs have each input once, as the single process has it."""
    _, model, (x, y), alone = work
    entries = [entry for path in paths for entry in logs.read(path).entries]
    assert sorted(entry["idx"] for entry in entries) == list(range(COUNT))
    for entry in entries:
        place = entry["idx"]
        assert entry["verdict"] == alone.verdict[place]
        assert entry["label"] == y[place] and entry["predict"] == alone.predict[place]
        assert entry["method"] == alone.method[place]
        np.testing.assert_allclose(entry["margin"], alone.margin[place], rtol=1e-3, atol=1e-4)
    region = tfcert.LpBall(EPS, clip=(0.0, 1.0))
    broken = np.flatnonzero(alone.verdict == "falsified")
    for place in broken:
        found = [logs.read_counterexample(path, place) for path in paths]
        (point,) = [point for point in found if point is not None]
        assert region.contains(point[None], x[place][None]).all()
        assert np.argmax(model(point[None])[0]) != y[place]


@pytest.mark.slow
def test_two_threads_with_every_bundle_twice(work, tmp_path):
    # As where workers are lost: all work is done again, and its results come twice.
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    paths = certified(work, tmp_path / "out", options=[*options, "--direct_runner_bundle_repeat=1"])
    assert [pathlib.Path(path).name for path in paths] == [
        f"log-0000{i}-of-00003.tsv" for i in range(3)
    ]
    check(paths, work)
    left = {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()}
    assert left == {f"log-0000{i}-of-00003" for i in range(3)}
    for number, path in enumerate(paths):
        log = logs.read(path)
        assert [entry["idx"] for entry in log.entries] == list(range(number, COUNT, 3))
        assert log.facts["inputs"] == 30 and log.facts["shard"] == f"{number} of 3"
        assert log.facts["settings"]["eps"] == EPS
    joined = joining.join(paths, str(tmp_path / "all.tsv"))
    check([joined], work)
    facts = logs.read_facts(joined)
    assert facts["inputs"] == COUNT and len(facts["hashes"]["data"].split()) == 3


@pytest.mark.slow
def test_two_processes(work, tmp_path):
    folder = work[0]
    arguments = {
        "model_path": folder / "model.keras",
        "input": folder / "shards" / "*.npz",
        "eps": EPS,
        "method": ",".join(METHODS),
        "out": tmp_path / "out",
        "shards": 2,
        "block": 30,
    }
    command = [sys.executable, str(support.ROOT / "trainers" / "certify_beam.py")]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    command += ["--", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    check([tmp_path / "out" / "all.tsv"], work)
    check([tmp_path / "out" / f"log-0000{i}-of-00002.tsv" for i in range(2)], work)
    verified = int((work[3].verdict == "verified").sum())
    assert f"{COUNT} inputs:" in result.stdout and f"verified {verified:15d}" in result.stdout
    assert (tmp_path / "out" / "all.tsv") in map(pathlib.Path, result.stdout.split())


@pytest.mark.slow
def test_branch_and_bound_is_the_last_stage(work, tmp_path):
    _, model, (x, y), _ = work
    scaling.write_shards(x[:24], y[:24], tmp_path / "shards", 2)
    region = tfcert.LpBall(EPS, clip=(0.0, 1.0))
    loose = tfcert.certify(model, x[:24], y[:24], region, method="ibp")
    alone = tfcert.certify(model, x[:24], y[:24], region, method=["ibp", "complete"])
    assert "unknown" in loose.verdict and "unknown" not in alone.verdict
    options = {"shards": 1, "method": ("ibp", "complete"), "block": 5}
    (path,) = certified(work, tmp_path / "out", tmp_path / "shards" / "*.npz", **options)
    entries = logs.read(path).entries
    assert len(entries) == 24
    for entry in entries:
        assert entry["verdict"] == alone.verdict[entry["idx"]]
        assert entry["method"] == alone.method[entry["idx"]]
    assert "units" in alone.method


@pytest.mark.slow
def test_an_input_that_stands_in_two_shards(work, tmp_path):
    folder = work[0]
    x, y = work[2]
    same = folder / "same"
    scaling.write_shards(x[:20], y[:20], same, 1)
    part = same / "part-00000-of-00001.npz"
    (same / "copy.npz").write_bytes(part.read_bytes())
    paths = certified(work, tmp_path / "same", "same/*.npz", shards=1)
    assert [entry["idx"] for entry in logs.read(paths[0]).entries] == list(range(20))
    np.savez(same / "copy.npz", idx=np.array([5]), x=x[:1], y=y[:1])
    with pytest.raises(ValueError, match="Two different inputs have the number 5"):
        certified(work, tmp_path / "other", "same/*.npz", shards=1)
    assert not list((tmp_path / "other").glob("log*"))  # Nothing is written half.


def test_more_logs_than_inputs(work, tmp_path):
    x, y = work[2]
    scaling.write_shards(x[:2], y[:2], work[0] / "few", 1)
    paths = certified(work, tmp_path / "out", "few/*.npz", shards=4)
    assert [len(logs.read(path).entries) for path in paths] == [1, 1, 0, 0]


def test_refuses_before_it_works(work, tmp_path):
    folder = work[0]
    with pytest.raises(ValueError, match="No file has a name like"):
        certified(work, tmp_path, "none/*")
    with pytest.raises(ValueError, match=r"Shards end in .*model\.keras"):
        certified(work, tmp_path, "model.*")
    with pytest.raises(ValueError, match="part-00000-of-00003.npz must be a Keras model"):
        certified(work, tmp_path, model_path=str(folder / "shards/part-00000-of-00003.npz"))
    (tmp_path / "log-00000-of-00003.tsv").write_text("")
    with pytest.raises(ValueError, match="log-00000-of-00003.tsv exists"):
        certified(work, tmp_path)


def test_the_program_refuses_a_joined_log_that_is_there_before_it_works(tmp_path, monkeypatch):
    from tfcert.cli import certify_beam

    (tmp_path / "all.tsv").write_text("")
    values = dict.fromkeys(pipeline.FIELDS) | {"clip": ["0", "1"], "method": ["ibp"], "eps": 0.1}
    values |= {"model_path": "m.keras", "norm": "inf", "attack": True, "float_safe": False}
    values |= {"self_check": 0.0, "seed": 0, "block": 9, "shards": 1, "input": "*"}
    values |= {"joined": True, "out": str(tmp_path)}
    flags = type("Flags", (), {"flag_values_dict": lambda self: values})()
    monkeypatch.setattr(certify_beam.flags, "FLAGS", flags)
    monkeypatch.setattr(pipeline, "certify_shards", lambda *_: pytest.fail("It works."))
    with pytest.raises(app.UsageError, match="all.tsv exists.*--nojoined"):
        certify_beam.main(["program"])


def test_joins_logs_of_one_run_only(work, tmp_path):
    paths = []
    for number, model in enumerate("ab"):
        paths.append(str(tmp_path / f"{number}.tsv"))
        logs.Writer(paths[-1], "certify", {"hashes": {"model": model, "data": "d"}}).close()
    with pytest.raises(ValueError, match="are of several runs"):
        joining.join(paths, str(tmp_path / "all.tsv"))
    joining.join(paths[:1], str(tmp_path / "all.tsv"))
    with pytest.raises(ValueError, match="exists"):
        joining.join(paths[:1], str(tmp_path / "all.tsv"))
    assert json.loads((tmp_path / "all.tsv.json").read_text())["inputs"] == 0
    assert joining.is_local("/a/b") and joining.is_local("a:b") and not joining.is_local("gs://a")
