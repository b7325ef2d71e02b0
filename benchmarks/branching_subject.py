"""tfcert's side of the benchmark of branch and bound: parts of a problem, and their bounds."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Question", "facts", "measure", "timed"]

_SHIFT = 10.0


class Question(NamedTuple):
    """One row of the table: an instance and how its parts are bounded.

    Attributes:
        network: An ONNX file.
        property: A VNN-LIB file.
        boxes: Whether inputs are split; units otherwise.
        parts: The number of parts that are bounded together.
        repeats: How often.
        batch: The parts, as tfcert gives them to the peer.
    """

    network: pathlib.Path
    property: pathlib.Path
    boxes: bool
    parts: int
    repeats: int
    batch: dict[str, Any] | None = None


def facts() -> dict[str, str]:
    """Versions."""
    import keras

    return {"backend": keras.backend.backend(), "keras": keras.__version__}


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of a call, the median after calls that may compile."""
    for _ in range(2):
        call()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(question: Question) -> dict[str, Any]:
    """Seconds that bounds of a batch of parts take, by method, their means, and the parts."""
    from tfcert import interchange, methods
    from tfcert.branching.boxes import BoxSplitter
    from tfcert.branching.units import UnitSplitter
    from tfcert.network import network_of

    model = interchange.load_onnx(question.network, "float32")
    asked = interchange.read_vnnlib(question.property)
    problems = asked.problems(network_of(model).input.shape, "float32")
    if question.boxes:
        boxes = BoxSplitter(model, problems, methods.Crown(), batch=question.parts)
        boxes._large = question.repeats + 10  # A long search: its batches are compiled.
        parts = _parts(boxes, question.parts)
        state = parts.state
        batch = {"lower": state["lower"], "upper": state["upper"]}
        batch["rows"] = np.stack([problems[owner].question.rows for owner in parts.owner])
        # Bounds of the box that a part was cut from would spare some work of the first call.
        unknown = [
            (np.full_like(low, -np.inf), np.full_like(high, np.inf))
            for low, high in state["hidden"]
        ]
        parts.state = {**state, "hidden": unknown}
        found = {"crown": timed(lambda: boxes.bound(parts), question.repeats)}
        margins = boxes.bound(parts).lower
        offsets = np.stack([problems[owner].question.offsets for owner in parts.owner])
        return {"seconds": found, "means": {"crown": _mean(margins - offsets)}, "batch": batch}
    units = UnitSplitter(model, problems, batch=question.parts)
    parts = _parts(units, question.parts)
    inputs = units._inputs(parts)
    # Margins that are never proved: the ascent of neither side ends early.
    inputs = inputs._replace(offsets=inputs.offsets - _SHIFT)
    found = {
        "crown": timed(lambda: units.bounder.try_out(inputs), question.repeats),
        "optimised": timed(lambda: units.bounder.bound(inputs), question.repeats),
    }
    offsets = inputs.offsets
    means = {
        "crown": _mean(units.bounder.try_out(inputs) - offsets),
        "optimised": _mean(units.bounder.bound(inputs).lower - offsets),
    }
    batch = {"lower": inputs.lower, "upper": inputs.upper, "rows": inputs.rows}
    batch["ends"] = _within_signs(inputs, units.layout)
    return {"seconds": found, "means": means, "batch": batch}


def _parts(splitter: Any, count: int) -> Any:
    """So many parts of the hardest case, those with the least bounds split first."""
    domains, most = splitter.start(), 1
    while True:
        found = splitter.bound(domains)
        value = found.lower.min(axis=1)
        left = found.domains.take(np.argsort(value)[:most])
        most = max(1, count // 2)
        left = left.take(splitter.can_split(left))
        domains = splitter.split(left)
        if len(domains) >= count:
            return domains.take(np.arange(count))


def _within_signs(inputs: Any, layout: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The intervals of all units, with the signs of those that were split, channels first."""
    signs, found = layout.by_place(inputs.signs), []
    for spot in layout.units:
        low, high = inputs.ends[spot.place]
        sign = signs[spot.place]
        low = np.where(sign > 0, np.maximum(low, 0.0), low)
        high = np.where(sign < 0, np.minimum(high, 0.0), high)
        pair = (low, np.maximum(low, high))
        found.append(tuple(np.moveaxis(e, -1, 1) if e.ndim == 4 else e for e in pair))
    return found


def _mean(margins: np.ndarray) -> float:
    """The mean of the least margins that are finite."""
    least = margins.min(axis=1)
    return float(least[np.isfinite(least)].mean())
