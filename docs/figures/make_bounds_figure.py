"""Draws the figures of docs/bounds.md and prints the table of verified accuracies beside them.

    pip install -e .
    python docs/figures/make_bounds_figure.py

The classifier is a small convolutional network for the digits, trained with noise on its inputs and
without any bounds, from a fixed seed.
"""

from __future__ import annotations

import pathlib

import keras
import numpy as np
from keras import layers
from matplotlib import axes as mpl_axes
from matplotlib import figure, ticker

import tfcert
from tfcert import relaxations

_FOLDER = pathlib.Path(__file__).parent
# Told apart by colour, by marker, and by the order of the lines.
_STYLES = {
    "alpha-crown": ("#0b3c6f", "D", "α-CROWN"),
    "crown": ("#1f77b4", "^", "CROWN"),
    "crown-ibp": ("#b8860b", "s", "CROWN-IBP"),
    "ibp": ("#c44601", "o", "IBP"),
}
_DPI = 110
_SIZES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


def _network(x: np.ndarray, y: np.ndarray) -> keras.Model:
    """A trained classifier of 8x8 images."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            # Active in training only: smoother decision boundaries, hence larger margins.
            layers.GaussianNoise(0.2),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=0.02), loss)
    model.fit(x, y, batch_size=64, epochs=40, verbose=0)
    return model


def _verified(model: keras.Model, x: np.ndarray, y: np.ndarray, method: str) -> list[float]:
    """The share of inputs that a method verifies at each size."""
    shares = []
    for eps in _SIZES:
        region = tfcert.LpBall(eps, clip=(0.0, 1.0))
        least = tfcert.least_margins(model, x, y, region, method=method)
        shares.append(float(np.mean(np.asarray(least) > 0)))
    return shares


def _accuracies(clean: float, verified: dict[str, list[float]]) -> figure.Figure:
    fig = figure.Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = fig.add_subplot()
    axes.axhline(clean, color="0.4", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"without any change: {clean:.1%} right",
        (0.1, clean),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color="0.3",
        fontsize="small",
    )
    sizes = np.array([0.0, *_SIZES])
    for method, (colour, marker, label) in _STYLES.items():
        axes.plot(
            sizes,
            [clean, *verified[method]],
            color=colour,
            marker=marker,
            markersize=5,
            label=label,
        )
    axes.set_xlabel("ε: each pixel may change by this much (scale 0 to 1)")
    axes.set_ylabel("verified accuracy")
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.set_xlim(0, sizes.max() * 1.01)
    axes.set_ylim(-0.02, 1.07)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.9))
    return fig


def _relu_lines() -> figure.Figure:
    panels = (
        ("CROWN, where u > −l", -1.0, 1.6, "adaptive"),
        ("CROWN, where u < −l", -1.6, 1.0, "adaptive"),
        ("Fast-Lin", -1.0, 1.6, "same"),
    )
    fig = figure.Figure(figsize=(8.2, 2.8), layout="constrained")
    for place, (title, lower, upper, slope) in enumerate(panels, start=1):
        axes = fig.add_subplot(1, len(panels), place)
        _relu_panel(axes, lower, upper, slope)
        axes.set_title(title, fontsize="medium")
    axes.legend(frameon=False, loc="lower right", fontsize="small")
    return fig


def _relu_panel(axes: mpl_axes.Axes, lower: float, upper: float, slope: str) -> None:
    lines = relaxations.CURVES["relu"].lines(np.float64(lower), np.float64(upper), slope)
    lower_slope, lower_intercept, upper_slope, upper_intercept = map(float, lines)
    t = np.linspace(lower, upper, 201)
    below, above = lower_slope * t + lower_intercept, upper_slope * t + upper_intercept
    axes.axhline(0, color="0.75", linewidth=0.8)
    axes.axvline(0, color="0.75", linewidth=0.8)
    axes.fill_between(t, below, above, color="#1f77b4", alpha=0.12, linewidth=0)
    if slope == "adaptive":
        for alpha in (0.25, 0.5, 0.75):
            axes.plot(t, alpha * t, color="0.55", linewidth=0.9, linestyle=":")
        axes.annotate(
            "α-CROWN chooses\namong slopes 0 to 1",
            (lower * 0.62, 0.25 * lower * 0.62),
            xytext=(0.06, 0.02),
            textcoords="axes fraction",
            fontsize="x-small",
            color="0.35",
        )
    axes.plot(t, above, color="#c44601", linewidth=1.8, label="upper line")
    axes.plot(t, below, color="#0b3c6f", linewidth=1.8, label="lower line")
    wide = np.array([lower - 0.3, 0.0, upper + 0.3])
    axes.plot(wide, np.maximum(wide, 0), color="black", linewidth=1.2, linestyle="--", label="ReLU")
    axes.set_xticks([lower, 0, upper], ["l", "0", "u"])
    axes.set_yticks([])
    axes.set_ylim(-1.75, 2.0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def main() -> None:
    """Writes both figures and prints the table."""
    _relu_lines().savefig(_FOLDER / "relu_lines.png", dpi=_DPI)
    train, (x, y) = tfcert.datasets.load("digits")
    model = _network(*train)
    clean = float(np.mean(np.argmax(model.predict(x, verbose=0), axis=-1) == y))
    verified = {method: _verified(model, x, y, method) for method in _STYLES}
    _accuracies(clean, verified).savefig(_FOLDER / "verified_accuracy.png", dpi=_DPI)
    print("\n| ε | " + " | ".join(label for _, _, label in reversed(_STYLES.values())) + " |")
    print("| --- " * (len(_STYLES) + 1) + "|")
    columns = [verified[method] for method in reversed(_STYLES)]
    for eps, *row in zip(_SIZES, *columns, strict=True):
        print(f"| {eps:g} | " + " | ".join(f"{share:.1%}" for share in row) + " |")
    print(f"\nWithout any change: {clean:.1%}")


if __name__ == "__main__":
    main()
