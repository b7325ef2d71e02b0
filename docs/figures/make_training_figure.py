"""Draws training_curves.png from the runs in docs/results.

python docs/figures/make_training_figure.py
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = pathlib.Path(__file__).parent
RUNS = {"mnist_0.1_ibp": "IBP", "mnist_0.1_advibp": "AdvIBP", "mnist_0.1_maar_ibp": "MAAR on IBP"}


def main() -> None:
    """Writes the figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    for index, (name, title) in enumerate(RUNS.items()):
        path = FOLDER.parent / "results" / name / "history.json"
        if not path.exists():
            continue
        history = json.loads(path.read_text())
        epochs = range(1, len(history["loss"]) + 1)
        color = f"C{index}"
        left.plot(epochs, history["val_accuracy"], color=color, linestyle=":", linewidth=1)
        left.plot(epochs, history["val_verified_accuracy"], color=color, label=title)
        # Schedules may be the same: the later ones are thinner, with gaps.
        width, style = ((2.5, "-"), (1.5, "-"), (1.5, "--"))[index]
        right.plot(epochs, history["eps"], style, color=color, linewidth=width, label=title)
    left.set(xlabel="epoch", ylabel="share of the test images", ylim=(0.88, 1.0))
    left.set_title("verified at 0.1 (solid), right (dotted)", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    right.legend(frameon=False, fontsize=9)
    right.set(xlabel="epoch", ylabel="radius")
    right.set_title("radius of the certified loss", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "training_curves.png", dpi=130)


if __name__ == "__main__":
    main()
