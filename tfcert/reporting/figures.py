"""Figures that follow the page: as wide as a phone, in its colours, light and dark."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure, ticker

from tfcert.reporting import page

__all__ = ["VERDICT_COLORS", "drawable", "grid", "label", "legend", "look", "new", "png", "svg"]

# What the figures are drawn in, and the variables of page.css that take its place on the page.
_INK, _SOFT, _LINE = "#1b1d21", "#5a606a", "#d8dbe0"
_SERIES = (
    *("#0b66a8", "#c2500a", "#0a8059", "#9b3d91"),
    *("#8a6d00", "#b3283e", "#23717f", "#666c76"),
)
_VARIABLES = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    **{color: f"var(--s{place})" for place, color in enumerate(_SERIES)},
}
VERDICT_COLORS = {
    "verified": _SERIES[2],
    "unknown": _SERIES[4],
    "falsified": _SERIES[5],
    "misclassified": _SERIES[7],
}
_WIDEST = 34  # letters in a line of a legend
_LARGEST, _SMALLEST = 1e30, 1e-30
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "os^DvPX*"
_SETTINGS = {
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",  # Looks the same everywhere; the page says in words what it shows.
    "svg.hashsalt": "tfcert",  # The same figure is the same file.
    "text.parse_math": False,  # A dollar in a name is a dollar.
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Letters that the figures' font lacks are drawn as boxes; the tables have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


@contextmanager
def new(
    x: str,
    y: str,
    percent: bool = False,
    counts: bool = False,
    size: tuple[float, float] = (4.2, 3.1),
) -> Iterator[tuple[figure.Figure, Any]]:
    """An empty figure and its axes, with titles at them; draw inside of the context."""
    with _settings():
        drawn = figure.Figure(figsize=size, layout="constrained")
        axes = drawn.add_subplot(xlabel=x, ylabel=y)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
        if counts:
            axes.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
            axes.set_ylim(-0.02, 1.02)
        yield drawn, axes


def look(place: int) -> dict[str, Any]:
    """Colour, dashes and marker of a series: all of them differ, for print and any eye."""
    return {
        "color": _SERIES[place % len(_SERIES)],
        "linestyle": _DASHES[place // len(_SERIES) % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def label(text: str) -> str:
    """A name for a legend, whole: on several lines where it is long."""
    # Lines end behind what joins the words of a name, where there is such a place.
    pieces = re.findall(r"[^\s_/@,;:-]*[\s_/@,;:-]*", page.plain(text))
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1] + piece.rstrip()) > _WIDEST:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1]) > _WIDEST + 1:
            lines[-1:] = [lines[-1][:_WIDEST], lines[-1][_WIDEST:]]
    text = "\n".join(lines)
    # matplotlib leaves out of a legend what begins with an underscore.
    return "\u00a0" + text if text.startswith("_") else text


def legend(drawn: figure.Figure) -> None:
    """A legend of what is labelled, below the axes, where it covers nothing."""
    (axes,) = drawn.axes
    lines, names = axes.get_legend_handles_labels()
    if lines:
        # Two columns of long names are wider than the figure; many rows must not eat the axes.
        columns = 2 if len(lines) > 2 and max(map(len, names)) <= 22 else 1
        rows = sum(1 + name.count("\n") for name in names) / columns
        drawn.set_figheight(drawn.get_figheight() + 0.17 * max(0.0, rows - 2))
        drawn.legend(lines, names, loc="outside lower left", ncols=columns)


def drawable(values: np.ndarray) -> np.ndarray:
    """The values without those so large that axes could not be drawn; a file may hold any."""
    return np.clip(values, -_LARGEST, _LARGEST)


def grid(values: np.ndarray, points: int = 400) -> np.ndarray:
    """Points from 0 to a little beyond the largest value."""
    top = float(drawable(values).max(initial=0.0))
    return np.linspace(0.0, (max(top, _SMALLEST) if top else 1.0) * 1.02, points)


def png(drawn: figure.Figure) -> bytes:
    """The figure on white, for papers and slides."""
    out = io.BytesIO()
    with _settings():
        drawn.savefig(out, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def svg(drawn: figure.Figure, description: str) -> str:
    """The figure as part of a page; `description` is what it shows, for who cannot see it."""
    out = io.StringIO()
    with _settings():
        drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # Comments hold the texts, metadata nothing that a page needs.
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The ids of several figures must not meet on one page.
    mark = "f" + hashlib.sha256(f"{description}\0{text}".encode()).hexdigest()[:8] + "-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{page.escape(description, None)}" '
    xlink = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg">'
    return head + xlink + text[text.index(">") + 1 :].strip()
