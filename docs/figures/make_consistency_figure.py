"""Draws consistency_curves.png and consistency_gains.png from the logs in docs/results.

python docs/figures/make_consistency_figure.py
"""

import pathlib

import numpy as np
from matplotlib import figure

from tfcert import reporting

FOLDER = pathlib.Path(__file__).parent
LINES = {"gaussian": "--", "consistency": "-"}


METHODS = {
    "consistency": "Gaussian + consistency",
    "smoothadv": "SmoothAdv",
    "macer": "MACER",
    "stability": "Stability",
}
SAMPLES = {"n10000": "n = 10,000, 20 epochs", "n100000": "n = 100,000, 15 or 90 epochs"}


def _radius_gains() -> figure.Figure:
    """The paired difference of the ACR from Gaussian noise alone, by sigma."""
    fig = figure.Figure(figsize=(8.6, 3.2), layout="constrained")
    panels = fig.subplots(1, 2, sharey=True)
    for axes, (name, title) in zip(panels, SAMPLES.items(), strict=True):
        logs = {}
        for path in FOLDER.parent.glob(f"results/mnist_sigma*/{name}.tsv"):
            sigma, method = path.parent.name.removeprefix("mnist_sigma").split("@")[0].split("_", 1)
            logs[float(sigma), method] = reporting.read(path)
        sigmas = sorted({sigma for sigma, _ in logs})
        for place, (method, words) in enumerate(METHODS.items()):
            known = [sigma for sigma in sigmas if (sigma, method) in logs]
            gains = [
                reporting.paired_difference(logs[sigma, method], logs[sigma, "gaussian"])
                for sigma in known
            ]
            if known:
                shift = 0.1 * (place - 1.5)
                axes.errorbar(
                    [sigmas.index(sigma) + shift for sigma in known],
                    [gain.value for gain in gains],
                    yerr=[gain.error for gain in gains],
                    fmt="os^D"[place],
                    color=f"C{place}",
                    capsize=3,
                    markersize=5,
                    label=words,
                )
        axes.axhline(0.0, color="0.4", linewidth=1)
        axes.set_xticks(range(len(sigmas)), [f"σ = {sigma:g}" for sigma in sigmas])
        axes.set_xlim(-0.5, len(sigmas) - 0.5)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ACR minus that of Gaussian")
    panels[0].legend(frameon=False, fontsize=8.5, loc="upper left")
    return fig


def main() -> None:
    """Writes both figures; curves have a colour for each sigma, a line style for each method."""
    _radius_gains().savefig(FOLDER / "consistency_gains.png", dpi=110, facecolor="white")
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
