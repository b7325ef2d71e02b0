"""Draws consistency_curves.png from the logs of n = 100,000 in docs/results.

python docs/figures/make_consistency_figure.py
"""

import pathlib

import numpy as np
from matplotlib import figure

from tfcert import reporting

FOLDER = pathlib.Path(__file__).parent
LINES = {"gaussian": "--", "consistency": "-"}


def main() -> None:
    """Writes the figure: a colour for each sigma, a line style for each method."""
    paths = sorted(FOLDER.parent.glob("results/mnist_sigma*/n100000.tsv"))
    named = [path.parent.name.removeprefix("mnist_sigma").split("@")[0] for path in paths]
    sigmas = sorted({name.split("_", 1)[0] for name in named}, key=float)
    fig = figure.Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = fig.subplots()
    for path, name in zip(paths, named, strict=True):
        sigma, method = name.split("_", 1)
        log = reporting.read(path, name)
        radii = np.linspace(0.0, 4.0, 401)
        shares = [100 * share.value for share in reporting.certified_accuracy(log, radii)]
        last = np.flatnonzero(shares)[-1] + 2  # One point more, where the curve has come to 0.
        color = f"C{sigmas.index(sigma)}"
        axes.plot(radii[:last], shares[:last], color=color, linestyle=LINES[method], linewidth=1.4)
    for index, sigma in enumerate(sigmas):
        axes.plot([], [], color=f"C{index}", label=f"σ = {sigma}")
    axes.plot([], [], color="0.3", linestyle="-", label="with consistency")
    axes.plot([], [], color="0.3", linestyle="--", label="Gaussian alone")
    axes.legend(frameon=False, fontsize=9)
    axes.set(xlabel="l2 radius", ylabel="certified accuracy in %", xlim=(0, None), ylim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    fig.savefig(FOLDER / "consistency_curves.png", dpi=130)


if __name__ == "__main__":
    main()
