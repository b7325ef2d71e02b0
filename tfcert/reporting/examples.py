"""The part of a report that shows inputs: the most and the least robust ones, counterexamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfcert import logs
from tfcert.reporting import images, page, part
from tfcert.reporting.entries import Entries

__all__ = ["Classify", "Inputs", "examples_part"]

# The classes that a model gives inputs.
Classify = Callable[[np.ndarray], np.ndarray]


class Inputs(NamedTuple):
    """The data that logs are about: input number idx is ``x[idx]``, of class ``y[idx]``."""

    x: np.ndarray
    y: np.ndarray


def examples_part(
    logs_shown: Sequence[Entries],
    inputs: Inputs | None,
    most: int,
    classify: Classify | None = None,
) -> part.Part:
    """Pictures of the inputs of logs.

    Args:
        logs_shown: Logs about the same data.
        inputs: The data; without it the part says what is missing.
        most: How many pictures of each kind.
        classify: The model that the logs are about, to tell the class of each counterexample.
    """
    made = part.Part("Inputs")
    if inputs is None:
        made.text("Pictures need the data: --dataset, or --inputs with an npz file.")
        return made
    for entries in logs_shown:
        _check(entries, inputs)
    if not images.is_image(inputs.x.shape[1:]):
        made.text(f"No pictures: inputs of shape {inputs.x.shape[1:]} are not images.")
        return made
    for entries in logs_shown:
        if len(logs_shown) > 1:
            made.pieces.append(f"<h3>{page.escape(entries.name)}</h3>")
        _add_log(entries, inputs, most, classify, made)
    return made


def _add_log(
    entries: Entries, inputs: Inputs, most: int, classify: Classify | None, made: part.Part
) -> None:
    order, measure = _ranked(entries)
    for title, chosen in (("Most robust", order[:most]), ("Least robust", order[::-1][:most])):
        if len(chosen):
            made.pieces.append(f"<h4>{title}</h4>")
            made.pieces.append(images.gallery([_plain(entries, inputs, i) for i in chosen]))
    made.text(f"Ordered by {measure}, among the inputs classified right.")
    if entries.verdict is not None:
        _add_counterexamples(entries, inputs, most, classify, made)


def _check(entries: Entries, inputs: Inputs) -> None:
    """Whether the log is about these data."""
    beyond = entries.idx >= len(inputs.x)
    if beyond.any():
        raise ValueError(
            f"{entries.path} must belong to the given data of {len(inputs.x)} inputs. Received: "
            f"idx {entries.idx[beyond][0]}."
        )
    other = np.flatnonzero(inputs.y[entries.idx] != entries.label)
    if len(other):
        place = other[0]
        idx = entries.idx[place]
        raise ValueError(
            f"{entries.where(place)}: the label must be that of the given data, "
            f"{inputs.y[idx]} for idx {idx}. Received: {entries.label[place]}; {len(other)} of "
            f"{len(entries)} differ."
        )


def _ranked(entries: Entries) -> tuple[np.ndarray, str]:
    """Places in the log from the most to the least robust input, and what says so."""
    if entries.radius is not None:
        value, measure = entries.radius, "the certified radius"
    else:
        assert entries.margin is not None
        value, measure = entries.margin, "the lower bound of the margin"
    chosen = np.flatnonzero(entries.correct)
    return chosen[np.argsort(-value[chosen], kind="stable")], measure


def _plain(entries: Entries, inputs: Inputs, place: int) -> str:
    idx = int(entries.idx[place])
    values = []
    if entries.verdict is not None:
        values.append(str(entries.verdict[place]))
    if entries.radius is not None:
        values.append(f"radius {entries.radius[place]:.3g}")
    elif entries.margin is not None:
        values.append(f"margin {entries.margin[place]:.3g}")
    label = int(entries.label[place])
    picture = images.picture(inputs.x[idx], f"input {idx}, of class {label}")
    return images.card([(picture, "")], f"{idx}: class {label}, {', '.join(values)}")


def _add_counterexamples(
    entries: Entries, inputs: Inputs, most: int, classify: Classify | None, made: part.Part
) -> None:
    falsified = np.flatnonzero(entries.verdicts("falsified"))
    cards: list[str] = []
    missing = 0
    for place in falsified:
        if len(cards) == most:
            break
        idx, log = int(entries.idx[place]), entries.paths[entries.shard[place]]
        point = logs.read_counterexample(log, idx)
        if point is None:
            missing += 1
            continue
        x = inputs.x[idx]
        if point.shape != x.shape or not np.isfinite(point).all():
            raise ValueError(
                f"{logs.counterexample_path(log, idx)} must hold finite numbers of shape "
                f"{x.shape}. Received: shape {point.shape}."
            )
        label = int(entries.label[place])
        change, largest = images.difference(point, x)
        pictures = [
            (images.picture(x, f"input {idx}, of class {label}"), "original"),
            (images.picture(point, f"counterexample of input {idx}"), "changed"),
            (change, f"change, ±{largest:.2g}"),
        ]
        cards.append(images.card(pictures, f"{idx}: {_mistake(label, point, classify)}"))
    if len(falsified):
        made.pieces.append("<h4>Counterexamples</h4>")
        made.text(
            f"{len(falsified)} inputs have a counterexample: a changed input within ε that the "
            "model gets wrong."
        )
    if cards:
        made.pieces.append(images.gallery(cards, wide=True))
        made.text("The largest entry of each change, given below the picture, has full colour.")
    if missing:
        made.text(f"{missing} counterexamples are not stored beside the log.", "note warning")


def _mistake(label: int, point: np.ndarray, classify: Classify | None) -> str:
    """What a counterexample does, in words."""
    if classify is None:
        return f"class {label}, misread when changed"
    return f"class {label} becomes class {int(classify(point[None])[0])}"
