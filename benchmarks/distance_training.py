"""What training l-inf-distance networks with fast powers costs in accuracy: against exact ones.

    python benchmarks/distance_training.py --out=benchmarks/results/distance_training
    python benchmarks/distance_training.py --data=digits --epochs=5 --seeds=0

Two networks start from the same weights and see the same batches. One takes powers from
tfcert.layers.powers, the other from the library's own logarithm and exponential. The two drift
apart as any two roundings do, so the difference is to be read beside that between seeds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import machine
from absl import app, flags

_DATA = flags.DEFINE_string("data", "mnist", "Data set, by its name in tfcert.")
_DATA_DIR = flags.DEFINE_string("data_dir", "../shared/data", "Where its file lies.")
_MODEL = flags.DEFINE_string("model", "linf_mlp_4x128", "A network of distances.")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Of which p grows in all but the ends.", lower_bound=3)
_EPS = flags.DEFINE_float("eps", 0.1, "Radius; trained at three times it.", lower_bound=1e-6)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Of weights and of the order of samples.")
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training."""

    data: str
    data_dir: str
    model: str
    epochs: int
    eps: float
    seed: int
    exact: bool


def train(run: Run) -> dict[str, Any]:
    """Trains in a process of its own: compiled functions remember the powers they were made of."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import tfcert
    from tfcert.layers import powers

    if run.exact:
        powers._single = lambda values: False
    keras.utils.set_random_seed(run.seed)
    (x, y), (x_test, y_test) = tfcert.datasets.load(run.data, run.data_dir)
    model = tfcert.models.get(run.model, input_shape=x.shape[1:], classes=10)
    region = tfcert.LpBall(run.eps, clip=(0.0, 1.0))
    objective = tfcert.objectives.LInfDistance(
        region, ramp=(1, run.epochs - 1), train_eps=3 * run.eps
    )
    trainer = tfcert.CertifiedTrainer(model, objective, seed=run.seed)
    rate = keras.optimizers.schedules.CosineDecay(0.03, run.epochs * -(-len(x) // 200))
    trainer.compile(keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-10))
    begin = time.perf_counter()
    trainer.fit(x, y, batch_size=200, epochs=run.epochs, verbose=0)
    seconds = time.perf_counter() - begin
    clean = model.predict(x_test, batch_size=500, verbose=0).argmax(axis=1) == y_test
    # 0 where an input is misclassified.
    radius = np.concatenate(
        [
            tfcert.lipschitz.radius(model, x_test[i : i + 500], y_test[i : i + 500])
            for i in range(0, len(x_test), 500)
        ]
    )
    return {
        "seed": run.seed,
        "powers": "library" if run.exact else "fast",
        "clean": float(clean.mean()),
        "certified": float((radius > run.eps).mean()),
        "seconds": round(seconds, 1),
    }


def main(argv: Sequence[str]) -> None:
    """Trains pairs of networks and prints their accuracies."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    facts = {"command": " ".join(["python benchmarks/distance_training.py", *sys.argv[1:]])}
    facts |= machine.facts(len(os.sched_getaffinity(0)))
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print("\nseed  powers   clean %  certified %  seconds")
    rows: list[dict[str, Any]] = []
    chosen = Run(_DATA.value, _DATA_DIR.value, _MODEL.value, _EPOCHS.value, _EPS.value, 0, False)
    context = multiprocessing.get_context("spawn")
    for seed in map(int, _SEEDS.value):
        for exact in (False, True):
            run = dataclasses.replace(chosen, seed=seed, exact=exact)
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                row = pool.submit(train, run).result()
            rows.append(row)
            print(
                f"{seed:>4}  {row['powers']:<8}{100 * row['clean']:>7.2f}"
                f"{100 * row['certified']:>13.2f}{row['seconds']:>9.0f}",
                flush=True,
            )
            if _OUT.value:
                path = pathlib.Path(_OUT.value + ".json")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    fast, library = (
        statistics.fmean(row["certified"] for row in rows if row["powers"] == name)
        for name in ("fast", "library")
    )
    print(f"\ncertified, fast less library: {100 * (fast - library):+.2f} points")


if __name__ == "__main__":
    app.run(main)
