"""Logs and training runs to one page, with its tables and figures as files beside it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from tfcert.logs.writing import write_whole
from tfcert.reporting import (
    about,
    examples,
    facts,
    page,
    part,
    radii,
    runs,
    statistics,
    verdicts,
)
from tfcert.reporting import entries as entries_module
from tfcert.reporting import training as training_module

__all__ = ["Sources", "load", "write"]


@dataclasses.dataclass(frozen=True)
class Sources:
    """The sources of a report: logs and training runs."""

    smoothing: list[entries_module.Entries]
    certify: list[entries_module.Entries]
    runs: list[runs.Run]

    @property
    def logs(self) -> list[entries_module.Entries]:
        """The logs of both kinds."""
        return [*self.certify, *self.smoothing]


def load(paths: Sequence[str], names: Sequence[str] | None = None) -> Sources:
    """Reads logs and folders of training runs.

    Args:
        paths: Logs of either kind and folders with a run.json. Files named like
            "run.tsv-00002-of-00008" are parts of one log, and all of them are wanted.
        names: What to call them. Default: file names, with folders where names meet.

    Raises:
        ValueError: Nothing is given, something is given twice, or a file is malformed.
    """
    if not paths:
        raise ValueError("`paths` must name at least one log file or run folder. Received: none.")
    places = [os.path.realpath(path) for path in paths]
    twice = [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ValueError(f"`paths` must name each log once. Received: {', '.join(twice)}.")
    groups = _groups(paths)
    if names is None:
        names = _names([os.path.realpath(path) for path in groups])
    if len(names) != len(groups) or len(set(names)) != len(names):
        raise ValueError(
            f"`names` must be {len(groups)} different names. Received: names={list(names)}."
        )
    found = Sources([], [], [])
    for (path, files), name in zip(groups.items(), names, strict=True):
        if os.path.isdir(path):
            found.runs.append(runs.read_run(path, name))
            continue
        if files == [path]:
            entries = entries_module.read(path, name)
        else:
            entries = entries_module.join(path, files, name)
        (found.certify if entries.kind == "certify" else found.smoothing).append(entries)
    return found


# The part of a log that a run on several machines leaves, "run.tsv-00002-of-00008".
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)?", re.DOTALL)


def _groups(paths: Sequence[str]) -> dict[str, list[str]]:
    """The files of each source, by the path of the whole."""
    groups: dict[str, list[str]] = {}
    parts: dict[str, list[tuple[int, int]]] = {}
    for path in paths:
        shard = None if os.path.isdir(path) else _SHARD.fullmatch(path)
        whole = shard[1] + (shard[4] or "") if shard else path
        groups.setdefault(whole, []).append(path)
        if shard:
            parts.setdefault(whole, []).append((int(shard[2]), int(shard[3])))
    for whole, found in parts.items():
        total = found[0][1]
        if len(groups[whole]) != total or set(found) != {(i, total) for i in range(total)}:
            raise ValueError(
                f"{whole} has {total} parts, and all parts are required. Received: "
                f"{', '.join(groups[whole])}."
            )
    return groups


_ENDINGS = (".tsv", ".txt", ".log", ".csv")


def _names(places: Sequence[str]) -> list[str]:
    """As much of each path's end as tells it from the others."""
    whole = [pathlib.Path(place) for place in places]
    # Of folders such as ibp_0.1 nothing is an ending.
    short = [path.with_suffix("") if path.suffix in _ENDINGS else path for path in whole]
    split = [path.parts[1:] or ("log",) for path in short]
    for length in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-length:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def write(
    sources: Sources,
    out: pathlib.Path,
    title: str | None = None,
    radii_shown: Sequence[float] | None = None,
    inputs: examples.Inputs | None = None,
    gallery: int = 8,
    dataset: str | None = None,
    classify: examples.Classify | None = None,
    own_facts: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes index.html, figures (PNG) and tables (CSV and LaTeX) into a folder.

    Args:
        sources: What `load` read.
        out: The folder; it is made.
        title: Of the page; None for one that fits the sources.
        radii_shown: Radii of the tables; None chooses.
        inputs: The data that the logs are about, for the pictures.
        gallery: Pictures of each kind; 0 for none.
        dataset: What the data set is called, for logs that do not name it.
        classify: The classes that the logs' model gives inputs, to caption counterexamples.
        own_facts: Shown as the facts of the report.
        overwrite: Whether files of the same names may be replaced.

    Returns:
        The files, the page first.

    Raises:
        ValueError: A file is there already, or the inputs are not those of the logs.
    """
    parts = _parts(sources, radii_shown, inputs, gallery, classify, own_facts or {})
    files: dict[str, bytes] = {}
    for table in itertools.chain.from_iterable(made.tables for made in parts):
        files[f"{table.name}.csv"] = table.csv().encode()
        files[f"{table.name}.tex"] = table.latex().encode()
    for made in parts:
        files |= {f"{name}.png": data for name, data in made.pictures.items()}
    title = _title(sources) if title is None else title
    text = page.document(title, _lead(sources, dataset), [made.section() for made in parts])
    # Last: where there is a page, there is all that belongs to it.
    files["index.html"] = text.encode()
    there = [name for name in reversed(files) if (out / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{out} already has {', '.join(there[:3])}{' and more' * (len(there) > 3)}. Choose "
            "another folder, or overwrite the files: overwrite=True, or --overwrite."
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_whole(out / name, data)
    return [out / name for name in reversed(files)]


def _parts(
    sources: Sources,
    radii_shown: Sequence[float] | None,
    inputs: examples.Inputs | None,
    gallery: int,
    classify: examples.Classify | None,
    own: dict[str, Any],
) -> list[part.Part]:
    found = []
    if sources.certify:
        found.append(verdicts.verdicts_part(sources.certify))
    for group in (sources.certify, sources.smoothing):
        with_radius = [entries for entries in group if entries.radius is not None]
        if with_radius:
            found.append(radii.radii_part(with_radius, radii_shown))
    if sources.runs:
        found.append(training_module.training_part(sources.runs))
    if gallery and sources.logs:
        found.append(examples.examples_part(sources.logs, inputs, gallery, classify))
    found.append(facts.facts_part(sources.logs, sources.runs, own))
    return found


def _title(sources: Sources) -> str:
    """What the sources are, as a title."""
    if not sources.logs:
        return "Training report"
    return "Training and certification report" if sources.runs else "Certification report"


def _lead(sources: Sources, dataset: str | None) -> str:
    """What the page is about, the main numbers of one log, and what was wrong with any."""
    numbers: list[tuple[str, str]] = []
    if len(sources.logs) == 1:
        (entries,) = sources.logs
        numbers = [("Inputs", f"{len(entries):,}")]
        if entries.verdict is not None:
            shares = {
                "Clean accuracy": entries.correct,
                "Attacked accuracy": verdicts.attacked(entries),
                "Verified accuracy": entries.verdicts("verified"),
            }
        else:
            shares = {"Correct": entries.correct, "Abstained": entries.abstained}
            acr = statistics.average_certified_radius(entries)
            numbers.append(("ACR", f"{acr.value:.3f} ± {acr.error:.3f}"))
        numbers += [(name, f"{chosen.mean():.1%}") for name, chosen in shares.items()]
    boxes = "".join(
        f"<div><dt>{page.escape(name)}</dt><dd>{page.escape(value)}</dd></div>"
        for name, value in numbers
    )
    lines = [about.about(sources.logs, sources.runs, dataset)]
    lines += [f'<dl class="numbers">{boxes}</dl>'] if boxes else []
    lines += [
        f'<p class="note warning">{page.escape(entries.name)} ends in the middle of a line, as a '
        "run does that was stopped; that line is left out.</p>"
        for entries in sources.logs
        if entries.cut
    ]
    return "\n".join(lines)
