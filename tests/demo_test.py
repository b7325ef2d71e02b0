"""Tests of the demo: the program as `make demo` starts it, its options, its page's odd cases."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import support
from tfcert.cli import demo_page, demo_run


def _python(*arguments: str | pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_program_leaves_its_results(tmp_path):
    sizes = [0.002, 0.01, 0.03]
    done = _python(
        support.ROOT / "trainers/demo.py",
        "--epochs=8",
        "--examples=24",
        "--eps=" + ",".join(map(str, sizes)),
        "--seed=3",
        "--out=here/demo",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Look at here/demo/index.html" in done.stdout
    out = tmp_path / "here/demo"
    results = json.loads((out / "results.json").read_text())
    assert results["flags"] == {"seed": 3, "eps": sizes, "epochs": 8, "examples": 24}
    curves = [results["methods"][m]["verified_accuracy"] for m in demo_run.METHODS]
    # From the loosest method to the tightest, all below the clean accuracy, falling with eps.
    for looser, tighter in zip(curves, [*curves[1:], [results["clean_accuracy"]] * 3], strict=True):
        assert all(a <= b for a, b in zip(looser, tighter, strict=True))
        assert looser == sorted(looser, reverse=True)
    assert curves[-1][0] > 0.5
    # The radii, found by CROWN with one eps per image, tell the same story as its curve.
    radii = np.array(results["certified_radius"]["of_each_image"])
    crown = [np.mean(radii >= eps) for eps in sizes]
    np.testing.assert_allclose(crown, curves[2], atol=1.5 / 24)
    page = (out / "index.html").read_text()
    assert "https://doi.org/10.24432/C50P49" in page
    assert f"{results['clean_accuracy']:.1%}" in page
    with Image.open(out / "verified_accuracy.png") as image:
        assert min(image.size) > 400


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [support.ROOT / "trainers/demo.py"],
        ["-c", "from tfcert.cli import demo; demo.run()"],
    ],
    ids=["trainers", "console_entry_point"],
)
def test_help_shows_the_program_s_own_flags(command, tmp_path):
    done = _python(*command, "--help", cwd=tmp_path)
    assert "--out=demo_output --seed=0" in done.stdout
    for flag in ("out", "eps", "seed", "epochs", "examples"):
        assert f"--{flag}=" in done.stdout
    assert "0.0625" in done.stdout


@pytest.mark.slow
def test_program_refuses_bad_flags(tmp_path):
    done = _python(support.ROOT / "trainers/demo.py", "--eps=0.01,-0.5", cwd=tmp_path)
    assert done.returncode != 0
    assert "--eps must be numbers in (0, 1]. Received: --eps=(0.01, -0.5)." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": ()}, r"Received: eps=\(\)"),
        ({"eps": (float("nan"),)}, "Received: eps="),
        ({"eps": (2.0,)}, r"Received: eps=\(2.0,\)"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"examples": 361}, "Received: examples=361"),
    ],
)
def test_config_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        demo_run.Config(**changed)


def _results(**changed) -> demo_run.Results:
    values = demo_run.Results(
        config=demo_run.Config(eps=(0.1,), examples=3),
        parameters=1234,
        training_seconds=1.0,
        test_accuracy=0.5,
        x=np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1),
        y=np.array([4, 5, 6]),
        predictions=np.array([4, 5, 0]),
        verified={m: np.array([[i > 1, i > 2, False]]) for i, m in enumerate(demo_run.METHODS)},
        seconds={m: [0.5] for m in demo_run.METHODS},
        radius=np.array([0.2, 0.05, 0.0]),
        runner_up=np.array([9, 3, 0]),
    )
    return dataclasses.replace(values, **changed)


def test_summary_is_a_table():
    lines = demo_page.summary(_results()).splitlines()
    assert "Clean accuracy 66.7% on 3 test images" in lines[1]
    assert [line.split() for line in lines[-5:]] == [
        ["eps", "0.1"],
        ["ibp", "0.0%"],
        ["crown-ibp", "0.0%"],
        ["crown", "33.3%"],
        ["alpha-crown", "66.7%"],
    ]


@pytest.mark.parametrize("predictions", [[4, 5, 0], [0, 0, 0]], ids=["some_right", "none_right"])
def test_page_of_one_eps_and_few_images(predictions, tmp_path):
    demo_page.write(_results(predictions=np.array(predictions)), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    right = np.sum(np.array(predictions) == [4, 5, 6])
    assert page.count("data:image/png;base64,") == 2 * right  # most and least robust
    name = '<th scope="row" class="name">α-CROWN</th>'
    assert f"{name}<td>66.7%</td><td>0.50</td><td>–</td>" in page
