"""The part of a report on training runs: errors at the end and the way there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfcert.reporting import figures, history, page, part, tables
from tfcert.reporting.runs import Run

__all__ = ["training_part"]


def training_part(runs: Sequence[Run]) -> part.Part:
    """Results on the test set and curves over epochs."""
    made = part.Part("Training")
    made.table(_results_table(runs))
    curves = [_accuracies(runs), _losses(runs), _radius(runs)]
    made.figures([curve for curve in curves if curve])
    return made


def _results_table(runs: Sequence[Run]) -> tables.Table:
    methods = dict.fromkeys(
        str(name) for run in runs for name in run.results.get("methods", {})
    )  # In the order of the files.
    kinds = {"Under noise": ("noisy_error",), "Attacked": ("attack", "error")}
    kinds = {
        name: keys
        for name, keys in kinds.items()
        if any(run.error(*keys) is not None for run in runs)
    }
    columns = [
        tables.Column("Run"),
        tables.Column("ε", "g"),
        tables.Column("Inputs", ".0f"),
        tables.Column("Clean", ".2%"),
        *(tables.Column(name, ".2%") for name in kinds),
        *(tables.Column(f"Verified, {method}", ".2%") for method in methods),
        tables.Column("Epochs", "d"),
        tables.Column("Minutes", ".1f"),
    ]
    rows = []
    for run in runs:
        errors = [run.error("clean_error"), *(run.error(*keys) for keys in kinds.values())]
        errors += [run.error("methods", method, "error") for method in methods]
        epochs = max(map(len, run.history.values()), default=0)
        seconds = run.history.get("seconds")
        rows.append(
            [
                run.name,
                run.error("eps"),
                run.error("samples"),
                *(None if error is None else 1 - error for error in errors),
                epochs,
                None if seconds is None else float(seconds.sum()) / 60,
            ]
        )
    note = (
        "Clean: the share of test inputs that the trained model classifies right. Under noise: "
        "the same with one draw of the noise. Attacked: right, and no counterexample was found. "
        "Verified: right, and proved by the method to stay right within ε."
    )
    return tables.Table("training", "Accuracy after training", columns, rows, note)


def _accuracies(runs: Sequence[Run]) -> str:
    kinds = {
        "val_accuracy": (":", "correct"),
        "val_noisy_accuracy": ("--", "correct under noise"),
        "val_verified_accuracy": ("-", "verified"),
    }
    with figures.new("epoch", "share of the test inputs", percent=True) as (drawn, axes):
        for place, run in enumerate(runs):
            for key, (dashes, kind) in kinds.items():
                values = _drawn(run, key)
                if values is not None:
                    look = {**figures.look(place), "linestyle": dashes, "marker": ""}
                    name = figures.label(f"{run.name}: {kind}")
                    axes.plot(np.arange(1, len(values) + 1), values, label=name, **look)
        figures.legend(drawn)
        picture = figures.svg(drawn, "Accuracy and verified accuracy over the epochs")
    caption = "The accuracies are measured after every epoch, at the radius of the test."
    return page.figure(picture, caption) if axes.lines else ""


def _drawn(run: Run, key: str) -> np.ndarray | None:
    return figures.drawable(run.history[key]) if key in run.history else None


def _losses(runs: Sequence[Run]) -> str:
    """The loss of several runs, or the terms of one."""
    with figures.new("epoch", "loss in training") as (drawn, axes):
        for start, run in enumerate(runs):
            terms = history.loss_terms(run.history)
            if len(runs) > 1:
                terms = [key for key in terms if key == "loss"]
            for place, key in enumerate(terms, start=start):
                values = figures.drawable(run.history[key])
                name = figures.label(key if len(runs) == 1 else run.name)
                look = {**figures.look(place), "marker": ""}
                axes.plot(np.arange(1, len(values) + 1), values, label=name, **look)
        figures.legend(drawn)
        picture = figures.svg(drawn, "The loss over the epochs")
    return page.figure(picture, "The loss is the sum of its terms.") if axes.lines else ""


def _radius(runs: Sequence[Run]) -> str:
    with figures.new("epoch", "ε in training") as (drawn, axes):
        for place, run in enumerate(runs):
            values = _drawn(run, "eps")
            if values is not None:
                look = {**figures.look(place), "marker": ""}
                name = figures.label(run.name)
                axes.plot(np.arange(1, len(values) + 1), values, label=name, **look)
        figures.legend(drawn)
        picture = figures.svg(drawn, "The training radius over the epochs")
    return page.figure(picture, "The training radius grows along a ramp.") if axes.lines else ""
