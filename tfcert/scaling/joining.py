"""Several logs of one run as one."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Sequence

from tfcert import logs

__all__ = ["is_local", "join"]


def is_local(path: str) -> bool:
    """Whether a path has no scheme such as gs://."""
    return not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)


def join(paths: Sequence[str], target: str) -> pathlib.Path:
    """Writes the lines of several logs, by the inputs' numbers, as one log, with counterexamples.

    Args:
        paths: Logs of one run, as the pipeline writes them.
        target: The log to be made.
    """
    parts = [logs.read(path) for path in paths]
    facts = [part.facts or {} for part in parts]
    hashes = [dict(fact.get("hashes", {})) for fact in facts]
    data = [part.pop("data", "") for part in hashes]
    if any(part != hashes[0] for part in hashes):
        raise ValueError(f"These logs are of several runs: {', '.join(paths)}.")
    own = ("format", "kind", "columns", "sessions", "shard")
    run = {name: value for name, value in facts[0].items() if name not in own}
    run |= {"hashes": {**hashes[0], "data": " ".join(data)}}
    run |= {"inputs": sum(len(part.entries) for part in parts)}
    if pathlib.Path(target).exists():
        raise ValueError(f"{target} exists. Choose another file.")
    entries = sorted(
        ((entry, part.path) for part in parts for entry in part.entries),
        key=lambda found: found[0]["idx"],
    )
    with logs.Writer(target, "certify", run) as log:
        for entry, path in entries:
            point = logs.counterexample_path(path, entry["idx"])
            if point.exists():
                copy = logs.counterexample_path(target, entry["idx"])
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(point, copy)
        log.write(entry for entry, _ in entries)
    return pathlib.Path(target)
