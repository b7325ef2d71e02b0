"""Noisy samples a second of the certifier, beside a bare forward pass and a plain Keras loop.

    python benchmarks/smoothing.py --networks=lenet,resnet20 --out=smoothing
    python benchmarks/smoothing.py --model=lenet.keras --data=mnist --sigma=0.5 --images=20
    KERAS_BACKEND=jax python benchmarks/smoothing.py

The first table needs no trained network, since a forward pass takes as long with any weights. The
sides take turns, so that a slow minute of the machine meets all of them. With --model a second
table compares adaptive sampling with a fixed number of samples, where the weights do matter: time,
samples and mean radius of the certified inputs.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import machine
import numpy as np
from absl import app, flags

_NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet20"], "Of lenet and resnet20.")
_SAMPLES = flags.DEFINE_integer("samples", 20_000, "Noisy samples per burst.", lower_bound=100)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed bursts of each side.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 200, "Samples per network call, for all sides.", lower_bound=100
)
_SIGMA = flags.DEFINE_float("sigma", 0.25, "Standard deviation of the noise.", lower_bound=1e-6)
_MODEL = flags.DEFINE_string("model", None, "A trained .keras file for the second table.")
_DATA = flags.DEFINE_string("data", "mnist", "Data set of --model, by its name in tfcert.")
_DATA_DIR = flags.DEFINE_string("data_dir", "../shared/data", "Where its file lies.")
_IMAGES = flags.DEFINE_integer("images", 20, "Test inputs, evenly spread.", lower_bound=1)
_N = flags.DEFINE_integer("n", 100_000, "Samples of the fixed procedure.", lower_bound=1)
_ALPHA = flags.DEFINE_float("alpha", 0.001, "Of both procedures.")
_PRECISIONS = flags.DEFINE_list("precisions", ["0.02", "0.05", "0.1"], "Of adaptive sampling.")
_OUT = flags.DEFINE_string("out", None, "Where to write the tables: OUT.json.")


def _lenet():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ],
        name="lenet",
    )


def _resnet20():
    import keras
    from keras import layers

    def convolution(x, filters: int, stride: int = 1, size: int = 3):
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    start = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(start, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if filters > 16 and block == 0 else 1
            y = layers.ReLU()(convolution(x, filters, stride))
            shortcut = x if stride == 1 else convolution(x, filters, stride, size=1)
            x = layers.ReLU()(layers.Add()([convolution(y, filters), shortcut]))
    scores = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(start, scores, name="resnet20")


_BUILDERS = {"lenet": _lenet, "resnet20": _resnet20}

flags.register_validator(
    "networks",
    lambda names: set(names) <= set(_BUILDERS),
    f"--networks is a list of {', '.join(_BUILDERS)}.",
)


def _sides(model, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed: each call puts --samples samples around one input through the network."""
    from keras import ops

    from tfcert import backend, smoothing

    size, calls = _BATCH_SIZE.value, -(-_SAMPLES.value // _BATCH_SIZE.value)
    batch = ops.convert_to_tensor(np.repeat(x, size, axis=0))
    forward = backend.compile_function(
        lambda batch: model(batch, training=False), model, backend.prefers_xla() or None
    )
    smoothed = smoothing.SmoothedClassifier(model, sigma=_SIGMA.value, batch_size=size)
    rng = np.random.default_rng(0)

    def bare() -> None:
        for _ in range(calls):
            ops.convert_to_numpy(forward(batch))

    def certify() -> None:
        smoothed.certify(x, n0=100, n=calls * size)

    def plain() -> None:
        counts = np.zeros(model.output_shape[-1], int)
        for _ in range(calls):
            noisy = x + rng.normal(scale=_SIGMA.value, size=(size, *x.shape[1:]))
            votes = model.predict_on_batch(noisy.astype("float32")).argmax(axis=-1)
            counts += np.bincount(votes, minlength=len(counts))

    return {"bare forward": bare, "certify": certify, "plain Keras loop": plain}


def _rates(name: str) -> dict[str, float]:
    """Samples a second of each side: medians of bursts that take turns."""
    model = _BUILDERS[name]()
    x = np.random.default_rng(0).uniform(size=(1, *model.input_shape[1:])).astype("float32")
    sides = _sides(model, x)
    for side in sides.values():
        side()  # Compiles.
    times: dict[str, list[float]] = {title: [] for title in sides}
    for _ in range(_ROUNDS.value):
        for title, side in sides.items():
            start = time.perf_counter()
            side()
            times[title].append(time.perf_counter() - start)
    drawn = -(-_SAMPLES.value // _BATCH_SIZE.value) * _BATCH_SIZE.value
    return {title: drawn / statistics.median(found) for title, found in times.items()}


def _adaptive() -> list[dict[str, float | str]]:
    """Time, samples and radii on a trained network, for each way of sampling."""
    import keras

    import tfcert
    from tfcert import smoothing

    _, (x, y) = tfcert.datasets.load(_DATA.value, data_dir=_DATA_DIR.value)
    places = np.linspace(0, len(x) - 1, min(_IMAGES.value, len(x))).astype(int)
    smoothed = smoothing.SmoothedClassifier(
        keras.models.load_model(_MODEL.value), sigma=_SIGMA.value, batch_size=_BATCH_SIZE.value
    )
    smoothed.certify(x[:1], n=_BATCH_SIZE.value)  # Compiles.
    ways: dict[str, bool | smoothing.Adaptive] = {"fixed": False}
    for precision in _PRECISIONS.value:
        ways[f"adaptive, {precision}"] = smoothing.Adaptive(precision=float(precision))
    seconds = dict.fromkeys(ways, 0.0)
    found: dict[str, list] = {title: [] for title in ways}
    for place in places:  # The ways take turns here too.
        for title, adaptive in ways.items():
            start = time.perf_counter()
            image = x[place : place + 1]
            result = smoothed.certify(
                image, n=_N.value, alpha=_ALPHA.value, index=int(place), adaptive=adaptive
            )
            seconds[title] += time.perf_counter() - start
            found[title].append(np.array([field[0] for field in result]))
    rows: list[dict[str, float | str]] = []
    for title, results in found.items():
        prediction, radius, _, samples = np.stack(results, axis=1)
        right = prediction == y[places]
        rows.append(
            {
                "sampling": title,
                "images a minute": 60 * len(places) / seconds[title],
                "samples an image": float(samples.mean()),
                "mean radius": float((radius * right).mean()),
                "certified": float(right.mean()),
            }
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Prints the tables."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    facts = machine.facts(os.cpu_count() or 1)
    for name, value in facts.items():
        print(f"# {name}: {value}")
    rates = {}
    print("network      samples/s: " + "  ".join(("bare", "certify", "plain loop", "certify/bare")))
    for name in _NETWORKS.value:
        rates[name] = found = _rates(name)
        share = found["certify"] / found["bare forward"]
        values = "  ".join(f"{value:,.0f}" for value in found.values())
        print(f"{name:12s} {values}  {share:.0%}", flush=True)
    rows = _adaptive() if _MODEL.value else []
    for row in rows:
        first = row.pop("sampling")
        print(f"{first}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        row["sampling"] = first
    if _OUT.value:
        results = {"machine": facts, "samples_per_second": rates, "adaptive": rows}
        pathlib.Path(_OUT.value + ".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
