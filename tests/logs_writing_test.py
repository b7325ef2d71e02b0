"""Writers of logs: they spare other runs' files, and lose and repeat nothing when stopped."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests import support
from tests.logs_support import HEADER, RUN, certified, smoothed
from tfcert import logs


def test_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.tsv"
    with logs.Writer(path, "certify", RUN, session={"commit": "a"}) as log:
        log.write([certified(0)])
    before = path.read_bytes(), logs.facts_path(path).read_bytes()
    other = {"hashes": {"model": "m", "data": "x"}, "settings": {"eps": 0.2}}
    with pytest.raises(ValueError, match="a different run, with other data .eps was 0.1, is 0.2."):
        logs.Writer(path, "certify", other)
    with pytest.raises(ValueError, match="with other columns"):
        logs.Writer(path, "certify", RUN, more=["radius"])
    with pytest.raises(ValueError, match="with other kind, columns"):
        logs.Writer(path, "smoothing", RUN)
    assert before == (path.read_bytes(), logs.facts_path(path).read_bytes())
    with logs.Writer(path, "certify", RUN, session={"commit": "b"}) as log:
        assert log.done == {0}
        with pytest.raises(ValueError, match="already has a line for input 0"):
            log.write([certified(1), certified(0)])
        with pytest.raises(ValueError, match="already has a line for input 2"):
            log.write([certified(2), certified(2)])
    facts = logs.read_facts(path)
    assert facts["sessions"] == [{"commit": "a"}, {"commit": "b"}]
    assert facts["format"] == 1 and facts["columns"] == list(logs.CERTIFY)
    assert [e["idx"] for e in logs.read(path).entries] == [0]


@pytest.mark.parametrize("content", [None, "", HEADER[:9], HEADER])
def test_a_start_that_failed_leaves_nothing_to_protect(content, tmp_path):
    logs.Writer(tmp_path / "a", "certify", RUN).close()
    (tmp_path / "a").unlink()
    if content is not None:
        (tmp_path / "a").write_text(content)
    other = {"hashes": {"model": "other"}}
    if content == HEADER[:9]:  # Might be anything.
        with pytest.raises(ValueError, match="is the log of a different run"):
            logs.Writer(tmp_path / "a", "smoothing", other)
        return
    with logs.Writer(tmp_path / "a", "smoothing", other) as log:
        log.write([smoothed(1)])
    assert logs.read(tmp_path / "a").entries == [smoothed(1)]
    assert logs.read_facts(tmp_path / "a")["hashes"] == other["hashes"]
    with pytest.raises(ValueError, match="is the log of a different run"):
        logs.Writer(tmp_path / "a", "certify", RUN)


def test_files_of_others_are_never_written(tmp_path):
    for name, text in (("notes.txt", "my notes\n"), ("log.tsv", HEADER)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"exists, but there is no .*json"):
            logs.Writer(tmp_path / name, "certify", RUN)
        assert (tmp_path / name).read_text() == text
        assert not logs.facts_path(tmp_path / name).exists()
    logs.facts_path(tmp_path / "x").write_text("{")
    with pytest.raises(ValueError, match="x.json must be a JSON object"):
        logs.Writer(tmp_path / "x", "certify", RUN)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"margin": np.nan},
        {"method": "a\nb"},
        {"method": "a\tb"},
        {"verdict": "safe"},
        {"label": -2},
    ],
)
def test_lines_that_could_not_be_read_are_not_written(changed, tmp_path):
    with logs.Writer(tmp_path / "a", "certify", RUN) as log:
        with pytest.raises(ValueError):
            log.write([certified(1), certified(2, **changed)])
        log.write([certified(1)])
    assert [e["idx"] for e in logs.read(tmp_path / "a").entries] == [1]


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with logs.Writer(tmp_path / "a", "certify", RUN) as log:
        with pytest.raises(OSError, match="is being written by another process"):
            logs.Writer(tmp_path / "a", "certify", RUN)
        log.write([certified(1)])
    logs.Writer(tmp_path / "a", "certify", RUN).close()


_FULL = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
    with logs.Writer("run.tsv", "certify", RUN) as log:
        for idx in range(log.entries[-1]["idx"] + 1 if log.entries else 0, 100):
            log.write([certified(idx)])
"""


# Logs without the rest of the package, which takes seconds to import.
_ALONE = f"""
import sys, types
package = sys.modules["tfcert"] = types.ModuleType("tfcert")
package.__path__ = [{str(support.ROOT / "tfcert")!r}]
from tfcert import logs
RUN = {RUN!r}
def certified(idx): return {certified(0)!r} | {{"idx": idx, "margin": 0.1 + idx}}
"""


def _python(source, folder):
    return subprocess.Popen(
        [sys.executable, "-c", _ALONE + textwrap.dedent(source)],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_keeps_what_was_written(tmp_path):
    pytest.importorskip("resource")
    run = _python(_FULL, tmp_path)
    message = run.communicate()[1]
    assert run.returncode != 0
    assert "could not be written (File too large). What was written before is kept" in message
    log = logs.read(tmp_path / "run.tsv")
    assert log.cut == "" and len(log.entries) >= 5
    assert [entry["idx"] for entry in log.entries] == list(range(len(log.entries)))
    with logs.Writer(tmp_path / "run.tsv", "certify", RUN) as writer:
        writer.write([certified(len(log.entries))])


def test_facts_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    with logs.Writer(tmp_path / "a", "certify", RUN) as log:
        log.note("checked", {"attacked": 3})
        assert logs.read_facts(tmp_path / "a")["checked"] == {"attacked": 3}

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.note("checked", None)
        with pytest.raises(OSError, match="No space left"):
            log.save_counterexample(1, np.zeros(3))
        with pytest.raises(OSError, match="No space left"):
            log.write([certified(1)])
        monkeypatch.undo()
        log.write([certified(1)])
    assert logs.read_facts(tmp_path / "a")["checked"] == {"attacked": 3}
    assert [e["idx"] for e in logs.read(tmp_path / "a").entries] == [1]
    assert not list(tmp_path.glob("**/*.part"))


_WRITES = """
    import numpy as np
    with logs.Writer("run.tsv", "certify", RUN) as log:
        for idx in range(800):
            if idx not in log.done:
                if idx % 7 == 0:
                    log.save_counterexample(idx, np.full(50, idx, "float32"))
                log.write([certified(idx)])
"""


def test_kills_lose_and_repeat_nothing(tmp_path):
    rng, kills = random.Random(0), 0
    while True:
        run = _python(_WRITES, tmp_path)
        path, size = tmp_path / "run.tsv", -1
        begin = time.monotonic()
        before = path.stat().st_size if path.exists() else 0
        while run.poll() is None and kills < 4 and time.monotonic() - begin < 60:
            size = path.stat().st_size if path.exists() else 0
            if size != before:  # It has begun to write.
                time.sleep(rng.uniform(0, 0.1))
                run.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        message = run.communicate()[1]
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, message
        kills += 1
    assert kills >= 2
    log = logs.read(tmp_path / "run.tsv")
    assert log.entries == [certified(idx) for idx in range(800)]
    for idx in range(0, 800, 7):
        assert (logs.read_counterexample(tmp_path / "run.tsv", idx) == idx).all()
