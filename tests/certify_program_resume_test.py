"""The certifying program goes on with its log after kills and full disks, and with no other."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import pytest

from tests import certification_support, certify_program_support, support
from tests.certify_program_support import BOUNDS, SMOOTH, run
from tfcert import logs


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return certify_program_support.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(model_path, tmp_path):
    return certify_program_support.settings(model_path, tmp_path / "run.tsv")


def command(config):
    flags = []
    for name, value in dataclasses.asdict(config).items():
        value = ",".join(value) if isinstance(value, list) else value
        if value is not None:
            flags.append(f"--{'' if value is not False else 'no'}{name}" + (
                "" if isinstance(value, bool) else f"={value}"
            ))  # fmt: skip
    return [sys.executable, str(support.ROOT / "trainers/certify.py"), *flags]


def start(config, cwd, **options):
    return subprocess.Popen(
        command(config),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def lines_of(path):
    """How many whole lines a file has."""
    path = pathlib.Path(path)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(config, cwd, after):
    """Starts the program and kills it when its log has grown by some lines; its return code."""
    before = lines_of(config.out)
    process = start(config, cwd)
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < 120:
        if lines_of(config.out) >= max(before, 1) + after:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    return process.returncode


@pytest.mark.slow
def test_bounds_go_on_after_a_kill(settings, tmp_path):
    config = settings(**{**BOUNDS, "skip": 2, "method": ["ibp"]}, batch_size=4, self_check=0.0)
    assert killed(config, tmp_path, after=20) == -signal.SIGKILL
    text = run(config)
    assert len(logs.read_facts(config.out)["sessions"]) == 2
    whole = dataclasses.replace(config, out=str(tmp_path / "whole.tsv"))
    run(whole)
    broken, unbroken = (
        sorted(logs.read(path).entries, key=lambda entry: entry["idx"])
        for path in (config.out, whole.out)
    )
    assert [entry["idx"] for entry in broken] == list(range(0, 360, 2))
    for one, other in zip(broken, unbroken, strict=True):
        for name in ("idx", "label", "predict", "verdict", "method"):
            assert one[name] == other[name]
        if one["verdict"] == "falsified":
            assert logs.read_counterexample(config.out, one["idx"]).shape == (8, 8, 1)
    counts = {v: sum(entry["verdict"] == v for entry in broken) for v in logs.VERDICTS}
    for name, count in counts.items():
        assert f"{name:<14}{count:>7}" in text


@pytest.mark.slow
def test_smoothing_goes_on_with_the_same_lines(settings, tmp_path):
    config = settings(**{**SMOOTH, "n": 10_000, "skip": 12}, adaptive=True, seed=3)
    assert killed(config, tmp_path, after=3) == -signal.SIGKILL
    before = pathlib.Path(config.out).read_bytes()
    run(config)
    after = pathlib.Path(config.out).read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    whole = dataclasses.replace(config, out=str(tmp_path / "whole.tsv"))
    run(whole)
    texts = [
        [line.rpartition("\t")[0] for line in pathlib.Path(path).read_text().splitlines()]
        for path in (config.out, whole.out)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 31


def test_another_backend_does_not_go_on(settings, monkeypatch):
    """Its noise is another one, so that the lines would not be those of one run."""
    run(settings(**{**SMOOTH, "skip": 60}))
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    with pytest.raises(ValueError, match="settings .*backend was .tensorflow., is .another."):
        run(settings(**{**SMOOTH, "skip": 60}))


@pytest.mark.parametrize(
    ("first", "change", "what"),
    [
        (SMOOTH, {"seed": 1}, "settings .*seed was 0, is 1"),
        (SMOOTH, {"alpha": 0.01}, "settings .*alpha was 0.001, is 0.01"),
        (SMOOTH, {"skip": 60}, "data"),
        (SMOOTH, {"noise": "laplace"}, "settings"),
        (SMOOTH, {"precision": "bfloat16"}, "model, settings .*precision was .float32., is .bf"),
        (BOUNDS, {"eps": 0.06}, "region, settings"),
        (BOUNDS, {"max": 300}, "data"),
        (BOUNDS, {**SMOOTH, "eps": None}, "kind, columns"),
    ],
)
def test_other_flags_do_not_go_on(first, change, what, settings):
    first = {**first, "skip": 60}
    change = {"skip": 60, **change} if change.get("skip") != 60 else {"skip": 90}
    run(settings(**first))
    before = pathlib.Path(settings().out).read_bytes()
    with pytest.raises(ValueError, match=f"is the log of a different run, with other {what}"):
        run(settings(**{**first, **change}))
    assert pathlib.Path(settings().out).read_bytes() == before
    run(settings(**first, progress=True))  # This changes no result.


def test_another_model_does_not_go_on(settings, tmp_path):
    first = {**BOUNDS, "skip": 60}
    run(settings(**first))
    certification_support.nearest_mean().save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="is the log of a different run, with other model"):
        run(settings(**first, model_path=str(tmp_path / "other.keras")))


_FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
from tfcert.cli import certify
certify.run()
"""


@pytest.mark.slow
def test_a_full_disk(settings, tmp_path):
    pytest.importorskip("resource")
    config = settings(**{**SMOOTH, "n": 100, "skip": 2})
    full = subprocess.run(
        [sys.executable, "-c", _FULL, *command(config)[2:]],
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1, full.stderr
    assert "tfcert-certify: [Errno 27] could not be written (File too large)" in full.stderr
    assert "Traceback" not in full.stderr
    log = logs.read(config.out)
    assert 50 < len(log.entries) < 180 and log.cut == ""
    run(config)
    assert logs.read(config.out).column("idx").tolist() == list(range(0, 360, 2))
