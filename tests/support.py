"""Helpers for tests of every kind, with or without pytest fixtures."""

import pathlib
import unittest

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


# Code that makes importing TensorFlow fail, as where it is not installed.
BLOCK_TENSORFLOW = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_probability", "tf_keras"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
"""
