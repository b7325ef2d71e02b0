"""The part of a report on verdicts that bounds proved, and on what they could not decide."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcert import logs as log_format
from tfcert.reporting import about, figures, page, part, statistics, tables
from tfcert.reporting.about import eps_of
from tfcert.reporting.entries import Entries

__all__ = ["attacked", "summary_table", "verdicts_part"]

_BINS = 30
# From the cheapest to the dearest.
_CASCADE = (
    *("none", "fgsm", "pgd", "apgd"),
    *("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown"),
    *("attack", "boxes", "units", "rounding"),
)


def attacked(entries: Entries) -> np.ndarray:
    """Returns whether each input is right and without a counterexample."""
    return entries.correct & ~entries.verdicts("falsified")


def summary_table(logs: Sequence[Entries], name: str = "verdicts") -> tables.Table:
    """One row per log: clean, attacked and verified accuracy."""
    columns = [
        tables.Column("Log"),
        tables.Column("ε", "g"),
        tables.Column("Inputs", "d"),
        tables.Column("Clean", ".1%", estimate=True),
        tables.Column("Attacked", ".1%", estimate=True),
        tables.Column("Verified", ".1%", estimate=True),
        tables.Column("Unknown", ".1%"),
        tables.Column("Seconds", ".1f"),
        tables.Column("Median seconds", ".3f"),
    ]
    rows = [
        [
            entries.name,
            eps_of(entries),
            len(entries),
            statistics.share(entries.correct),
            statistics.share(attacked(entries)),
            statistics.share(entries.verdicts("verified")),
            float(entries.verdicts("unknown").mean()),
            float(entries.seconds.sum()),
            float(np.median(entries.seconds)),
        ]
        for entries in logs
    ]
    note = (
        "Clean: the share of inputs classified right. Attacked: right, and no counterexample was "
        "found. Verified: right, and proved to stay right in the whole region. The accuracy "
        "under the worst attack lies between the last two; unknown is their difference. After ±: "
        "the standard error, if the inputs are a random sample."
    )
    return tables.Table(name, "Accuracy", columns, rows, note)


def verdicts_part(logs: Sequence[Entries]) -> part.Part:
    """Accuracies, what decided, margins and classes of logs of ``tfcert.certify``."""
    made = part.Part("Verdicts")
    made.table(summary_table(logs))
    # Of one log at one eps the table says it all.
    drawn = [_curve(logs, made)] if sum(map(len, _points(logs).values())) > 1 else []
    made.figures([*drawn, *(_margins(entries, made) for entries in logs)])
    if len(logs) > 1:
        _add_pairs(logs, made)
    made.table(_methods_table(logs))
    made.table(_classes_table(logs))
    return made


def _points(logs: Sequence[Entries]) -> dict[str, list[Entries]]:
    """Logs with a known eps, by the model that they are about."""
    groups: dict[str, list[Entries]] = {}
    for entries in logs:
        if eps_of(entries) is not None:
            groups.setdefault(_model_of(entries), []).append(entries)
    return groups


def _model_of(entries: Entries) -> str:
    """What is the same in logs that differ in eps alone; a digest of the facts."""
    hashes = entries.hashes if isinstance(entries.hashes, dict) else {}
    known = {
        # Without a hash every log is about a model of its own.
        "model": hashes.get("model", str(entries.path)),
        "data": hashes.get("data"),
        "method": entries.settings.get("method"),
        "region": about.ball_without_eps(entries),
    }
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _curve(logs: Sequence[Entries], made: part.Part) -> str:
    with figures.new("ε", "accuracy", percent=True) as (drawn, axes):
        for place, group in enumerate(_points(logs).values()):
            look = figures.look(place)
            ordered = sorted(group, key=lambda entries: eps_of(entries) or 0.0)
            sizes = figures.drawable(np.array([0.0, *(eps_of(entries) for entries in ordered)]))
            clean = float(ordered[0].correct.mean())
            verified = [float(entries.verdicts("verified").mean()) for entries in ordered]
            broken = [float(attacked(entries).mean()) for entries in ordered]
            name = _common([entries.name for entries in ordered])
            several = len(ordered) > 1  # Two points are no curve.
            look["linestyle"] = look["linestyle"] if several else ""
            axes.plot(sizes, [clean, *verified], label=figures.label(f"{name}: verified"), **look)
            look |= {"linestyle": ":" if several else "", "markerfacecolor": "none"}
            axes.plot(sizes, [clean, *broken], label=figures.label(f"{name}: attacked"), **look)
        axes.set_xlim(left=0)
        figures.legend(drawn)
        made.pictures["verdicts_curves"] = figures.png(drawn)
        picture = figures.svg(drawn, "Verified and attacked accuracy against eps")
    lines = any(len(group) > 1 for group in _points(logs).values())
    caption = (
        "The points at ε = 0 are the clean accuracy. Full marks are verified, empty marks "
        "attacked accuracies."
    )
    return page.figure(picture, caption + " Lines join the measured points." * lines)


def _common(names: Sequence[str]) -> str:
    """What the names of logs begin with, without the start of the eps that tells them apart."""
    shared = re.sub(r"[-_=. ]*[0-9.]*$", "", os.path.commonprefix(list(names)))
    return shared if len(names) > 1 and shared else names[0]


def _margins(entries: Entries, made: part.Part) -> str:
    assert entries.margin is not None and entries.verdict is not None
    verdict, right = entries.verdict, entries.correct
    finite = np.isfinite(entries.margin) & right
    margin = figures.drawable(entries.margin)
    title = f"lower bound of the margin\n{figures.label(entries.name)}"
    shown = [name for name in log_format.VERDICTS if (finite & (verdict == name)).any()]
    low, most, high = np.quantile(margin[finite], [0, 0.02, 1]) if finite.any() else (0, 0, 1)
    # A handful of very loose bounds must not squeeze all others into one bar.
    low = max(low, most - (high - most) / 2)
    step = (high - low) / _BINS if high - low > 1e-9 * abs(high) else max(1.0, abs(high))
    # With an edge at 0, so that no bar holds verified and other inputs.
    edges = np.arange(np.floor(low / step), np.ceil(high / step) + 1.5) * step
    with figures.new(title, "inputs", counts=True) as (drawn, axes):
        if shown:  # Else all bounds are infinite.
            axes.hist(
                [np.maximum(margin[finite & (verdict == name)], edges[0]) for name in shown],
                bins=edges,
                stacked=True,
                color=[figures.VERDICT_COLORS[name] for name in shown],
                label=shown,
            )
        axes.axvline(0.0, color=figures.look(7)["color"], linewidth=1)
        figures.legend(drawn)
        picture = figures.svg(drawn, f"Histogram of the margins of {page.plain(entries.name)}")
    note = (
        "The histogram counts inputs classified right. Inputs above 0 are verified. For a "
        "falsified input, it uses the margin at the counterexample."
    )
    if left_out := int(np.sum(right & ~finite)):
        note += f" Without {left_out} inputs without a finite bound."
    if (margin[finite] < edges[0]).any():
        note += " The leftmost bar also counts all smaller margins."
    return page.figure(picture, note)


def _add_pairs(logs: Sequence[Entries], made: part.Part) -> None:
    rows: list[list[object]] = []
    kinds = {
        "Clean": lambda entries: entries.correct,
        "Attacked": attacked,
        "Verified": lambda entries: entries.verdicts("verified"),
    }
    for first, second in itertools.combinations(logs, 2):
        if eps_of(first) != eps_of(second):
            continue
        try:
            found = [statistics.paired_difference(first, second, kind) for kind in kinds.values()]
        except ValueError as error:
            made.text(f"Not compared: {error}", "note warning")
            continue
        estimates = [statistics.Estimate(each.value, each.error) for each in found]
        rows.append([f"{first.name} − {second.name}", found[0].inputs, *estimates])
    columns = [tables.Column("First − second"), tables.Column("Inputs of both", "d")]
    columns += [tables.Column(kind, "+.1%", estimate=True) for kind in kinds]
    note = (
        "The table shows differences of logs at the same ε, on the inputs that both logs "
        "contain. After ±: the standard error of the mean difference, input by input."
    )
    if rows:
        made.table(tables.Table("verdicts_pairs", "Paired differences", columns, rows, note))


def _methods_table(logs: Sequence[Entries]) -> tables.Table:
    several = len(logs) > 1
    columns = [tables.Column("Decided by"), *([tables.Column("Log")] if several else [])]
    columns += [tables.Column(verdict.capitalize(), "d") for verdict in log_format.VERDICTS]
    columns += [tables.Column("Seconds", ".2f"), tables.Column("Median seconds", ".4f")]
    rows = []
    for entries in logs:
        assert entries.method is not None
        for method in sorted(set(entries.method.tolist()), key=_effort):
            chosen = entries.select(entries.method == method)
            counts = [int(chosen.verdicts(verdict).sum()) for verdict in log_format.VERDICTS]
            seconds = [float(chosen.seconds.sum()), float(np.median(chosen.seconds))]
            rows.append([method, *([entries.name] if several else []), *counts, *seconds])
    note = (
        "An unknown input counts for the method with the best bound. The row none counts inputs "
        "that the prediction decided, or that no method had time for."
    )
    return tables.Table("methods", "Inputs decided by each method", columns, rows, note)


def _effort(method: str) -> tuple[int, str]:
    """A key that sorts methods as the cascade goes, others behind them."""
    return (_CASCADE.index(method) if method in _CASCADE else len(_CASCADE), method)


def _classes_table(logs: Sequence[Entries]) -> tables.Table:
    several = len(logs) > 1
    with_radius = any(entries.radius is not None for entries in logs)
    columns = [tables.Column("Class", "d"), *([tables.Column("Log")] if several else [])]
    columns += [tables.Column("Inputs", "d")]
    columns += [tables.Column(kind, ".1%") for kind in ("Clean", "Attacked", "Verified")]
    columns += [tables.Column("Mean ε", ".3f", estimate=True)] if with_radius else []
    rows = []
    for label in np.unique(np.concatenate([entries.label for entries in logs])):
        for entries in logs:
            chosen = entries.select(entries.label == label)
            if len(chosen) == 0:
                continue
            row: list[Any] = [int(label), *([entries.name] if several else []), len(chosen)]
            shares = (chosen.correct, attacked(chosen), chosen.verdicts("verified"))
            row += [float(chosen_share.mean()) for chosen_share in shares]
            if with_radius:
                known = entries.radius is not None
                row.append(statistics.average_certified_radius(chosen) if known else None)
            rows.append(row)
    return tables.Table("classes", "By class", columns, rows)
