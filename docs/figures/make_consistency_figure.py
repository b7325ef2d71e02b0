"""Draws consistency_curves.png from the logs of n = 100,000 in docs/results.

python docs/figures/make_consistency_figure.py
"""

import pathlib
import tempfile

from tfcert.reporting import report

FOLDER = pathlib.Path(__file__).parent
METHODS = {"gaussian": "Gaussian", "consistency": "consistency"}


def main() -> None:
    """Writes the figure: one curve for each sigma and method."""
    paths = sorted(FOLDER.parent.glob("results/mnist_sigma*/n100000.tsv"))
    names = []
    for path in paths:
        sigma, method = path.parent.name.removeprefix("mnist_sigma").split("@")[0].split("_", 1)
        names.append(f"{METHODS[method]}, σ = {sigma}")
    with tempfile.TemporaryDirectory() as out:
        report.write(report.load([str(path) for path in paths], names), pathlib.Path(out))
        figure = pathlib.Path(out, "smoothing_curves.png").read_bytes()
    (FOLDER / "consistency_curves.png").write_bytes(figure)


if __name__ == "__main__":
    main()
