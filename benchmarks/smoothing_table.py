"""The tables of docs/paper_consistency.md, from the runs kept in docs/results.

    python benchmarks/smoothing_table.py                  # writes the tables into the page
    python benchmarks/smoothing_table.py --collect=runs   # first copies finished runs from a folder

A run is a folder of trainers/train.py, named as its flag file (mnist_sigma0.5_consistency), with
anything that tells runs apart behind "@", and has logs of trainers/certify.py --method=smoothing in
it: n10000.tsv, n100000.tsv, by their n. Runs of as many epochs share a table.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from tfcert import reporting

_COLLECT = flags.DEFINE_string("collect", None, "Folder with runs and their logs.")

_ROOT = pathlib.Path(__file__).parents[1]
_RUNS = _ROOT / "docs" / "results"
_PAGE = _ROOT / "docs" / "paper_consistency.md"
_BEGIN, _END = "<!-- tables: benchmarks/smoothing_table.py -->", "<!-- end of tables -->"

_METHODS = {
    "gaussian": "Gaussian",
    "stability": "Stability",
    "smoothadv": "SmoothAdv",
    "macer": "MACER",
    "consistency": "Gaussian + consistency",
    "smoothadv_consistency": "SmoothAdv + consistency",
}
_RADII = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
# Published: sigma -> method -> average certified radius on all test images, n = 100,000.
_PUBLISHED = {
    0.25: {
        "gaussian": 0.911,
        "stability": 0.915,
        "smoothadv": 0.932,
        "macer": 0.920,
        "consistency": 0.928,
        "smoothadv_consistency": 0.932,
    },
    0.5: {
        "gaussian": 1.558,
        "stability": 1.572,
        "smoothadv": 1.687,
        "macer": 1.590,
        "consistency": 1.655,
        "smoothadv_consistency": 1.696,
    },
    1.0: {
        "gaussian": 1.618,
        "stability": 1.634,
        "smoothadv": 1.779,
        "macer": 1.595,
        "consistency": 1.738,
        "smoothadv_consistency": 1.816,
    },
}


def read_logs() -> dict[tuple[float, int, int], dict[str, tuple[dict[str, Any], Any]]]:
    """The facts of each run and its log, by method within sigma, n and epochs."""
    logs: dict[tuple[float, int, int], dict[str, tuple[dict[str, Any], Any]]] = {}
    for path in sorted(_RUNS.glob("mnist_sigma*/n*.tsv")):
        name = path.parent.name.split("@")[0]
        sigma, method = name.removeprefix("mnist_sigma").split("_", 1)
        run = json.loads((path.parent / "run.json").read_text())
        settings = json.loads(path.with_name(path.name + ".json").read_text())["settings"]
        known = logs.setdefault((float(sigma), settings["n"], run["flags"]["epochs"]), {})
        if method in known or settings["alpha"] != 0.001 or settings["adaptive"]:
            raise ValueError(f"{path} does not fit into the tables: one log a method, alpha 0.001.")
        known[method] = run, reporting.read(path, _METHODS[method])
    return logs


def _row(sigma: float, method: str, n: int, logs: dict[str, tuple[dict[str, Any], Any]]) -> str:
    run, entries = logs[method]
    acr = reporting.average_certified_radius(entries)
    cells = [_METHODS[method], f"{acr.value:.3f} ± {acr.error:.3f}"]
    if method == "gaussian" or "gaussian" not in logs:
        cells.append("")
    else:
        more = reporting.paired_difference(entries, logs["gaussian"][1])
        cells.append(f"{more.value:+.4f} ± {more.error:.4f}")
    shares = reporting.certified_accuracy(entries, _RADII)
    cells += [f"{100 * share.value:.1f}" if share.value else "" for share in shares]
    cells += [f"{run['training_seconds'] / 60:.0f}"]
    cells.append(f"{_PUBLISHED[sigma][method]:.3f}" if n == 100_000 else "")
    return "| " + " | ".join(cells) + " |"


def tables() -> str:
    """The part of the page that is written by this program."""
    lines: list[str] = []
    radii = [f"{radius:g}" for radius in _RADII]
    titles = ["training", "ACR", "minus Gaussian", *radii, "minutes", "published ACR"]
    tables = sorted(read_logs().items(), key=lambda item: (item[0][0], -item[0][1], -item[0][2]))
    for (sigma, n, epochs), logs in tables:
        _, entries = next(iter(logs.values()))
        lines += [
            f"### σ = {sigma:g}, {epochs} epochs, n = {n:,}",
            "",
            f"{len(entries)} test images.",
            "",
            "| " + " | ".join(titles) + " |",
            "| " + " | ".join("---" for _ in titles) + " |",
            *(_row(sigma, method, n, logs) for method in _METHODS if method in logs),
            "",
        ]
    return "\n".join(lines) if lines else "No runs are kept yet.\n"


def _check_model(target: pathlib.Path, facts: dict[str, Any]) -> None:
    """Raises where logs of another model are kept under the name of this one."""
    for path in sorted(target.glob("n*.tsv.json")):
        if json.loads(path.read_text())["hashes"]["model"] != facts["hashes"]["model"]:
            raise ValueError(
                f"{path} is of another model than the new logs. Tell the runs apart by what is "
                'behind "@" in their names, or remove the old ones.'
            )


def collect(folder: pathlib.Path) -> None:
    """Copies what the tables need from runs with finished logs."""
    for log in sorted(folder.glob("mnist_sigma*/n*.tsv")):
        target = _RUNS / log.parent.name
        facts = json.loads(log.with_name(log.name + ".json").read_text())
        finished = len(reporting.read(log, log.parent.name)), facts["inputs"]
        if finished[0] < finished[1]:
            print(f"{log} is left out: {finished[0]} of its {finished[1]} images are done.")
            continue
        target.mkdir(parents=True, exist_ok=True)
        _check_model(target, facts)
        shutil.copy(log, target)
        shutil.copy(log.parent / "history.json", target)
        # Where the data and the run lay on that machine says nothing to others.
        facts["flags"].update(
            data_dir="data",
            model_path=f"runs/{target.name}/model.keras",
            out=f"runs/{target.name}/{log.name}",
        )
        (target / (log.name + ".json")).write_text(json.dumps(facts, indent=1) + "\n")
        run = json.loads((log.parent / "run.json").read_text())
        run["flags"].update(data_dir="data", out=f"runs/{target.name}")
        (target / "run.json").write_text(json.dumps(run, indent=1) + "\n")


def main(argv: Sequence[str]) -> None:
    """Writes the tables into the page."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if _COLLECT.value:
        collect(pathlib.Path(_COLLECT.value))
    before, rest = _PAGE.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{tables()}\n{_END}{after}")


if __name__ == "__main__":
    app.run(main)
