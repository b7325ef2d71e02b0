"""Draws choosing.png: which certificate, which bound and which training, as lists of questions.

python docs/figures/make_choosing_figure.py
"""

from __future__ import annotations

import pathlib

from matplotlib import axes as mpl_axes
from matplotlib import figure, patches

_FOLDER = pathlib.Path(__file__).parent
# (title, questions with the answer for "yes", the answer if all are "no"). docs/choosing.md has the
# same in words.
_LISTS = [
    (
        "Which certificate?",
        [
            ("Layers without rules, or a network\ntoo deep for bounds?", "smoothing.certify_set"),
            ("A radius from one forward pass,\nat serving time?", "lipschitz.radius"),
            ("One property, decided to the end?", "tfcert.verify"),
        ],
        "tfcert.certify",
    ),
    (
        "Which bound?",
        [
            ("Inside a training loop?", '"ibp", "crown-ibp"'),
            ("Trained with bounds in its loss?", "the method of its training"),
            ("Margins by CROWN just below 0?", '"alpha-crown"'),
            ("Must every input be decided?", '"complete"'),
        ],
        '"crown"',
    ),
    (
        "Which training?",
        [
            ("Certificates by smoothing?", "GaussianSmoothing,\nConsistencySmoothing"),
            ("A radius from one forward pass?", "LInfDistance"),
            ("Resistance to attacks,\nwithout proof?", "AdversarialTraining"),
            ("A small radius, and time for CROWN\nor a complete method?", "MTLIBP, SABR"),
        ],
        "IBP, CrownIBP",
    ),
]
_COLORS = ("#dbe6f3", "#fbe7c6", "#dcead7")
_LINE = {"arrowstyle": "->", "color": "#555555", "linewidth": 1.2}
_WIDTH, _STEP = 10.0, 1.25  # of the picture, and from one question to the next


def _box(
    axes: mpl_axes.Axes, left: float, top: float, width: float, text: str, color: str, bold: bool
) -> None:
    box = patches.FancyBboxPatch(
        (left, top - 0.8),
        width,
        0.8,
        boxstyle="round,pad=0.04,rounding_size=0.12",
        facecolor=color,
        edgecolor="#777777",
    )
    axes.add_patch(box)
    weight = "bold" if bold else "normal"
    axes.text(left + width / 2, top - 0.4, text, ha="center", va="center", weight=weight)


def _draw(axes: mpl_axes.Axes, top: float, index: int) -> float:
    """One list of questions from ``top`` downward; returns where it ends."""
    title, questions, otherwise = _LISTS[index]
    axes.text(0.1, top, title, fontsize=13, weight="bold", va="top")
    top -= 0.6
    for question, answer in questions:
        _box(axes, 0.2, top, 4.7, question, "white", bold=False)
        axes.annotate("", xy=(6.05, top - 0.4), xytext=(4.95, top - 0.4), arrowprops=_LINE)
        axes.text(5.5, top - 0.34, "yes", ha="center", va="bottom", fontsize=9, color="#555555")
        _box(axes, 6.1, top, 3.7, answer, _COLORS[index], bold=True)
        axes.annotate(
            "", xy=(2.55, top - _STEP + 0.05), xytext=(2.55, top - 0.85), arrowprops=_LINE
        )
        axes.text(2.7, top - 1.03, "no", va="center", fontsize=9, color="#555555")
        top -= _STEP
    _box(axes, 0.2, top, 4.7, otherwise, _COLORS[index], bold=True)
    return top - _STEP


def main() -> None:
    """Writes the picture beside this file."""
    height = sum(0.75 + _STEP * (len(questions) + 1) for _, questions, _ in _LISTS) - 0.3
    drawing = figure.Figure(figsize=(7.2, 0.62 * height), dpi=110)
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(-height, 0.1)
    axes.axis("off")
    top = 0.0
    for index in range(len(_LISTS)):
        top = _draw(axes, top, index) - 0.1
    drawing.savefig(_FOLDER / "choosing.png")


if __name__ == "__main__":
    main()
