"""Draws architecture.png: the parts of the package, and which part knows which.

python docs/figures/make_architecture_figure.py
"""

from __future__ import annotations

import pathlib

from matplotlib import figure, patches

_FOLDER = pathlib.Path(__file__).parent
# Rows from the ground up: (title of the row, rooms). A room knows rooms below it, never above.
_ROWS = [
    ("no model", ["types, backend", "regions", "relaxations", "schedules"]),
    ("one layer", ["graph, tracing", "layers", "rules"]),
    (
        "one model",
        ["network, heads", "programs, entering", "logs, runs, checks", "models, datasets"],
    ),
    ("answers", ["properties", "bounds", "attacks", "smoothing", "interchange"]),
    ("uses", ["objectives, fitting", "branching, proofs", "certification", "scaling"]),
    ("products", ["trainer", "export", "reporting"]),
    ("programs", ["cli, trainers, benchmarks"]),
]
_COLORS = ["#e8eef7", "#dbe6f3", "#cfe0ee", "#fbe7c6", "#f6d5b8", "#dcead7", "#e6e6e6"]


def main() -> None:
    """Writes the picture beside this file."""
    drawing = figure.Figure(figsize=(8.0, 5.6), dpi=110)
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, 10)
    axes.set_ylim(-0.15, len(_ROWS) + 0.05)
    axes.axis("off")
    for level, ((title, rooms), color) in enumerate(zip(_ROWS, _COLORS, strict=True)):
        axes.text(0.1, level + 0.42, title, va="center", fontsize=10, color="#555555")
        width = 8.2 / len(rooms)
        for place, room in enumerate(rooms):
            left = 1.6 + place * width
            box = patches.FancyBboxPatch(
                (left + 0.05, level + 0.12),
                width - 0.18,
                0.6,
                boxstyle="round,pad=0.02",
                facecolor=color,
                edgecolor="#777777",
            )
            axes.add_patch(box)
            axes.text(left + width / 2 - 0.04, level + 0.42, room, ha="center", va="center")
        if level:
            axes.annotate(
                "",
                xy=(5.65, level - 0.26),
                xytext=(5.65, level + 0.1),
                arrowprops={"arrowstyle": "->", "color": "#555555"},
            )
    drawing.savefig(_FOLDER / "architecture.png")


if __name__ == "__main__":
    main()
