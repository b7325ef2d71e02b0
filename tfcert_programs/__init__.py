"""The console entry points, ``tfcert-train`` and so on.

A program shows its help and mistakes in its flags before TensorFlow is loaded. So the package
``tfcert`` is found here, but not executed yet: ``tfcert.cli`` can then be imported without the
rest. ``tfcert.cli.program.load_library`` executes the package before the work begins. Code that
says ``import tfcert`` gets the whole package at once.
"""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["attack", "certify", "certify_beam", "demo", "export", "report", "train", "verify"]


def _find_library() -> None:
    """Puts the package into ``sys.modules`` without executing it."""
    if "tfcert" not in sys.modules:
        spec = importlib.util.find_spec("tfcert")
        assert spec is not None
        sys.modules["tfcert"] = importlib.util.module_from_spec(spec)


def attack() -> None:
    """Runs ``tfcert-attack``."""
    _find_library()
    from tfcert.cli import attack as program

    program.run()


def certify() -> None:
    """Runs ``tfcert-certify``."""
    _find_library()
    from tfcert.cli import certify as program

    program.run()


def certify_beam() -> None:
    """Runs ``tfcert-certify-beam``."""
    _find_library()
    from tfcert.cli import certify_beam as program

    program.run()


def demo() -> None:
    """Runs ``tfcert-demo``."""
    _find_library()
    from tfcert.cli import demo as program

    program.run()


def export() -> None:
    """Runs ``tfcert-export``."""
    _find_library()
    from tfcert.cli import export as program

    program.run()


def report() -> None:
    """Runs ``tfcert-report``."""
    _find_library()
    from tfcert.cli import report as program

    program.run()


def train() -> None:
    """Runs ``tfcert-train``."""
    _find_library()
    from tfcert.cli import train as program

    program.run()


def verify() -> None:
    """Runs ``tfcert-verify``."""
    _find_library()
    from tfcert.cli import verify as program

    program.run()
