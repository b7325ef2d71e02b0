"""The tables of docs/results.md, docs/linf_nets.md and the papers' pages, from docs/results.

    python benchmarks/results_table.py           # writes the tables into the pages
    python benchmarks/results_table.py --collect=runs   # first copies finished runs from a folder

A run keeps its flags, versions and commit (run.json), its History (history.json) and its errors
(results.json). `benchmarks/complete_column.py` adds the errors by complete verification
(complete.json).
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
_DOCS = _ROOT / "docs"
_BEGIN, _END = "<!-- tables: benchmarks/results_table.py -->", "<!-- end of tables -->"
_FILES = ("run.json", "history.json", "results.json")
_COMPLETE = "complete.json"  # Of some runs.

# Recipe (its name without "mnist_<eps>_") -> how the row is called, in the order of the table.
_ROWS = {
    "ibp": "IBP",
    "crown_ibp": "CROWN-IBP",
    "crown_ibp_fused": "CROWN-IBP, fused loss",
    "tight_base": "CROWN-IBP, backward bound to the end",
    "maar_ibp": "MAAR on IBP",
    "maar": "MAAR on CROWN-IBP",
    "tight_gap": "TightRelaxation, gap alone",
    "tight_feasibility": "TightRelaxation, infeasibility alone",
    "tight_both": "TightRelaxation, both",
    "tight_wk_base": "Wong-Kolter relaxation",
    "tight_wk_gap": "TightRelaxation on Wong-Kolter, gap alone",
    "tight_wk_feasibility": "TightRelaxation on Wong-Kolter, infeasibility alone",
    "tight_wk_both": "TightRelaxation on Wong-Kolter, both",
    "advibp": "AdvIBP",
    "ibp_fast": "IBP, short warm-up",
    "sabr": "SABR",
    "taps": "TAPS",
    "staps": "STAPS",
    "mtl_ibp": "MTL-IBP",
    "cc_ibp": "CC-IBP",
    "exp_ibp": "Exp-IBP",
    "linf": "l-inf distances, boosted",
    "linf_hinge": "l-inf distances, hinge",
}

# Methods that verify, in the order of the columns.
_METHODS = {
    "lipschitz": "margin rule",
    "ibp": "IBP",
    "fast-lin": "Wong-Kolter",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
}


# Radius, network, number of epochs, learning rate: what runs have to share to be compared.
Group = tuple[str, str, int, float]


def read_runs() -> dict[Group, dict[str, list[dict[str, Any]]]]:
    """All kept runs, one per seed, by recipe within their group.

    A folder is named as its flag file, with anything that tells runs apart behind "@".
    """
    runs: dict[Group, dict[str, list[dict[str, Any]]]] = {}
    for folder in sorted(_RUNS.glob("mnist_0.*")):
        parts = {
            name.removesuffix(".json"): json.loads((folder / name).read_text()) for name in _FILES
        }
        _, eps, recipe = folder.name.split("@")[0].split("_", 2)
        if recipe.startswith("linf"):
            continue
        if (folder / _COMPLETE).exists():
            parts["complete"] = json.loads((folder / _COMPLETE).read_text())
        settings = parts["run"]["flags"]
        group = eps, settings["model"], settings["epochs"], settings["learning_rate"]
        known = runs.setdefault(group, {})
        known.setdefault(recipe, []).append({**parts, "name": folder.name})
    return runs


def _base(recipe: str) -> str:
    """The recipe itself, or what it is a variant of."""
    return max((name for name in _ROWS if recipe.startswith(name)), key=len)


def _options(runs: Sequence[Mapping[str, Any]]) -> str:
    """The options of the objective that differ from its defaults."""
    given = runs[0]["run"]["flags"]["option"]
    latest = {option.split("=")[0]: option for option in given if option != "backward_weight=0.0"}
    return ", ".join(f"`{option}`" for option in latest.values())


def _title(recipe: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """The row's name; a variant is told by its options."""
    return _ROWS[recipe] if recipe in _ROWS else f"{_ROWS[_base(recipe)]}, {_options(runs)}"


def _spread(shares: Sequence[float]) -> str:
    """Mean over seeds in percent, with the range where there are several."""
    values = [100 * share for share in shares]
    text = f"{statistics.fmean(values):.2f}"
    if len(values) > 1:
        text += f" ({min(values):.2f} to {max(values):.2f})"
    return text


