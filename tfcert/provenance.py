"""The code behind a result: versions and the git commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

from tfcert import backend, version

__all__ = ["commit", "machine", "session", "versions"]


def session() -> dict[str, Any]:
    """Returns facts that may change when a run resumes: time, versions, commit and machine."""
    return {
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
    }


def machine() -> str:
    """The system and the processor's architecture."""
    return f"{platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Versions of Python, of tfcert and of what it computes with."""
    names = ["tfcert", "keras", "tensorflow", "jax", "numpy"]
    versions = {"python": platform.python_version(), "backend": backend.name()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions | {"tfcert": version.__version__}


def commit() -> str | None:
    """The git commit of the checkout that this file belongs to; None outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        # An environment inside somebody else's repository must not report their commit.
        git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
