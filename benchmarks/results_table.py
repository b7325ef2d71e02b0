"""The tables of docs/results.md, from the runs that are kept in docs/results.

    python benchmarks/results_table.py           # writes the tables into docs/results.md
    python benchmarks/results_table.py --collect=runs   # first copies finished runs from a folder

A run keeps its flags, versions and commit (run.json), its History (history.json) and its errors
(results.json).
"""

from __future__ import annotations

import json
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

_COLLECT = flags.DEFINE_string("collect", None, "Folder with runs of trainers/train.py.")

_ROOT = pathlib.Path(__file__).parents[1]
_RUNS = _ROOT / "docs" / "results"
_PAGE = _ROOT / "docs" / "results.md"
_BEGIN, _END = "<!-- tables: benchmarks/results_table.py -->", "<!-- end of tables -->"
_FILES = ("run.json", "history.json", "results.json")

# Recipe (its name without "mnist_<eps>_") -> how the row is called, in the order of the table.
_ROWS = {
    "ibp": "IBP",
    "crown_ibp": "CROWN-IBP",
    "tight_base": "CROWN-IBP, backward bound to the end",
    "maar_ibp": "MAAR on IBP",
    "maar": "MAAR on CROWN-IBP",
    "tight_gap": "TightRelaxation, gap alone",
    "tight_feasibility": "TightRelaxation, infeasibility alone",
    "tight_both": "TightRelaxation, both",
    "advibp": "AdvIBP",
}


def read_runs() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All kept runs by radius and recipe, one per seed."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for folder in sorted(_RUNS.iterdir()):
        parts = {
            name.removesuffix(".json"): json.loads((folder / name).read_text()) for name in _FILES
        }
        _, eps, recipe = folder.name.split("@")[0].split("_", 2)
        runs.setdefault((eps, recipe), []).append({**parts, "name": folder.name})
    return runs


def _share(runs: Sequence[Mapping[str, Any]], pick: Any) -> str:
    """Mean over seeds in percent, with the range where there are several."""
    values = [100 * pick(run["results"]) for run in runs]
    text = f"{statistics.fmean(values):.2f}"
    if len(values) > 1:
        text += f" ({min(values):.2f} to {max(values):.2f})"
    return text


def table(eps: str, runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    """The rows of one radius, in Markdown."""
    lines = [
        "| objective | seeds | clean | PGD | IBP | CROWN-IBP | CROWN | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, title in _ROWS.items():
        known = runs.get((eps, recipe))
        if not known:
            continue
        cells = [title, str(len(known)), _share(known, lambda r: r["clean_error"])]
        cells.append(_share(known, lambda r: r["attack"]["error"]))
        for method in ("ibp", "crown-ibp", "crown"):
            cells.append(_share(known, lambda r, m=method: r["methods"][m]["error"]))
        minutes = [run["run"]["training_seconds"] / 60 for run in known]
        cells.append(f"{statistics.fmean(minutes):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def tables() -> str:
    """The part of the page that is written by this program."""
    runs = read_runs()
    lines = []
    for eps in sorted({eps for eps, _ in runs}):
        example = next(runs[key][0] for key in runs if key[0] == eps)
        settings = example["run"]["flags"]
        lines += [
            f"## MNIST, ε = {eps}",
            "",
            f"Errors in percent on {example['results']['samples']:,} test images. "
            f"Model {settings['model']} ({example['run']['parameters']:,} parameters), "
            f"trained at {settings['train_eps']}, {settings['epochs']} epochs.",
            "",
            *table(eps, runs),
            "",
        ]
    return "\n".join(lines)


def collect(folder: pathlib.Path) -> None:
    """Copies what the tables need from finished runs."""
    for results in sorted(folder.glob("mnist_*/results.json")):
        target = _RUNS / results.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copy(results.with_name(name), target / name)
        # Where the data and the run lay on that machine says nothing to others.
        facts = json.loads((target / "run.json").read_text())
        facts["flags"].update(data_dir="data", out=f"runs/{target.name}")
        (target / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


def main(argv: Sequence[str]) -> None:
    """Writes the tables into the page."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if _COLLECT.value:
        collect(pathlib.Path(_COLLECT.value))
    page = _PAGE.read_text()
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{tables()}\n{_END}{after}")


if __name__ == "__main__":
    app.run(main)
