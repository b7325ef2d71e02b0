"""Writes the tables of docs/benchmarks.md from the measurements in benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

_RESULTS = pathlib.Path(__file__).parent / "results"
_PAGE = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks.md"

_METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


def _facts(report: Mapping[str, Any]) -> str:
    facts = report["facts"]
    names = ("processor", "cores", "backend", "auto_LiRPA", "torch", "commit")
    known = [f"{name} {facts[name]}" for name in names if name in facts]
    return f"Measured with `{facts['command']}` ({', '.join(known)})."


def _cell(row: Mapping[str, Any]) -> str:
    ours, times = row["tfcert_median"], row["times_faster"]
    if ours is None:
        return "-"
    return f"{ours:.3g}" + (f" (×{times:.2g})" if times is not None else " (-)")


def bounds_table() -> str:
    """Milliseconds per call, and how many times as long the peer takes."""
    report = json.loads((_RESULTS / "bounds_cpu.json").read_text())
    rows = {(r["network"], r["batch"], r["method"]): r for r in report["rows"]}
    lines = [
        "| network | batch | IBP | CROWN-IBP | CROWN | α-CROWN(20) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for network, batch in dict.fromkeys((r["network"], r["batch"]) for r in report["rows"]):
        cells = [_cell(rows[network, batch, method]) for method in _METHODS]
        lines.append(f"| {network} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join([_facts(report), "", *lines])


def training_table() -> str:
    """Milliseconds per training step, as multiples of a plain one, and the peer's."""
    path = _RESULTS / "training_cpu.json"
    report = json.loads(path.read_text())
    lines = [
        "| objective | batch | ms | samples/s | × plain | peer ms | peer × plain | times as fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    plain = {r["batch"]: r for r in report["rows"] if r["objective"] == "plain"}
    for row in report["rows"]:
        base, ours, peer = plain[row["batch"]], row["tfcert_ms"], row["peer_ms"]
        cells = [row["objective"], str(row["batch"]), f"{ours:.1f}"]
        cells += [f"{row['tfcert_samples_per_second']:.0f}", f"{ours / base['tfcert_ms']:.1f}"]
        if peer is None:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{peer:.1f}", f"{peer / base['peer_ms']:.1f}", f"{peer / ours:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([_facts(report), "", *lines])


TABLES = {"bounds": bounds_table, "training": training_table}


def page(text: str) -> str:
    """The page with all tables written anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def main(argv: Sequence[str]) -> None:
    """Writes the page."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    _PAGE.write_text(page(_PAGE.read_text()))


if __name__ == "__main__":
    app.run(main)
