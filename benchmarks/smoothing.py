"""Noisy samples a second of the certifier, beside a bare forward pass, a plain loop and PyTorch.

    python benchmarks/smoothing.py --networks=lenet,resnet20 --out=benchmarks/results/smoothing_cpu
    python benchmarks/smoothing.py --model=lenet.keras --data=mnist --sigma=0.5 --images=20
    KERAS_BACKEND=jax python benchmarks/smoothing.py

The first table needs no trained network, since a forward pass takes as long with any weights. The
sides take turns, so that a slow minute of the machine meets all of them; PyTorch, where it can be
imported, works in a process of its own, at the better of two batch sizes. With --model a second
table compares adaptive sampling with a fixed number of samples, where the weights do matter: time,
samples and average certified radius (ACR). It runs in float32, like PyTorch's side, and for models
that were saved in bfloat16 in that as well.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import machine
import numpy as np
import smoothing_peer
import timing
from absl import app, flags

_SHAPES = {"lenet": (28, 28, 1), "resnet20": (32, 32, 3), "resnet110": (32, 32, 3)}

_NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet20"], f"Of {', '.join(_SHAPES)}.")
_SAMPLES = flags.DEFINE_integer("samples", 20_000, "Noisy samples per burst.", lower_bound=100)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed bursts of each side.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Samples per network call, for all sides. Default: tfcert's."
)
_SIGMA = flags.DEFINE_float("sigma", 0.25, "Standard deviation of the noise.", lower_bound=1e-6)
_PEER = flags.DEFINE_bool("peer", True, "PyTorch beside it, where it can be imported.")
_MODEL = flags.DEFINE_string("model", None, "A trained .keras file for the second table.")
_MODEL_NETWORK = flags.DEFINE_enum(
    "model_network", "lenet", list(_SHAPES), "Which network --model is, for PyTorch's time."
)
_DATA = flags.DEFINE_string("data", "mnist", "Data set of --model, by its name in tfcert.")
_DATA_DIR = flags.DEFINE_string("data_dir", "../shared/data", "Where its file lies.")
_IMAGES = flags.DEFINE_integer("images", 20, "Test inputs, evenly spread.", lower_bound=1)
_N = flags.DEFINE_integer("n", 100_000, "Samples of the fixed procedure.", lower_bound=1)
_ALPHA = flags.DEFINE_float("alpha", 0.001, "Of both procedures.")
_PRECISIONS = flags.DEFINE_list("precisions", ["0.05", "0.1", "0.15"], "Of adaptive sampling.")
_OUT = flags.DEFINE_string("out", None, "Where to write the tables: OUT.json.")

flags.register_validator(
    "networks",
    lambda names: set(names) <= set(_SHAPES),
    f"--networks is a list of {', '.join(_SHAPES)}.",
)

_PATIENCE = 600.0
_PEER_BATCH = 1000  # The default of the reference procedure.
_PEER_SIDE = "PyTorch loop"


def _batch_size(network: str) -> int:
    from tfcert.smoothing import counting

    return _BATCH_SIZE.value or counting.default_batch(_SHAPES[network])


def _sides(model: Any, x: np.ndarray, samples: int, size: int) -> dict[str, Callable[[], object]]:
    """What is timed: each call puts some samples around one input through the network."""
    from keras import ops

    from tfcert import backend, smoothing

    calls = samples // size
    batch = ops.convert_to_tensor(np.repeat(x, size, axis=0))
    forward = backend.compile_function(
        lambda batch: model(batch, training=False), model, backend.prefers_xla() or None
    )
    rng = np.random.default_rng(0)

    def bare() -> None:
        for _ in range(calls):
            ops.convert_to_numpy(forward(batch))

    def certify(model: Any) -> Callable[[], object]:
        smoothed = smoothing.SmoothedClassifier(model, sigma=_SIGMA.value, batch_size=size)
        return lambda: smoothed.certify(x, n0=100, n=samples)

    def plain() -> None:
        counts = np.zeros(model.output_shape[-1], int)
        for _ in range(calls):
            noisy = x + rng.normal(scale=_SIGMA.value, size=(size, *x.shape[1:]))
            votes = model.predict_on_batch(noisy.astype("float32")).argmax(axis=-1)
            counts += np.bincount(votes, minlength=len(counts))

    return {
        "bare forward": bare,
        "certify": certify(model),
        "certify, bfloat16": certify(smoothing.in_bfloat16(model)),
        "plain Keras loop": plain,
    }


@contextmanager
def _peer(network: str, samples: int) -> Iterator[dict[str, Callable[[], object]]]:
    """The side of PyTorch, which waits in a process of its own; nothing where it is not."""
    if not _PEER.value:
        yield {}
        return
    sides = {}
    try:
        for size in {_batch_size(network), _PEER_BATCH}:
            case = smoothing_peer.Case(network, samples, size, _SIGMA.value)
            sides[size] = timing.Side("smoothing_peer", case, os.cpu_count() or 1, math.inf)
            sides[size].wait(_PATIENCE)
            sides[size].ask(_PATIENCE, "first")
    except timing.Failed as failure:
        print(f"# {_PEER_SIDE}: left out: {failure}")
        _close(sides.values())
        yield {}
        return

    def burst(size: int) -> float:
        start = time.perf_counter()
        sides[size].ask(_PATIENCE, "burst", 1, _PATIENCE)
        return time.perf_counter() - start

    best = min(sides, key=lambda size: min(burst(size) for _ in range(2)))
    print(f"# {_PEER_SIDE}, {network}: batches of {best}")
    try:
        yield {_PEER_SIDE: lambda: burst(best)}
    finally:
        _close(sides.values())


def _close(sides: Iterable[timing.Side]) -> None:
    for side in sides:
        side.close()


def _rates(name: str) -> dict[str, float]:
    """Samples a second of each side: medians of bursts that take turns."""
    from tfcert import models

    model = models.get(name, _SHAPES[name], 10)
    x = np.random.default_rng(0).uniform(size=(1, *_SHAPES[name])).astype("float32")
    size = _batch_size(name)
    samples = -(-_SAMPLES.value // size) * size
    with _peer(name, samples) as peer:
        sides = {**_sides(model, x, samples, size), **peer}
        for side in sides.values():
            side()  # Compiles.
        times: dict[str, list[float]] = {title: [] for title in sides}
        for _ in range(_ROUNDS.value):
            for title, side in sides.items():
                start = time.perf_counter()
                side()
                times[title].append(time.perf_counter() - start)
    return {title: samples / statistics.median(found) for title, found in times.items()}


def _ways() -> dict[str, tuple[Any, Any]]:
    """Ways of sampling by their titles, each with the classifier that it is for."""
    import keras

    from tfcert import smoothing
    from tfcert.smoothing.precision import computes_in

    def classifier(model: Any) -> Any:
        size = _batch_size(_MODEL_NETWORK.value)
        return smoothing.SmoothedClassifier(model, sigma=_SIGMA.value, batch_size=size)

    saved = keras.models.load_model(_MODEL.value, compile=False)
    plain = keras.models.clone_model(
        saved, clone_function=lambda layer: layer.from_config(_in_float32(layer.get_config()))
    )
    plain.set_weights(saved.get_weights())
    first = classifier(plain)
    ways: dict[str, tuple[Any, Any]] = {"fixed": (first, False)}
    for precision in _PRECISIONS.value:
        rule = smoothing.Adaptive(precision=float(precision))
        ways[f"adaptive, {precision}"] = (first, rule)
    if computes_in(saved) != "float32":
        ways[f"fixed, {computes_in(saved)}"] = (classifier(saved), False)
    return ways


def _in_float32(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"dtype": "float32"} if "dtype" in config else config


def _adaptive() -> list[dict[str, float | str | None]]:
    """Time, samples and radii on a trained network, for each way of sampling."""
    import tfcert

    _, (x, y) = tfcert.datasets.load(_DATA.value, data_dir=_DATA_DIR.value)
    places = np.linspace(0, len(x) - 1, min(_IMAGES.value, len(x))).astype(int)
    ways = _ways()
    for smoothed, _ in ways.values():
        smoothed.certify(x[:1], n=1000)  # Compiles.
    seconds = dict.fromkeys([*ways, _PEER_SIDE], 0.0)
    found: dict[str, list] = {title: [] for title in ways}
    with _peer(_MODEL_NETWORK.value, 100 + _N.value) as peer:
        for place in places:  # The ways take turns here too.
            for title, (smoothed, adaptive) in ways.items():
                start = time.perf_counter()
                image = x[place : place + 1]
                result = smoothed.certify(
                    image, n=_N.value, alpha=_ALPHA.value, index=int(place), adaptive=adaptive
                )
                seconds[title] += time.perf_counter() - start
                found[title].append(np.array([field[0] for field in result]))
            for title, side in peer.items():
                start = time.perf_counter()
                side()
                seconds[title] += time.perf_counter() - start
    rows: list[dict[str, float | str | None]] = []
    for title, results in found.items():
        prediction, radius, _, samples = np.stack(results, axis=1)
        right = prediction == y[places]
        rows.append(
            {
                "sampling": title,
                "images_a_minute": 60 * len(places) / seconds[title],
                "samples_an_image": float(samples.mean()),
                "acr": float((radius * right).mean()),
                "certified": float(right.mean()),
            }
        )
    for title in peer:
        rate = 60 * len(places) / seconds[title]
        rows.append({"sampling": title, "images_a_minute": rate, "samples_an_image": _N.value})
    return rows


def main(argv: Sequence[str]) -> None:
    """Prints the tables."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/smoothing.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    found = timing.probe("smoothing_peer", os.cpu_count() or 1) if _PEER.value else {}
    facts |= found if isinstance(found, dict) else {_PEER_SIDE: f"left out: {found}"}
    sizes = {name: _batch_size(name) for name in _NETWORKS.value}
    facts["batch_size"] = ", ".join(f"{name} {size}" for name, size in sizes.items())
    for name, value in facts.items():
        print(f"# {name}: {value}")
    rows = []
    for name in _NETWORKS.value:
        rates = _rates(name)
        rows.append({"network": name, "samples_per_second": rates})
        print(f"{name}, samples a second")
        for side, rate in rates.items():
            print(f"  {side:<20}{rate:>10,.0f}{rate / rates['bare forward']:>8.0%}", flush=True)
    adaptive = _adaptive() if _MODEL.value else []
    for row in adaptive:
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
    if _OUT.value:
        report = {"facts": facts, "rows": rows, "adaptive": adaptive}
        pathlib.Path(_OUT.value + ".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
