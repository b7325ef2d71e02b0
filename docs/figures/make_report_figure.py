"""Draws certified_radii.png from the logs in docs/results/digits_smoothing.

python docs/figures/make_report_figure.py          # the figure, from the logs that are there
python docs/figures/make_report_figure.py --logs   # trains and certifies first: a minute or two

Two small networks for the digits, trained with noise of sigma 0.25, one of them with the
consistency objective, certified on every second test image with 2,000 samples each.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import layers

import tfcert
from tfcert import logs, smoothing
from tfcert.reporting import report

FOLDER = pathlib.Path(__file__).parent
LOGS = FOLDER.parent / "results" / "digits_smoothing"
SIGMA, SAMPLES, EPOCHS = 0.25, 2000, 15
OBJECTIVES = {
    "consistency": tfcert.objectives.ConsistencySmoothing(sigma=SIGMA),
    "gaussian": tfcert.objectives.GaussianSmoothing(sigma=SIGMA),
}


def make_log(name: str) -> None:
    """Trains a network, certifies the test images and writes the log and its facts."""
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    trainer = tfcert.CertifiedTrainer(model, OBJECTIVES[name])
    trainer.compile(keras.optimizers.Adam(2e-3))
    trainer.fit(x, y, epochs=EPOCHS, batch_size=64, verbose=0)
    smoothed = smoothing.SmoothedClassifier(model, sigma=SIGMA)
    chosen = np.arange(0, len(x_test), 2)
    begin = time.perf_counter()
    found = smoothed.certify(x_test[chosen], n=SAMPLES, index=chosen)
    seconds = (time.perf_counter() - begin) / len(chosen)
    path = LOGS / f"{name}.tsv"
    for file in (path, logs.facts_path(path)):
        file.unlink(missing_ok=True)
    settings = {"objective": name, "epochs": EPOCHS, "sigma": SIGMA, "n": SAMPLES, "alpha": 0.001}
    facts = {"settings": settings, "data": "digits, every second test image"}
    with logs.Writer(path, "smoothing", facts, {"tfcert": tfcert.__version__}) as log:
        log.write(
            {
                "idx": int(idx),
                "label": int(y_test[idx]),
                "predict": int(predict),
                "radius": float(radius),
                "correct": bool(predict == y_test[idx]),
                "time": seconds,
            }
            for idx, predict, radius in zip(chosen, found.prediction, found.radius, strict=True)
        )


def main() -> None:
    """Writes the figure and, where asked for, the logs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", action="store_true", help="make the logs anew")
    if parser.parse_args().logs:
        for name in OBJECTIVES:
            make_log(name)
    with tempfile.TemporaryDirectory() as out:
        paths = [str(LOGS / f"{name}.tsv") for name in OBJECTIVES]
        report.write(report.load(paths), pathlib.Path(out))
        figure = pathlib.Path(out, "smoothing_curves.png").read_bytes()
    (FOLDER / "certified_radii.png").write_bytes(figure)


if __name__ == "__main__":
    main()
