"""Parts of all tables: the folder of results, and the line on how they were measured."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

__all__ = ["RESULTS", "facts"]

RESULTS = pathlib.Path(__file__).parent / "results"


def facts(report: Mapping[str, Any]) -> str:
    """The line above a table: the command that measured, and on what."""
    found = report["facts"]
    names = ("processor", "cores", "backend", "auto_LiRPA", "torch", "commit")
    known = [f"{name} {found[name]}" for name in names if name in found]
    return f"Measured with `{found['command']}` ({', '.join(known)})."
