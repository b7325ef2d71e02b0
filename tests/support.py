"""Helpers for tests of every kind, with or without pytest fixtures."""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def shared_path(*parts: str) -> pathlib.Path:
    """The path of a file or folder in ``../shared``; skips the test where there is none.

    Example: ``with np.load(support.shared_path("data", "mnist.npz")) as arrays: ...``
    """
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.exists():
        name = "/".join(("..", "shared", *parts))
        raise unittest.SkipTest(f"needs {name} beside the checkout, which is not there")
    return path


def slow_except(quick: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """The cases of a parametrised test, of which `make test` runs only those that are quick.

    Example: ``@pytest.mark.parametrize("seed", support.slow_except(lambda s: s < 2, range(20)))``
    """
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if quick(case) else pytest.mark.slow))
    return marked


# Code that makes importing TensorFlow fail, as where it is not installed.
BLOCK_TENSORFLOW = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_probability", "tf_keras"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
"""


# Code that makes importing tfcert and Keras fail, as where a model is only served. TensorFlow looks
# where Keras lies, so that is told, but nothing can be loaded from there.
BLOCK_TFCERT = """
import importlib.machinery
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tfcert", "tensorflow_probability", "tf_keras", "scipy"):
            raise ImportError(f"{name} is blocked")
        if name.split(".")[0] == "keras":
            place = "/nowhere/keras/__init__.py"
            return importlib.machinery.ModuleSpec(name, self, origin=place, is_package=True)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")

    def exec_module(self, module):
        raise ImportError("blocked")

sys.meta_path.insert(0, Refuse())
"""


def run_alone(code: str, *arguments: object) -> None:
    """Runs code in a process where neither tfcert nor Keras is; fails with what it reports."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCK_TFCERT + code, *map(str, arguments)],
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@functools.cache
def slow_names() -> frozenset[str]:
    """The tests of slow.txt."""
    lines = (ROOT / "tests/slow.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
