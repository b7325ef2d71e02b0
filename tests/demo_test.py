"""Tests of the demo: the program as `make demo` starts it, its options, its page's odd cases."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import page_support, support
from tfcert import certification
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
        "--train_eps=0.05",
        "--seed=3",
        "--out=here/demo",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Look at here/demo/index.html" in done.stdout
    out = tmp_path / "here/demo"
    results = json.loads((out / "results.json").read_text())
    wanted = {"seed": 3, "eps": sizes, "train_eps": 0.05, "epochs": 8, "examples": 24}
    assert results["flags"] == wanted
    assert results["eps"] == [*sizes, 0.05]
    for network in results["networks"].values():
        curves = [network["verified_accuracy"][m] for m in demo_run.METHODS]
        curves += [network["attacked_accuracy"], [network["accuracy"]] * 4]
        # From the loosest method to the attack, all below the accuracy, falling with eps.
        for looser, tighter in itertools.pairwise(curves):
            assert all(a <= b for a, b in zip(looser, tighter, strict=True))
            assert looser == sorted(looser, reverse=True)
        assert curves[3][0] > 0.5
    plain, certified = (
        results["networks"][name]["verified_accuracy"] for name in ("plain", "certified")
    )
    assert certified["ibp"][-1] > plain["ibp"][-1] + 0.2  # What the training is for.
    page = (out / "index.html").read_text()
    assert "https://doi.org/10.24432/C50P49" in page
    assert f"{results['networks']['certified']['accuracy']:.1%}" in page
    with Image.open(out / "curves.png") as image:
        assert min(image.size) > 400


@pytest.mark.parametrize(
    "command",
    [
        [support.ROOT / "trainers/demo.py"],
        ["-c", "import tfcert_programs; tfcert_programs.demo()"],
    ],
    ids=["trainers", "console_entry_point"],
)
def test_help_shows_the_program_s_own_flags(command, tmp_path):
    done = _python(*command, "--help", cwd=tmp_path)
    assert "--out=demo_output --seed=0" in done.stdout
    for flag in ("out", "eps", "train_eps", "seed", "epochs", "examples"):
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
        ({"train_eps": 0.0}, "Received: train_eps=0.0"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"examples": 361}, "Received: examples=361"),
    ],
)
def test_config_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        demo_run.Config(**changed)


def _certificates(verdicts: list[str], methods: list[str]) -> certification.Certificates:
    """Verdicts on a 4, a 5 and a 6."""
    count = len(verdicts)
    label = np.array([4, 5, 6])
    return certification.Certificates(
        verdict=np.array(verdicts),
        margin=np.full(count, 0.5),
        method=np.array(methods),
        seconds=np.full(count, 0.01),
        predict=np.where(np.array(verdicts) == "misclassified", 0, label),
        label=label,
        index=np.arange(count),
        counterexamples={},
        radius=None,
        checked=0,
        rounding=[],
    )


def _results(**changed) -> demo_run.Results:
    images = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1)
    broken = _certificates(["falsified", "unknown", "misclassified"], ["pgd", "crown", "none"])
    proved = _certificates(["verified", "verified", "falsified"], ["ibp", "crown", "pgd"])
    example = demo_run.Example(4, images[0], images[1], 9, images[2], 0.75, 0.5)
    values = demo_run.Results(
        config=demo_run.Config(eps=(0.1,), examples=3),
        parameters=1234,
        plain=demo_run.Network("plain", 1.0, {0.1: broken}),
        certified=demo_run.Network("certified", 2.0, {0.1: proved}),
        examples=[example],
        first=images[0],
    )
    return dataclasses.replace(values, **changed)


def test_methods_count_what_cheaper_ones_verify():
    certified = _results().certified
    shares = [certified.verified(method) for method in demo_run.METHODS]
    assert shares == [[1 / 3], [1 / 3], [2 / 3], [2 / 3]]
    assert certified.attacked() == [2 / 3] and certified.accuracy == 1.0


def test_summary_is_a_table():
    lines = demo_page.summary(_results()).splitlines()
    assert "Of 3 test images the plain network gets 66.7% right" in lines[1]
    assert [line.rsplit(maxsplit=1) for line in lines[-5:]] == [
        ["eps", "0.1"],
        ["plain, attacked", "33.3%"],
        ["plain, verified", "0.0%"],
        ["certified, attacked", "66.7%"],
        ["certified, verified", "66.7%"],
    ]


@pytest.mark.parametrize("examples", [1, 0])
def test_page_of_one_eps_and_few_images(examples, tmp_path):
    results = _results()
    demo_page.write(_results(examples=results.examples[:examples]), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    # A digit at five sizes of eps, and three pictures of each example.
    assert page.count("data:image/png;base64,") == 5 + 3 * examples
    assert ("plain says: 9" in page) == bool(examples)
    name = '<th scope="row" class="name">CROWN</th>'
    assert f"{name}<td>0.0%</td><td>66.7%</td>" in page
    page_support.check(page)
