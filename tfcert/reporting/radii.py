"""The part of a report on certified radii."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import numpy as np

from tfcert.reporting import figures, page, part, statistics, tables
from tfcert.reporting.entries import Entries

__all__ = ["default_radii", "radii_part"]

_COLUMNS = 10  # radii in a table that nobody chose
_SIGN = {"smoothing": "r", "certify": "ε"}
# Settings of smoothing that must be the same where radii are compared.
_COMPARABLE = {
    "noise": "Radii of different kinds of noise are in different norms.",
    "n": "More samples give larger radii.",
    "alpha": "A larger alpha gives larger radii, but more of them are wrong.",
    "adaptive": "Adaptive sampling gives up a part of the radius for speed.",
}
_MEAN = {"smoothing": "ACR", "certify": "Mean ε"}


def default_radii(logs: Sequence[Entries]) -> list[float]:
    """From 0 to the largest certified radius in round steps, at most ten."""
    top = max(float(entries.robust_radius().max()) for entries in logs)
    if not 1e-30 < top < 1e30:  # Not a radius of any use.
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / _COLUMNS))
    steps = (factor * power for factor in (1, 2, 2.5, 5, 10, 20))
    step = next(step for step in steps if top / step < _COLUMNS)
    return [float(f"{step * place:.6g}") for place in range(int(top / step) + 1)]


def radii_part(logs: Sequence[Entries], radii: Sequence[float] | None) -> part.Part:
    """Certified accuracy over the radius, ACR and paired differences of logs of one kind.

    Args:
        logs: Logs with radii, all of smoothing or all of ``tfcert.certify``.
        radii: Where the table gives the certified accuracy; None chooses.
    """
    smoothing = logs[0].kind == "smoothing"
    radii = default_radii(logs) if radii is None else radii
    made = part.Part("Certified radii" if smoothing else "Largest verified ε")
    name = "smoothing" if smoothing else "eps"
    made.text(
        "An input counts at radius r if it is classified right and its certified radius is at "
        "least r. Each radius covers closer inputs, and holds with the probability of its log."
        if smoothing
        else "An input counts at ε if it is classified right and verified at ε or at a larger ε."
    )
    for words in _differences(logs):
        made.text(words, "note warning")
    made.figures([_curves(logs, made, f"{name}_curves")])
    made.table(_radii_table(logs, radii, f"{name}_radii"))
    if len(logs) > 1:
        _add_pairs(logs, radii, made, f"{name}_pairs")
    if smoothing:  # Verdicts have a table of classes of their own.
        made.table(_classes_table(logs))
    return made


def _differences(logs: Sequence[Entries]) -> Iterator[str]:
    """Warnings about logs whose radii are not comparable, as far as their facts are known."""
    for key, why in _COMPARABLE.items():
        known = {log.name: log.settings[key] for log in logs if key in log.settings}
        if len({str(value) for value in known.values()}) > 1:
            listed = ", ".join(f"{name}: {page.plain(str(v), 40)}" for name, v in known.items())
            yield f"The logs differ in {key} ({listed}). {why}"


def _curves(logs: Sequence[Entries], made: part.Part, name: str) -> str:
    grid = figures.grid(np.concatenate([entries.robust_radius() for entries in logs]))
    x, y = ("radius r", "certified") if logs[0].kind == "smoothing" else ("ε", "verified")
    with figures.new(x, f"{y} accuracy", percent=True) as (drawn, axes):
        for place, entries in enumerate(logs):
            found = statistics.certified_accuracy(entries, grid.tolist())
            value, error = np.array(found).T
            look = {**figures.look(place), "marker": ""}
            axes.plot(grid, value, label=figures.label(entries.name), **look)
            axes.fill_between(
                grid, value - error, value + error, color=look["color"], alpha=0.15, linewidth=0
            )
        axes.set_xlim(0, grid[-1])
        figures.legend(drawn)
        made.pictures[name] = figures.png(drawn)
        picture = figures.svg(drawn, f"{y.capitalize()} accuracy against the {x}")
    return page.figure(picture, "The shaded bands are one standard error wide on either side.")


def _radii_table(logs: Sequence[Entries], radii: Sequence[float], name: str) -> tables.Table:
    smoothing = logs[0].kind == "smoothing"
    sign = _SIGN[logs[0].kind]
    columns = [
        tables.Column("Log"),
        tables.Column("Inputs", "d"),
        tables.Column("Correct", ".1%", estimate=True),
        *([tables.Column("Abstained", ".1%")] if smoothing else []),
        tables.Column(_MEAN[logs[0].kind], ".3f", estimate=True),
        *(tables.Column(f"{sign} = {radius:g}", ".1%", estimate=True) for radius in radii),
    ]
    rows = [
        [
            entries.name,
            len(entries),
            statistics.share(entries.correct),
            *([float(entries.abstained.mean())] if smoothing else []),
            statistics.average_certified_radius(entries),
            *statistics.certified_accuracy(entries, radii),
        ]
        for entries in logs
    ]
    note = (
        f"{_MEAN[logs[0].kind]}: the mean over all inputs, with 0 where the classifier is wrong or "
        "abstains. After ±: the standard error, of the inputs taken as a random sample."
    )
    title = "Certified accuracy at radius r" if smoothing else "Verified accuracy at ε"
    return tables.Table(name, title, columns, rows, note)


def _add_pairs(logs: Sequence[Entries], radii: Sequence[float], made: part.Part, name: str) -> None:
    rows: list[list[object]] = []
    refused = []
    for first, second in itertools.combinations(logs, 2):
        try:
            found = statistics.paired_difference(first, second)
        except ValueError as error:
            refused.append(f"Not compared: {error}")
            continue
        shares = [
            statistics.paired_difference(first, second, operator.methodcaller("certified", radius))
            for radius in radii
        ]
        rows.append(
            [
                f"{first.name} − {second.name}",
                found.inputs,
                *(statistics.Estimate(d.value, d.error) for d in [found, *shares]),
            ]
        )
    sign = _SIGN[logs[0].kind]
    columns = [
        tables.Column("First − second"),
        tables.Column("Inputs of both", "d"),
        tables.Column(_MEAN[logs[0].kind], "+.3f", estimate=True),
        *(tables.Column(f"{sign} = {radius:g}", "+.1%", estimate=True) for radius in radii),
    ]
    note = (
        "The table shows differences on the inputs that both logs contain. After ±: the standard "
        "error of the mean difference, input by input. A difference below about two standard "
        "errors may be chance."
    )
    if rows:
        made.table(tables.Table(name, "Paired differences", columns, rows, note))
    for line in refused:
        made.text(line, "note warning")


def _classes_table(logs: Sequence[Entries]) -> tables.Table:
    several = len(logs) > 1
    columns = [tables.Column("Class", "d"), *([tables.Column("Log")] if several else [])]
    columns += [
        tables.Column("Inputs", "d"),
        tables.Column("Correct", ".1%", estimate=True),
        tables.Column("ACR", ".3f", estimate=True),
    ]
    rows = []
    for label in np.unique(np.concatenate([entries.label for entries in logs])):
        for entries in logs:
            chosen = entries.select(entries.label == label)
            if len(chosen):
                row = [int(label), *([entries.name] if several else []), len(chosen)]
                acr = statistics.average_certified_radius(chosen)
                rows.append([*row, statistics.share(chosen.correct), acr])
    return tables.Table("smoothing_classes", "By class", columns, rows)
