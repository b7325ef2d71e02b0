"""What a reader of a measurement needs to know about the machine and the code."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["facts", "write"]


def write(out: str, facts: dict[str, str], rows: Sequence[Any]) -> None:
    """Writes a report to ``out`` with ``.json`` behind it, and makes its folder."""
    path = pathlib.Path(f"{out}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")


def facts(threads: int) -> dict[str, str]:
    """Processor, memory, system, versions and commit, by name."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = math.nan
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "cores": f"{cores}, {threads} used",
        "memory": f"{memory:.0f} GB",
        "load before": f"{os.getloadavg()[0]:.1f}, of the last minute",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": _commit(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "not set"),
    }


def _commit() -> str:
    folder = pathlib.Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + (" with changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
