"""How strong the attacks are: accuracy of an undefended network, beside PGD written out.

    python benchmarks/attacks.py --out=benchmarks/results/attacks

A small convolutional network for the digits that come with tfcert is trained for a few seconds
without any defence. "plain loop" is projected gradient ascent of the margin in NumPy, as many steps
of the same length from the input itself, for the norms whose projection is one line.

    python benchmarks/attacks.py --folder=../shared/vnncomp --out=benchmarks/results/attack_hits

measures instead how often attacks find what there is: counterexamples of a network of the
verification competition, at radii just above the smallest that a longer search is known to break.
"""

from __future__ import annotations

import csv
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_STEPS = flags.DEFINE_integer("steps", 100, "Of each attack but FGSM.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the network and of the starts.")
_FOLDER = flags.DEFINE_string(
    "folder", None, "Folder of the competition's files. With it, hit rates are measured."
)
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


def _competition(folder: pathlib.Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """The network of mnist_fc, and the images that its properties are about."""
    from tfcert import interchange
    from tfcert.interchange import properties

    with open(folder / "expected.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == "mnist_fc"]
    place = folder / "mnist_fc"
    model = interchange.load_onnx(place / rows[0]["onnx"])
    images = {}
    for row in rows:
        name, eps = row["vnnlib"].removesuffix(".vnnlib.gz").rsplit("_", 1)
        asked = interchange.read_vnnlib(place / row["vnnlib"])
        case = asked.cases[0]
        # The box is cut off at 0 and 1.
        image = np.where(case.lower <= 0, case.upper - float(eps), case.lower + float(eps))
        label = properties.label_of(list(asked.cases), asked.outputs)
        images[name] = np.clip(image, 0, 1).astype("float32"), label
    x, y = zip(*images.values(), strict=True)
    return model, np.reshape(x, (len(x), *model.input_shape[1:])), np.array(y)


def _broken(attack: Any, model: Any, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(attack.worst_points(model, x, y, seed=seed).margins) > 0


def smallest(model: Any, x: np.ndarray, y: np.ndarray, most: float, halvings: int) -> np.ndarray:
    """The smallest l-inf radius that a long search breaks; infinite where `most` is too little."""
    from tfcert import LpBall, attacks

    lower, upper = np.zeros(len(x)), np.full(len(x), most)
    for number in range(halvings):
        size = 0.5 * (lower + upper)
        region = LpBall(1.0, clip=(0.0, 1.0)).with_eps(size)
        search = attacks.Ensemble(region, attacks.Ensemble(region).plan(10)[:3], starts=16)
        broken = _broken(search, model, x, y, 1000 + number)
        lower, upper = np.where(broken, lower, size), np.where(broken, size, upper)
        print(f"halving {number}: {np.round(upper, 5)}", flush=True)
    return np.where(upper < most, upper, np.inf)


def hit_rates(folder: pathlib.Path, steps: int, seed: int) -> list[dict[str, Any]]:
    """How often attacks of 8 starts break images a little above the smallest known radius."""
    from tfcert import LpBall, attacks

    model, x, y = _competition(folder)
    radius = smallest(model, x, y, most=0.12, halvings=9)
    known = np.isfinite(radius)
    x, y, radius = x[known], y[known], radius[known]
    rows = []
    for factor in (1.005, 1.03):
        region = LpBall(1.0, clip=(0.0, 1.0)).with_eps(factor * radius)
        plan = attacks.Ensemble(region).plan(10)
        tried: dict[str, Any] = {
            "PGD": [attacks.PGD(region, steps, loss="margin")],
            "APGD": [attacks.APGD(region, steps, loss="margin")],
            "APGD, 9 targets": [attacks.APGD(region, steps, loss="margin", targets=9)],
            "Square": [attacks.Square(region)],
            "Ensemble": plan,
        }
        for name, parts in tried.items():
            attack = attacks.Ensemble(region, parts, starts=8)
            _broken(attack, model, x, y, seed)  # compiles
            begin = time.perf_counter()
            hits = [_broken(attack, model, x, y, seed + 1 + k) for k in range(3)]
            row = {
                **{"factor": factor, "attack": name, "hits": int(np.sum(hits))},
                **{"tries": int(np.size(hits)), "images": len(x)},
                "seconds": (time.perf_counter() - begin) / len(hits),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def accuracies(steps: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy of a network for digits under each attack, a row for each region and attack."""
    from tfcert import LpBall, attacks

    model, x, y = _train(seed)
    clean = _accuracy(model, x, y)
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
            "Ensemble": attacks.Ensemble(region),
        }
        if norm != 1:
            tried["Square"] = attacks.Square(region)
        right = plain_loop(model, x, y, norm, eps, steps)
        if right is not None:
            add(norm, eps, "plain loop", float(right.mean()))
        for name, attack in tried.items():
            points = np.asarray(attack(model, x, y, seed=seed))
            add(norm, eps, name, _accuracy(model, points, y))
    return rows


def main(argv: Sequence[str]) -> None:
    """Prints and writes a row for each region and attack."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/attacks.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    if _FOLDER.value:
        rows = hit_rates(pathlib.Path(_FOLDER.value), _STEPS.value, _SEED.value)
    else:
        rows = accuracies(_STEPS.value, _SEED.value)
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
