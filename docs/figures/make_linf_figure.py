"""Draws linf_unit.png: what a unit of distances computes, and what a margin certifies.

python docs/figures/make_linf_figure.py
"""

from __future__ import annotations

import math
import pathlib

import keras
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, patches

import tfcert

_FOLDER = pathlib.Path(__file__).parent
_STYLES = {2.0: ("C1", ":", "p = 2"), 8.0: ("C2", "--", "p = 8"), math.inf: ("C0", "-", "p = ∞")}
# One class per row: weights of the last layer in the right panel.
_CENTRES = np.array([[-0.9, 0.7], [0.8, 0.9], [0.3, -0.9]], "float32")


def _unit(axes: mpl_axes.Axes) -> None:
    """Where one unit has the value 1, at several p."""
    layer = tfcert.layers.LInfDistance(1, kernel_initializer="zeros")
    line = np.linspace(-1.6, 1.6, 161)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype("float32")
    layer(grid)
    for p, (color, style, title) in _STYLES.items():
        layer.p.assign(p)
        values = np.asarray(layer(grid)).reshape(161, 161)
        axes.contour(line, line, values, levels=[0.5, 1.0, 1.5], colors=color, linestyles=style)
        axes.plot([], [], color=color, linestyle=style, label=title)
    axes.plot(0, 0, "k+", markersize=9)
    axes.annotate("w", (0, 0), xytext=(5, 4), textcoords="offset points")
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0))
    axes.set_title("||x − w||ₚ = 0.5, 1 and 1.5", fontsize=10)


def _certified(axes: mpl_axes.Axes) -> None:
    """Classes by the nearest weights, and the squares that margins certify."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            tfcert.layers.LInfDistance(3),
            keras.layers.Rescaling(-1.0),
        ]
    )
    model.layers[0].kernel.assign(_CENTRES.T)
    line, up = np.linspace(-1.6, 1.6, 321), np.linspace(-1.6, 2.1, 371)
    grid = np.stack(np.meshgrid(line, up), axis=-1).reshape(-1, 2).astype("float32")
    classes = np.argmax(np.asarray(model(grid)), axis=-1).reshape(371, 321)
    axes.contourf(
        line, up, classes, levels=[-0.5, 0.5, 1.5, 2.5], colors=["C0", "C1", "C2"], alpha=0.2
    )
    axes.plot(*_CENTRES.T, "k+", markersize=9, linestyle="none", label="weights of a unit")
    axes.plot([], [], "k.", markersize=5, label="inputs")
    axes.legend(fontsize=8, ncols=2, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0))
    x = np.array([[-1.0, 0.2], [0.4, 1.2], [0.9, -0.5], [-0.3, -0.6]], "float32")
    radii = np.asarray(tfcert.lipschitz.radius(model, x))
    for point, radius in zip(x, radii, strict=True):
        axes.plot(*point, "k.", markersize=5)
        square = patches.Rectangle(
            point - radius, 2 * radius, 2 * radius, fill=False, linewidth=1.2
        )
        axes.add_patch(square)
    axes.set_title("classes, and squares of radius margin / 2", fontsize=10)


def main() -> None:
    """Writes the figure."""
    fig = figure.Figure(figsize=(7.6, 3.7), layout="constrained")
    left, right = fig.subplots(1, 2)
    _unit(left)
    _certified(right)
    for axes in (left, right):
        axes.set(xlabel="x₁", ylabel="x₂", aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.6, 2.1))
    fig.savefig(_FOLDER / "linf_unit.png", dpi=110)


if __name__ == "__main__":
    main()
