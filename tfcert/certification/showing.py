"""Views of a result: a pandas table, a notebook cell, a picture."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tfcert.certification.results import Certificates

__all__ = ["as_html", "frame", "plot"]

# Of every verdict, as in reports: readable on white, and told apart without red and green.
_COLORS = {
    "verified": "#2c7fb8",
    "falsified": "#d95f0e",
    "misclassified": "#8c510a",
    "unknown": "#bdbdbd",
}


def frame(result: Certificates) -> Any:
    """A row for each input, as a ``pandas.DataFrame`` whose index is the number of the input."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("`to_frame` needs pandas: pip install pandas.") from error
    names = ("verdict", "margin", "method", "seconds", "predict", "label")
    columns = {name: getattr(result, name) for name in names}
    if result.radius is not None:
        columns["radius"] = result.radius
    return pd.DataFrame(columns, index=pd.Index(result.index, name="index"))


def as_html(result: Certificates) -> str:
    """The summary, and a bar in which every verdict has its share."""
    size, width = len(result), 480.0
    bar, left = [], 0.0
    counts = {name: int(mine.sum()) for name, mine in result.shown().items()}
    for name, count in counts.items():
        part = width * count / max(size, 1)
        bar.append(
            f'<rect x="{left:.2f}" width="{part:.2f}" height="16" fill="{_COLORS[name]}">'
            f"<title>{name}: {count} of {size}</title></rect>"
        )
        left += part
    key = " ".join(
        f'<span style="color:{_COLORS[name]}">&#9632;</span> {name} {count}'
        for name, count in counts.items()
    )
    return (
        f'<div><svg width="{width:.0f}" height="16" role="img" aria-label="verdicts">'
        f"{''.join(bar)}</svg><div>{key}</div>"
        f"<pre>{html.escape(result.summary())}</pre></div>"
    )


def plot(result: Certificates, axes: Any = None) -> Any:
    """Draws the number of inputs for each verdict as bars, or with radii the accuracy at each
    eps."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("`plot` needs matplotlib: pip install matplotlib.") from error
    axes = axes or plt.figure().subplots()
    if result.radius is not None:
        largest = np.sort(result.radius)
        share = 1.0 - np.arange(len(largest)) / max(len(largest), 1)
        ends = [0.0, *largest, largest.max(initial=0.0)]
        axes.step(ends, [1.0, *share, 0.0], where="pre", color=_COLORS["verified"])
        axes.set(xlabel="eps", ylabel="share of inputs verified at eps", ylim=(0, 1))
        return axes
    counts = {name: int(mine.sum()) for name, mine in result.shown().items()}
    axes.bar(list(counts), list(counts.values()), color=[_COLORS[name] for name in counts])
    axes.set(ylabel=f"inputs, of {len(result)}")
    return axes
