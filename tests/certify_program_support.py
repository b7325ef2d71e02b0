"""Flags and a model for the tests of the certifying program."""

import functools

from tests import certification_support
from tfcert.cli import certify_run

BOUNDS = {"eps": 0.05, "method": ["ibp", "crown-ibp"], "skip": 6}
SMOOTH = {"sigma": 0.2, "method": ["smoothing"], "n": 300, "skip": 30}


def save_model(folder):
    """Saves a trained model in the folder; its path."""
    path = folder / "model.keras"
    certification_support.trained().save(path)
    return path


def settings(model_path, out):
    """The flags that all runs share, as ``certify_run.Config`` takes them; others can be added."""
    values = {"model_path": str(model_path), "dataset": "digits", "progress": False}
    return functools.partial(certify_run.Config, **values, out=str(out))


def run(config):
    return certify_run.run(certify_run.prepare(config), log=lambda line: None)
