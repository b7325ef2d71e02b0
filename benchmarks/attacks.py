"""How strong the attacks are: accuracy of an undefended network, beside PGD written out.

    python benchmarks/attacks.py --out=benchmarks/results/attacks

A small convolutional network for the digits that come with tfcert is trained for a few seconds
without any defence. "plain loop" is projected gradient ascent of the margin in NumPy, as many steps
of the same length from the input itself, for the norms whose projection is one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_STEPS = flags.DEFINE_integer("steps", 100, "Of each attack but FGSM.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the network and of the starts.")
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")

REGIONS: Sequence[tuple[Any, float]] = (("inf", 0.1), (2, 0.6), (1, 2.5))


def _train(seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    import keras

    import tfcert

    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    return model, x_test, y_test


def _accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(axis=1) == y))


def _gradients(model: Any, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The gradient of the margin, wrong minus right, by the input."""
    import tensorflow as tf

    hot = tf.one_hot(y, 10)

    @tf.function
    def compute(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = model(x, training=False)
            wrong = tf.reduce_max(scores - 1e9 * hot, axis=1)
            loss = tf.reduce_sum(wrong - tf.reduce_sum(hot * scores, axis=1))
        return tape.gradient(loss, x)

    return lambda x: compute(tf.constant(x)).numpy()


def plain_loop(
    model: Any, x: np.ndarray, y: np.ndarray, norm: Any, eps: float, steps: int
) -> np.ndarray | None:
    """Which inputs stay right at all points of the way; None for norms without a loop here."""
    if norm not in ("inf", 2):
        return None
    gradients, point = _gradients(model, y), x.copy()
    right = model.predict(x, batch_size=500, verbose=0).argmax(axis=1) == y
    length = 2.5 / steps * eps
    for _ in range(steps):
        gradient = gradients(point)
        if norm == "inf":
            point = np.clip(point + length * np.sign(gradient), x - eps, x + eps)
        else:
            point = point + length * gradient / np.maximum(_norms(gradient), 1e-12)
            move = point - x
            point = x + move * np.minimum(1.0, eps / np.maximum(_norms(move), 1e-12))
        point = np.clip(point, 0.0, 1.0).astype("float32")
        right &= model.predict(point, batch_size=500, verbose=0).argmax(axis=1) == y
    return right


def _norms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(values**2, axis=(1, 2, 3), keepdims=True))


def main(argv: Sequence[str]) -> None:
    """Prints and writes a row for each region and attack."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfcert import LpBall, attacks

    model, x, y = _train(_SEED.value)
    clean, steps = _accuracy(model, x, y), _STEPS.value
    facts = {"command": " ".join(["python benchmarks/attacks.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    print(f"clean: {clean:.1%}")
    rows: list[dict[str, Any]] = []

    def add(norm: Any, eps: float, name: str, accuracy: float) -> None:
        print(f"{norm!s:>4} {eps:5.2f} {name:<16} {accuracy:6.1%}", flush=True)
        row = {"norm": norm, "eps": eps, "attack": name, "accuracy": accuracy}
        rows.append({**row, "clean": clean, "samples": len(x)})

    for norm, eps in REGIONS:
        region = LpBall(eps, norm, clip=(0.0, 1.0))
        tried = {
            "FGSM": attacks.FGSM(region),
            "PGD from x": attacks.PGD(region, steps, loss="margin", random_start=False),
            "PGD": attacks.PGD(region, steps, loss="margin"),
            "PGD, 5 starts": attacks.PGD(region, steps, restarts=5, loss="margin"),
            "APGD": attacks.APGD(region, steps, loss="margin"),
            "APGD, 5 starts": attacks.APGD(region, steps, restarts=5, loss="margin"),
        }
        right = plain_loop(model, x, y, norm, eps, steps)
        if right is not None:
            add(norm, eps, "plain loop", float(right.mean()))
        for name, attack in tried.items():
            points = np.asarray(attack(model, x, y, seed=_SEED.value))
            add(norm, eps, name, _accuracy(model, points, y))
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
