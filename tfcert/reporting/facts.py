"""The part of a report on how its numbers came about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfcert.reporting import page, part
from tfcert.reporting.entries import Entries
from tfcert.reporting.runs import Run

__all__ = ["facts_part"]

_ROWS = 150  # of one log; facts are not ours to trust


def facts_part(logs: Sequence[Entries], runs: Sequence[Run], own: dict[str, Any]) -> part.Part:
    """The flags, versions, commits, seeds and hashes of logs and runs.

    Args:
        logs: Their side files and their own hashes are shown.
        runs: Their run.json is shown.
        own: The facts of the report itself.
    """
    made = part.Part("How these numbers came about")
    made.text("The flags, versions, commits, seeds and hashes come from the files beside the logs.")
    for entries in logs:
        facts = {"log, SHA-256": entries.sha256, **(entries.facts or {})}
        made.pieces.append(_list(entries.name, facts))
        if entries.facts is None:
            made.text("This log has no file of facts.")
    for run in runs:
        made.pieces.append(_list(run.name, run.facts))
    made.pieces.append(_list("This report", own))
    return made


def _list(title: str, facts: dict[str, Any]) -> str:
    rows: dict[str, str] = {}
    for name, value in _flat(facts, "", 6):
        if len(rows) == _ROWS:
            rows["…"] = "more is in the file of the facts"
            break
        rows[name] = value
    return page.details(title, page.facts(rows))


def _flat(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """Names and values, with the names of what they lie in before theirs."""
    if isinstance(value, dict) and value and depth:
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip(), depth - 1)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value) and depth:
        for place, inner in enumerate(value, start=1):
            yield from _flat(inner, f"{name} {place}", depth - 1)
    elif isinstance(value, list):
        yield name, ", ".join(map(_text, value[:100]))
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return str(value)[:1000]
