"""Certified training of a GRU that reads handwritten digits row by row.

    python benchmarks/recurrent.py --out=benchmarks/results/recurrent

The data set is the UCI digits that ship with the package: a sequence of eight rows of eight pixels.
Each network is trained by one objective and then certified on test digits: by an attack, and by one
method after another on the digits that the ones before left open.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_EPS = flags.DEFINE_float("eps", 0.03, "Radius of the l-inf ball, for pixels in [0, 1].")
_UNITS = flags.DEFINE_integer("units", 24, "Units of the GRU.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs; the radius grows in the first two thirds.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown-ibp", "crown"], "Methods, in their order.")
_DIGITS = flags.DEFINE_integer("digits", 100, "Test digits that are certified.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Where to write the results: OUT.json.")


def run(trained_with: str, seed: int) -> dict[str, Any]:
    """Trains one network and certifies it."""
    import keras

    import tfcert

    keras.utils.set_random_seed(seed)
    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    rows = x.shape[1:3]
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Reshape(rows),
            keras.layers.GRU(_UNITS.value),
            keras.layers.Dense(10),
        ]
    )
    region = tfcert.LpBall(_EPS.value, clip=(0.0, 1.0))
    if trained_with == "standard":
        objective: Any = tfcert.objectives.Standard()
    else:
        ramp = (1, max(2, 2 * _EPOCHS.value // 3))
        objective = tfcert.objectives.IBP(region, ramp=ramp)
    trainer = tfcert.CertifiedTrainer(model, objective, seed=seed)
    trainer.compile(keras.optimizers.Adam(5e-3, global_clipnorm=5.0))
    begin = time.perf_counter()
    trainer.fit(x, y, batch_size=64, epochs=_EPOCHS.value, verbose=0)
    seconds = time.perf_counter() - begin
    accuracy = float((np.argmax(model.predict(x_test, verbose=0), axis=1) == y_test).mean())
    methods = _METHODS.value
    begin = time.perf_counter()
    some = slice(0, _DIGITS.value)
    result = tfcert.certify(model, x_test[some], y_test[some], region, method=methods, seed=seed)
    verified = {
        name: int(((result.verdict == "verified") & (result.method == name)).sum())
        for name in methods
    }
    return {
        "trained_with": trained_with,
        "seed": seed,
        "eps": _EPS.value,
        "accuracy": accuracy,
        "certified_digits": len(result.verdict),
        "verdicts": {
            str(name): int((result.verdict == name).sum()) for name in np.unique(result.verdict)
        },
        "verified_by": verified,
        "training_seconds": round(seconds, 1),
        "certification_seconds": round(time.perf_counter() - begin, 1),
    }


def main(argv: Sequence[str]) -> None:
    """Runs all networks and prints a line for each."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/recurrent.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    rows = []
    for trained_with in ("ibp", "standard"):
        for seed in map(int, _SEEDS.value):
            rows.append(run(trained_with, seed))
            print(rows[-1], flush=True)
            if _OUT.value:
                machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