def _share(runs: Sequence[Mapping[str, Any]], pick: Any) -> str:
    """One of the errors, over the seeds."""
    return _spread([pick(run["results"]) for run in runs])


def _complete(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The error by complete verification, and the share that stays undecided.

    The seeds that count are those that are verified; images are counted where they are not all.
    """
    known = [run["complete"] for run in runs if "complete" in run]
    if not known:
        return ["", ""]
    cells = [_spread([each[name] for each in known]) for name in ("error", "undecided")]
    samples = min(each["samples"] for each in known)
    notes = [] if len(known) == len(runs) else [f"{len(known)} of {len(runs)} seeds"]
    if samples < runs[0]["results"]["samples"]:
        notes.append(f"first {samples:,} images")
    if notes:
        cells[0] += f" [{', '.join(notes)}]"
    return cells


def _in_order(recipes: Mapping[str, Any]) -> list[str]:
    """Recipes as they follow each other in tables; variants behind what they are variants of."""
    order = [*_ROWS]
    return sorted(recipes, key=lambda name: (order.index(_base(name)), name))


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The rows of one radius and network, in Markdown."""
    used = {
        method for known in runs.values() for run in known for method in run["results"]["methods"]
    }
    methods = [method for method in _METHODS if method in used]
    complete = any("complete" in run for known in runs.values() for run in known)
    titles = ["objective", "options", "trained at", "seeds", "clean", "PGD"]
    titles += [*(_METHODS[m] for m in methods), "room"]
    titles += [*(["complete", "undecided"] if complete else []), "minutes"]
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    for recipe in _in_order(runs):
        known = runs[recipe]
        cells = [_ROWS[_base(recipe)], _options(known)]
        cells += [f"{known[0]['run']['flags']['train_eps']:g}", str(len(known))]
        cells += [_share(known, lambda r: r["clean_error"])]
        cells.append(_share(known, lambda r: r["attack"]["error"]))
        for method in methods:
            if method in known[0]["results"]["methods"]:
                cells.append(_share(known, lambda r, m=method: r["methods"][m]["error"]))
            else:
                cells.append("")
        cells.append(_share(known, room))
        cells += _complete(known) if complete else []
        minutes = [run["run"]["training_seconds"] / 60 for run in known]
        cells.append(f"{statistics.fmean(minutes):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def room(results: Mapping[str, Any]) -> float:
    """The error by the best bound less that of PGD: no tighter bound can win more."""
    best = min(known["error"] for known in results["methods"].values())
    return best - results["attack"]["error"]


# Of a paper's page: its own recipes, those of its bases, and what is published, of the best network
# that is reported (the small one for CROWN-IBP at 0.1, else the large one): eps -> row -> clean,
# PGD and verified error in percent, "-" where the paper gives none.
_BASES = {
    "0.1": {"IBP": ("-", "-", 2.23), "CROWN-IBP": ("-", "-", 2.24)},
    "0.3": {"IBP": ("-", "-", 8.05), "CROWN-IBP": ("-", "-", 7.02)},
}
_PAPERS: dict[str, tuple[str, tuple[str, ...], dict[str, dict[str, tuple]]]] = {
    "paper_maar": ("maar", ("ibp", "crown_ibp"), _BASES),
    "paper_tightness": ("tight", ("crown_ibp",), {}),
    "paper_advibp": (
        "advibp",
        ("ibp", "crown_ibp"),
        {
            "0.1": {**_BASES["0.1"], "AdvIBP": (1.22, 1.57, 2.19)},
            "0.3": {**_BASES["0.3"], "AdvIBP": (1.90, 2.87, 6.60)},
        },
    ),
}


def paper_table(page: str) -> str:
    """The runs of one paper's method beside its bases, and the published errors."""
    own, bases, published = _PAPERS[page]
    titles = "| ε | network | epochs, rate | objective | seeds | clean | PGD | verified |"
    lines = [titles, "| --- " * 8 + "|"]
    every, seen = read_runs(), set()
    for group in sorted(every):
        runs, (eps, model, epochs, rate) = every[group], group
        if not any(recipe.startswith(own) for recipe in runs):
            continue
        seen.add(eps)
        for recipe in _in_order(runs):
            if not recipe.startswith(own) and recipe not in bases:
                continue
            known = runs[recipe]
            cells = [eps, model, f"{epochs} at {rate:g}", _title(recipe, known), str(len(known))]
            cells += [_share(known, lambda r: r["clean_error"])]
            cells += [_share(known, lambda r: r["attack"]["error"])]
            cells += [_share(known, lambda r: min(m["error"] for m in r["methods"].values()))]
            lines.append("| " + " | ".join(cells) + " |")
    for eps in sorted(seen & set(published)):
        for row, errors in published[eps].items():
            cells = [eps, "published", "-", row, "-", *map(str, errors)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# Published: data set and eps -> clean, PGD and certified accuracy at 5 or 6 layers of 5120 units.
_PUBLISHED = {
    ("mnist", 0.1): (98.93, 98.03, 97.95),
    ("mnist", 0.3): (98.56, 94.73, 93.20),
    ("cifar10", 8 / 255): (54.30, 41.84, 40.06),
}


def linf_table() -> str:
    """Accuracies of networks of distances, with the published ones."""
    lines = [
        "| data, ε | network | objective | epochs | clean | PGD | margin rule | intervals "
        "| minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    published: dict[tuple[str, float], str] = {}
    for folder in sorted(_RUNS.glob("*_linf*")):
        run, results = (
            json.loads((folder / name).read_text()) for name in ("run.json", "results.json")
        )
        settings = run["flags"]
        eps = results["eps"]
        shown = f"{eps:g}" if settings["dataset"] == "mnist" else f"{eps * 255:g}/255"
        what = f"{settings['dataset']}, {shown}"
        errors = [results["clean_error"], results["attack"]["error"]]
        errors += [results["methods"][method]["error"] for method in ("lipschitz", "ibp")]
        given = dict(option.split("=", 1) for option in settings["option"])
        loss = given.get("loss", "boosted")
        if "weight" in given:
            loss += f", `weight={given['weight']}`"
        # The images here went through JPEG once more.
        data = what.replace("cifar10", "cifar10 as JPEG")
        cells = [data, settings["model"], loss, str(settings["epochs"])]
        cells += [f"{100 * (1 - error):.2f}" for error in errors]
        cells.append(f"{run['training_seconds'] / 60:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
        key = (settings["dataset"], eps)
        if key in _PUBLISHED:
            clean, attacked, certified = _PUBLISHED[key]
            depth = 5 if settings["dataset"] == "mnist" else 6
            epochs = 450 if settings["dataset"] == "mnist" else 1300
            published[key] = (
                f"| {what} | published, {depth}x5120 | boosted | {epochs} | {clean} | {attacked} "
                f"| - | {certified:.2f} | - |"
            )
    return "\n".join([*lines, *published.values()]) + "\n"


def _rate(settings: Mapping[str, Any]) -> str:
    """The schedule of the learning rate in words."""
    if settings.get("decay") == "cosine":
        return "learning rate along half a cosine to 0"
    drops = " and ".join(settings["drops"])
    return f"learning rate times {settings['drop_factor']:g} after epochs {drops}"


def tables() -> str:
    """The part of the page that is written by this program."""
    runs = read_runs()
    lines = []
    for group in sorted(runs):
        known, (eps, model, epochs, rate) = runs[group], group
        example = next(iter(known.values()))[0]
        settings = example["run"]["flags"]
        lines += [
            f"## MNIST, ε = {eps}, {model}, {epochs} epochs at {rate:g}",
            "",
            f"Errors in percent on {example['results']['samples']:,} test images. "
            f"{example['run']['parameters']:,} parameters, "
            f"batch {settings['batch_size']}, {_rate(settings)}.",
            "",
            *table(known),
            "",
        ]
    return "\n".join(lines)


def collect(folder: pathlib.Path) -> None:
    """Copies what the tables need from finished runs."""
    found = {*folder.glob("mnist_0.*/results.json"), *folder.glob("*_linf*/results.json")}
    for results in sorted(found):
        target = _RUNS / results.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copy(results.with_name(name), target / name)
        if results.with_name(_COMPLETE).exists():
            shutil.copy(results.with_name(_COMPLETE), target / _COMPLETE)
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
    texts = {"results": tables(), "linf_nets": linf_table()}
    texts |= {page: paper_table(page) for page in _PAPERS}
    for page, text in texts.items():
        path = _DOCS / f"{page}.md"
        before, rest = path.read_text().split(_BEGIN)
        after = rest.split(_END)[1]
        path.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}")


if __name__ == "__main__":
    app.run(main)
