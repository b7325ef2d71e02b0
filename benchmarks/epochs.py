"""How long epochs take beyond their steps: Keras's fit beside CertifiedTrainer's, on arrays.

    python benchmarks/epochs.py --out=benchmarks/results/epochs

The end of an epoch over a tf.data pipeline may wait for the thread that tunes the pipeline; how
long depends on how long the epoch took (docs/training.md). So several lengths are tried. The sides
take turns, epoch by epoch of one fit.
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

_STEPS = flags.DEFINE_list("steps", ["100", "200", "400"], "Steps of an epoch.")
_EPOCHS = flags.DEFINE_integer("epochs", 6, "Timed epochs of each side.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")

_BATCH = 128


def _timed(trainer: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds of the steps of one epoch, and of the whole fit."""
    import keras

    class Last(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.time = time.perf_counter()

    last, begin = Last(), time.perf_counter()
    trainer.fit(x, y, batch_size=_BATCH, verbose=0, callbacks=[last])
    end = time.perf_counter()
    return last.time - begin, end - begin


def _rows(steps: int) -> list[dict[str, Any]]:
    import keras

    import tfcert

    generator = np.random.default_rng(0)
    x = generator.uniform(size=(steps * _BATCH, 28, 28, 1)).astype("float32")
    y = generator.integers(0, 10, size=len(x))
    plain = tfcert.models.get("lenet", (28, 28, 1), 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile("sgd", loss, jit_compile=False)
    trainer = tfcert.CertifiedTrainer(
        tfcert.models.get("lenet", (28, 28, 1), 10), tfcert.objectives.Standard()
    )
    trainer.compile("sgd")
    sides = {"Keras": plain, "CertifiedTrainer": trainer}
    for side in sides.values():
        _timed(side, x[: 2 * _BATCH], y[: 2 * _BATCH])  # Compiles.
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(_EPOCHS.value):
        for name, side in sides.items():
            found[name].append(_timed(side, x, y))
    rows = []
    for name, times in found.items():
        inside, whole = np.array(times).T
        waits = np.round(whole - inside, 3)
        rows.append(
            {
                "fit": name,
                "steps": steps,
                "seconds_of_steps": round(float(np.median(inside)), 3),
                "mean_wait": round(float(waits.mean()), 3),
                "longest_wait": round(float(waits.max()), 3),
                "epochs_that_waited": int((waits > 0.1).sum()),
                "epochs": len(waits),
            }
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Measures every row and prints it as it comes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/epochs.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    import keras
    import tensorflow as tf

    facts |= {"keras": keras.__version__, "backend": f"tensorflow {tf.__version__}"}
    print("\n".join(f"# {name}: {value}" for name, value in facts.items()))
    rows = []
    for steps in map(int, _STEPS.value):
        for row in _rows(steps):
            rows.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
