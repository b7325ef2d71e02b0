"""The head of a report: data set, model, region and training, as far as the facts say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tfcert.reporting import page, values
from tfcert.reporting.entries import Entries
from tfcert.reporting.runs import Run

__all__ = ["about", "eps_of"]

# How the facts of a run name its region.
_BALL = re.compile(r"LpBall\(eps=([0-9.]+(?:e[-+]?[0-9]+)?)([,)].*)", re.DOTALL)
_NORM = re.compile(r"norm=['\"]?([\w.]+)")
_CLIP = re.compile(r"clip=\(([-+0-9.e]+), ([-+0-9.e]+)\)")
_MOST = 4  # different values in a row


def about(logs: Iterable[Entries], runs: Iterable[Run], dataset: str | None = None) -> str:
    """The head of a page: what its logs and runs are about, as HTML; empty where nothing is known.

    Args:
        logs: Their facts, and those of the runs, are read; they are not ours to trust.
        runs: Training runs.
        dataset: What the data set is called where a log does not tell.
    """
    known: dict[str, dict[str, None]] = {}  # Values once each, in their order.
    for entries in logs:
        for name, value in _of_log(entries, dataset):
            known.setdefault(name, {})[value] = None
    for run in runs:
        for name, value in _of_run(run):
            known.setdefault(name, {})[value] = None
    rows = {}
    for name, found in known.items():
        shown = list(found)[:_MOST]
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        rows[name] = "; ".join(shown) + more
    return page.facts(rows) if rows else ""


def eps_of(entries: Entries) -> float | None:
    """The size of the region, as the facts of the run give it; None where they do not."""
    found = values.number(values.find(entries.facts, "eps"))
    if found is None and (ball := _BALL.fullmatch(region_of(entries))):
        try:
            found = float(ball[1])
        except ValueError:
            return None
    return found if found is not None and 0 <= found < float("inf") else None


def region_of(entries: Entries) -> str:
    """The region as the facts write it."""
    return str(entries.settings.get("region"))


def ball_without_eps(entries: Entries) -> str | None:
    """Returns a ball of the facts without its size, or None for another region."""
    ball = _BALL.fullmatch(region_of(entries))
    return ball[2] if ball else None


def _of_log(entries: Entries, dataset: str | None) -> Iterator[tuple[str, str]]:
    yield "Data set", _data(entries.facts or {}) or dataset or "not named by the log"
    model = _flag(entries.facts, "model_path")
    if model is None and isinstance(entries.hashes, dict) and "model" in entries.hashes:
        model = f"hash {str(entries.hashes['model'])[:12]}"
    if model is not None:
        yield "Model", str(model)
    if entries.kind == "smoothing":
        yield from _noise(entries)
        return
    yield "Changes of an input", _ball(entries)


def _noise(entries: Entries) -> Iterator[tuple[str, str]]:
    known = {"σ": "sigma", "samples": "n", "α": "alpha"}
    numbers = {name: values.number(entries.settings.get(key)) for name, key in known.items()}
    told = [f"{name} = {number:,g}" for name, number in numbers.items() if number is not None]
    kind = entries.settings.get("noise")
    if told or kind:
        yield "Noise", ", ".join([*([str(kind)] if kind else []), *told])


def _ball(entries: Entries) -> str:
    """The region in words."""
    region, eps = region_of(entries), eps_of(entries)
    told = "size not named by the log" if eps is None else f"ε = {eps:g}"
    norm = _NORM.search(region)
    named = norm[1] if norm else _flag(entries.facts, "norm")
    told += f" in the ℓ{_sign(named)} norm" if named is not None else ""
    if clip := _CLIP.search(region):
        low, high = (float(number) for number in clip.groups())
        told += f", values from {low:g} to {high:g}"
    return told


def _of_run(run: Run) -> Iterator[tuple[str, str]]:
    if (data := _data(run.facts)) is not None:
        yield "Data set", data
    for name, key in (("Model", "model"), ("Objective", "objective")):
        if (value := _flag(run.facts, key)) is not None:
            yield name, str(value)
    eps, sigma, train_eps = (
        values.number(_flag(run.facts, key)) for key in ("eps", "sigma", "train_eps")
    )
    if eps is not None:
        told = f"ε = {eps:g} in the ℓ{_sign(_flag(run.facts, 'norm') or 'inf')} norm"
        trained = train_eps is not None and train_eps != eps
        yield "Changes of an input", told + (f", trained at {train_eps:g}" if trained else "")
    if sigma is not None:
        yield "Noise", f"σ = {sigma:g}"


def _sign(norm: Any) -> str:
    return "∞" if str(norm) == "inf" else str(norm).removesuffix(".0")


def _data(facts: dict[str, Any]) -> str | None:
    """The data set's name with its part."""
    name = _flag(facts, "dataset")
    if name is None:
        name = facts.get("data") if isinstance(facts.get("data"), str) else facts.get("dataset")
        return None if name is None else str(name)
    split = _flag(facts, "split")
    return f"{name}, {split} part" if split else str(name)


def _flag(facts: dict[str, Any] | None, name: str) -> Any:
    """The value of a flag that the facts keep, or None."""
    found = (facts or {}).get("flags")
    return found.get(name) if isinstance(found, dict) else None
