"""The program that verifies: its result file, its words, and what it refuses."""

import gzip
import re

import numpy as np
import pytest

from tests import branching_support
from tfcert.cli import verify, verify_run
from tfcert.cli.verify_config import Config, check
from tfcert_check import __main__ as checker

PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real) (declare-const Y_2 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))
(assert (<= Y_0 {least}))
"""


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    branching_support.network().save(folder / "model.keras")
    return folder


def least():
    """The least value of output 0 on a grid of the box."""
    points = branching_support.grid([-1, -1], [1, 1]).astype("float32")
    return float(np.asarray(branching_support.network()(points))[:, 0].min())


def run(folder, bound, **more):
    """Runs the program on "output 0 may be at most the bound"; its outcome and result file."""
    path = folder / "property.vnnlib.gz"
    path.write_bytes(gzip.compress(PROPERTY.format(least=f"{bound:.6f}").encode()))
    out = folder / "result.txt"
    config = Config(str(folder / "model.keras"), str(path), out=str(out), progress=False, **more)
    outcome = verify_run.run(verify_run.prepare(config), log=lambda line: None)
    return outcome, out.read_text()


def test_unsat(folder):
    outcome, text = run(folder, least() - 0.1)
    assert text == "unsat\n" and outcome.verdict == "holds"


@pytest.mark.parametrize("float_safe", [False, True])
def test_a_proof_of_a_keras_file(folder, tmp_path, capsys, float_safe):
    path = str(tmp_path / "proof.npz")
    outcome, _ = run(folder, least() - 0.1, certificate=path, float_safe=float_safe)
    assert outcome.certificate == tmp_path / "proof.npz"
    config = Config(
        str(folder / "model.keras"),
        str(folder / "property.vnnlib.gz"),
        certificate=path,
        float_safe=float_safe,
    )
    name, *arguments = verify_run.command(config).split()
    assert name == "tfcert-check" and ("--float_safe" in arguments) == float_safe
    assert checker.main(arguments) == 0
    assert capsys.readouterr().out.startswith("valid")
    # The property was a file already.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["proof.network.npz", "proof.npz"]


def test_sat_with_the_counterexample(folder):
    outcome, text = run(folder, least() + 0.1, time_limit=60.0)
    first, rest = text.split("\n", 1)
    assert first == "sat" and rest.startswith("((X_0 ") and rest.endswith("))\n")
    found = {name: float(value) for name, value in re.findall(r"\((\w_\d) ([^()]+)\)", rest)}
    assert list(found) == ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    point = np.float32([[found["X_0"], found["X_1"]]])
    outputs = np.asarray(branching_support.network()(point))[0]
    np.testing.assert_allclose(outputs, [found["Y_0"], found["Y_1"], found["Y_2"]], rtol=1e-6)
    assert (np.abs(point) <= 1).all() and outputs[0] <= least() + 0.1 + 1e-6


def test_timeout(folder):
    outcome, text = run(folder, least() - 0.1, time_limit=1e-3)
    assert text == "timeout\n" and "longer time_limit" in outcome.reason


def test_prints_the_verdict(folder, monkeypatch, capsys):
    from absl import flags

    defined = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", defined)
    for name in ("DEFINE_string", "DEFINE_float", "DEFINE_enum", "DEFINE_bool", "DEFINE_integer"):
        kind = getattr(flags, name)
        monkeypatch.setattr(
            flags, name, lambda *a, kind=kind, **k: kind(*a, **k, flag_values=defined)
        )
    verify._define_flags()
    run(folder, least() - 0.1)
    paths = [str(folder / "model.keras"), str(folder / "property.vnnlib.gz")]
    rest = defined(["tfcert-verify", *paths, "--noprogress", "--time_limit=60"])
    verify.main(rest)
    shown = capsys.readouterr().out
    assert shown.startswith("unsat\nholds, by boxes") and "first bound after" in shown
    for wrong, message in (
        (["tfcert-verify", paths[0]], "Pass a network and a property"),
        (["tfcert-verify", paths[0], paths[0]], "must be text"),
    ):
        with pytest.raises(verify.app.UsageError, match=message):
            verify.main(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_memory": -1.0}, "--max_memory must be GiB > 0"),
        ({"dtype": "float64"}, "--dtype is for ONNX networks"),
        ({"certificate": "proof.npz", "method": "ibp"}, "--certificate needs a method"),
    ],
)
def test_refuses(folder, change, message):
    (folder / "property.vnnlib").touch()
    config = Config(str(folder / "model.keras"), str(folder / "property.vnnlib"), **change)
    with pytest.raises(ValueError, match=message):
        check(config)
