"""Draws demo.png, the picture of the README, and keeps its numbers in docs/results/demo.

python docs/figures/make_demo_figure.py    # runs `make demo`: about a minute on two cores
"""

import json
import pathlib

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, ticker

from tfcert.cli import demo_run

FOLDER = pathlib.Path(__file__).parent
NUMBERS = FOLDER.parent / "results" / "demo" / "results.json"
COLORS = {"plain": "#c2500a", "certified": "#0b66a8"}


def _digit(axes: mpl_axes.Axes, image: np.ndarray, title: str, color: str) -> None:
    axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, color=color, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.8")


def _curves(axes: mpl_axes.Axes, results: demo_run.Results) -> None:
    sizes = [0.0, *results.config.sizes]
    for network in results.networks:
        color = COLORS[network.name]
        attacked = [network.accuracy, *network.attacked()]
        verified = [network.accuracy, *network.verified()]
        axes.plot(sizes, verified, "o-", color=color, markersize=4, label=f"{network.name}: proved")
        axes.plot(sizes, attacked, ":", color=color, label=f"{network.name}: withstands an attack")
        axes.fill_between(sizes, verified, attacked, color=color, alpha=0.12, linewidth=0)
    axes.set_xlabel("ε: every pixel may change by this much (scale 0 to 1)")
    axes.set_title("share of 360 test images", fontsize=10)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def main() -> None:
    """Runs the demo and writes the figure and the numbers."""
    results = demo_run.run(demo_run.Config(), log=print)
    drawn = figure.Figure(figsize=(9.2, 3.6), layout="constrained")
    left, right = drawn.subfigures(1, 2, width_ratios=(1, 1.25))
    panels = left.subplots(2, 3)
    for row, example in zip(panels, results.examples, strict=False):
        _digit(row[0], example.image, f"a {example.label}", "0.2")
        _digit(row[1], example.fooling, f"plain: {example.mistaken}", COLORS["plain"])
        _digit(row[2], example.hardest, f"certified: {example.label}", COLORS["certified"])
    left.suptitle(f"attacked within ε = {results.config.train_eps:g}", fontsize=10)
    _curves(right.subplots(), results)
    drawn.savefig(FOLDER / "demo.png", dpi=120, facecolor="white")
    NUMBERS.parent.mkdir(exist_ok=True)
    NUMBERS.write_text(json.dumps(results.facts(), indent=1) + "\n")


if __name__ == "__main__":
    main()
