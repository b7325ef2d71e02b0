"""The report's program, and its page and the demo's in a browser."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import app, flags

from tests import browser, demo_test, report_support, support
from tests.report_support import HOSTILE
from tfcert.cli import demo_page, report
from tfcert.reporting import examples
from tfcert.reporting import report as report_writing


def _program(*arguments, cwd):
    return subprocess.run(
        [sys.executable, support.ROOT / "trainers/report.py", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_program(tmp_path, monkeypatch):
    x, y = report_support.images()
    np.savez(tmp_path / "data.npz", x_test=(255 * x).astype("uint8"), y_test=y)
    report_support.certify_log(tmp_path / "run.tsv", x, y)
    report_support.smoothing_log(tmp_path / "other.tsv", 0)
    arguments = ["run.tsv", "--inputs=data.npz", "--out=a/report", "--names=mine", "--gallery=2"]
    done = _program(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Look at a/report/index.html; beside it: " in done.stdout
    text = (tmp_path / "a/report/index.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2 + 2 + 2 * 3 and "mine" in text
    monkeypatch.chdir(tmp_path)
    with pytest.raises(app.UsageError, match="already has index.html"):
        _main(*arguments)
    _main(*arguments, "--overwrite")


def _main(*arguments):
    """The program in this process."""
    before = set(flags.FLAGS)
    report._define_flags()
    try:
        report.main(flags.FLAGS(["report", *map(str, arguments)]))
    finally:
        flags.FLAGS.unparse_flags()
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Received: none"),
        (["a.tsv", "--radii=0,x"], "--radii must be numbers of at least 0. Received: 0,x"),
        (["a.tsv", "--radii=-1"], "--radii must be numbers of at least 0"),
        (["a.tsv", "--radii="], "--radii must be numbers of at least 0"),
        (["a.tsv", "--names=x,y"], "1 different names"),
        (["a.tsv", "--dataset=digits", "--inputs=x.npz"], "exclude each other"),
        (["a.tsv", "--inputs=nothing.npz"], "No such file"),
        (["a.tsv", "--inputs=a.tsv"], "must be an npz file with arrays x and y"),
        (["a.tsv", "--inputs=single.npy"], "must be an npz file with arrays x and y"),
        (["a.tsv", "--inputs=objects.npz"], "must be an npz file with arrays x and y"),
        (["a.tsv", "--inputs=no_labels.npz"], "must be an npz file with arrays x and y"),
        (["a.tsv", "--inputs=uneven.npz"], "x of float32 and shape (30, 6, 5, 1), y of int64"),
        (["a.tsv", "--inputs=cut.npz"], "must be an npz file with arrays x and y"),
        (["nothing.tsv"], "nothing.tsv"),
        (["a.tsv", "--model_path=no.keras"], "--model_path=no.keras: there is no such file"),
        (["bad.tsv"], "bad.tsv:2: idx must be an integer"),
        ([".."], "no run.json"),
    ],
)
def test_program_refuses(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = report_support.images()
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    pathlib.Path("bad.tsv").write_text(path.read_text().replace("\n0\t", "\nzero\t"))
    np.savez("objects.npz", x=np.array([{}], object), y=np.zeros(1, int))
    np.savez("no_labels.npz", x=x)
    np.save("single.npy", x)
    np.savez("uneven.npz", x=x, y=y[:3])
    np.savez("cut.npz", x=x, y=y)
    pathlib.Path("cut.npz").write_bytes(pathlib.Path("cut.npz").read_bytes()[:-30])
    with pytest.raises((SystemExit, app.UsageError)) as error:
        _main(*arguments, "--out=out")
    assert message in str(error.value)
    assert not pathlib.Path("out").exists()


# In a browser.

_COLORS = {  # Of the paper and of what is written on figures, in the light and the dark scheme.
    False: ("rgb(255, 255, 255)", "rgb(27, 29, 33)"),
    True: ("rgb(21, 23, 26)", "rgb(232, 234, 237)"),
}


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of every kind, with long and hostile names, and a demo's page."""
    folder = tmp_path_factory.mktemp("pages")
    x, y = report_support.images(shape=(28, 28, 3), classes=10)
    logs = [report_support.certify_log(folder / f"{e}.tsv", x, y, e) for e in (0.1, 0.2)]
    logs += [report_support.smoothing_log(folder / f"s{i}.tsv", i) for i in range(5)]
    logs.append(report_support.run_folder(folder / "run", facts={"flags": {"x" * 90: "y" * 900}}))
    names = ["a", HOSTILE, "w" * 120, *(f"log {i} of a model" for i in range(5))]
    one = report_writing.load([str(logs[0])])
    report_writing.write(one, folder / "one", inputs=examples.Inputs(x, y))
    many = report_writing.load([str(path) for path in logs], names)
    report_writing.write(many, folder / "many", title=HOSTILE)
    (folder / "demo").mkdir()
    demo_page.write(demo_test._results(), folder / "demo")
    return {name: folder / name / "index.html" for name in ("one", "many", "demo")}


@pytest.mark.parametrize("name", ["one", "many", "demo"])
def test_in_a_browser(name, pages, chromium, tmp_path):
    for width, dark in ((360, False), (360, True), (768, False), (1280, False)):
        chromium.open(pages[name], width=width, dark=dark)
        assert chromium.overflow() == []
        paper = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = chromium.evaluate(
            "getComputedStyle(document.querySelector('svg [style*=\"--ink\"]')).fill"
        )
        assert (paper, ink) == _COLORS[dark]
    # Tables do scroll where they must, and by themselves.
    if name == "many":
        chromium.open(pages[name], width=360)
        assert chromium.evaluate(
            "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
        )
    assert chromium.problems == []
    chromium.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", ["one", "many", "demo"])
def test_in_print(name, pages, chromium):
    chromium.open(pages[name], width=1280, dark=True)
    printed = chromium.pdf()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) < 40
    # As wide as the paper: nothing is cut off, and the paper stays white for who reads in the dark.
    chromium.open(pages[name], width=688, dark=True, media="print")
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    wide = chromium.evaluate(
        "[...document.querySelectorAll('table')].map(e => e.getBoundingClientRect().right)"
        ".filter(right => right > 688).length"
    )
    assert wide == 0
    assert chromium.problems == []


def test_the_browser_helper_sees_what_is_wrong(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<meta name=viewport content='width=device-width'><div style='width:900px'>x</div>"
        "<script>console.error('oh')</script><img src='http://127.0.0.1:9/x.png'>"
    )
    before = list(chromium.problems)
    chromium.open(page, width=360)
    chromium.evaluate("new Promise(done => setTimeout(done, 300))")
    found = chromium.problems[len(before) :]
    del chromium.problems[len(before) :]
    assert any("oh" in each for each in found) and any("127.0.0.1:9" in each for each in found)
    assert len(chromium.overflow()) == 2
