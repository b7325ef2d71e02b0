"""Latency of a certified prediction beside that of the plain model, both as loaded SavedModels.

    python benchmarks/serving.py --out=benchmarks/results/serving_cpu
    python benchmarks/serving.py --models=run/model.keras --eps=0.1 --data=mnist

The networks: one of two dense layers and one with convolutions (dm_small), trained here with
intervals for a few epochs on MNIST, and those of the reference folder. Weights matter: CROWN-IBP
sweeps only the classes that decide a margin, few in a network that was trained to be certified.
The plain model and the certifying one are called in turns, so that a slow minute of the machine
meets both.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cases
import keras
import machine
import numpy as np
import tensorflow as tf
from absl import app, flags

import tfcert
from tfcert import methods

_MODELS = flags.DEFINE_list("models", [], "Trained .keras files instead of the built-in choice.")
_EPS = flags.DEFINE_float("eps", 0.1, "Radius for --models and the networks trained here.", 0.0)
_DATA = flags.DEFINE_string("data", "mnist", "Data set of --models and of the trained networks.")
_DATA_DIR = flags.DEFINE_string("data_dir", "../shared/data", "Where its file lies.")
_REFERENCE = flags.DEFINE_string("reference_dir", "../shared/reference", "Reference networks.")
_NETWORKS = flags.DEFINE_list("reference", ["kw_mnist", "cifar_2c2f"], "Which of them; or none.")
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Of training dm_small and the dense network.", 1)
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown-ibp", "crown"], "Of tfcert.methods.")
_XLA = flags.DEFINE_list("xla", ["false", "true"], "Without and with XLA, for both sides.")
_BATCHES = flags.DEFINE_list("batches", ["1", "32", "256"], "Inputs in a request.")
_REPEATS = flags.DEFINE_integer("repeats", 60, "Timed calls of each side.", lower_bound=3)
_SECONDS = flags.DEFINE_float("max_seconds_per_row", 15.0, "Stop a row earlier after that.", 0.1)
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")


class Subject(NamedTuple):
    """A network, its test inputs and the radius that it is certified at."""

    name: str
    model: keras.Model
    x: np.ndarray
    region: tfcert.LpBall


def _subjects() -> Iterator[Subject]:
    ball = tfcert.LpBall(_EPS.value, clip=(0.0, 1.0))
    (x, y), (test, _) = tfcert.datasets.load(_DATA.value, _DATA_DIR.value)
    for path in _MODELS.value:
        model = keras.models.load_model(path, compile=False)
        yield Subject(pathlib.Path(path).parent.name, model, test, ball)
    if _MODELS.value:
        return
    for name in ("mlp_2x256", "dm_small"):
        keras.utils.set_random_seed(0)
        model = tfcert.models.get(name, x.shape[1:], 10)
        ramp = tfcert.schedules.Linear(0.0, 1.0, 0, max(1, _EPOCHS.value - 1))
        trainer = tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(ball, ramp=ramp))
        trainer.compile(keras.optimizers.Adam(1e-3))
        trainer.fit(x, y, epochs=_EPOCHS.value, batch_size=256, verbose=2)
        yield Subject(f"{name}, IBP", model, test, ball)
    for name in filter(None, _NETWORKS.value):
        path = pathlib.Path(_REFERENCE.value) / "bounds" / f"{name}.npz"
        if not path.exists():
            print(f"{name}: {path} is not there; left out.")
            continue
        (network,) = cases.find([name], _REFERENCE.value, "linf_moderate", 0)
        x = cases.inputs_of(network, 256, 0)
        yield Subject(name, cases.build_keras(network), x, tfcert.LpBall(network.eps))


def _plain(model: keras.Model, folder: str, xla: bool) -> Callable[..., Any]:
    """The model alone as a SavedModel: label and scores."""

    @tf.function(
        input_signature=[tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, "x")],
        jit_compile=xla or None,
        autograph=False,
    )
    def serve(x: Any) -> dict[str, Any]:
        scores = model(x, training=False)
        return {"label": tf.argmax(scores, axis=-1), "scores": scores}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})
    return tf.saved_model.load(folder).signatures["serving_default"]


def _times(sides: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Milliseconds of calls of each side, in turns, without the first ones."""
    for side in sides:
        for _ in range(3):
            side()
    times: list[list[float]] = [[] for _ in sides]
    end = time.perf_counter() + _SECONDS.value
    while len(times[0]) < 3 or (len(times[0]) < _REPEATS.value and time.perf_counter() < end):
        for side, known in zip(sides, times, strict=True):
            begin = time.perf_counter()
            side()
            known.append(1000 * (time.perf_counter() - begin))
    return times


def _rows(subject: Subject, xla: bool, folder: str) -> Iterator[dict[str, Any]]:
    plain = _plain(subject.model, f"{folder}/plain-{xla}", xla)
    for name in _METHODS.value:
        path = f"{folder}/{name}-{xla}"
        method = methods.get(name)
        tfcert.export_certified(subject.model, path, subject.region, method, jit_compile=xla)
        certified = tf.saved_model.load(path).signatures["serving_default"]
        for batch in map(int, _BATCHES.value):
            x = tf.constant(subject.x[:batch])
            share = float(np.mean(certified(x=x)["certified"].numpy()))
            sides = [functools.partial(_call, side, x) for side in (plain, certified)]
            base, ours = _times(sides)
            yield {
                "network": subject.name,
                "eps": float(subject.region.eps),
                "method": name,
                "xla": xla,
                "batch": batch,
                "certified": share,
                "plain_ms": statistics.median(base),
                "certified_ms": statistics.median(ours),
                "times_plain": statistics.median(ours) / statistics.median(base),
                "calls": len(ours),
            }


def _call(served: Callable[..., Any], x: Any) -> np.ndarray:
    return served(x=x)["label"].numpy()


def main(argv: Sequence[str]) -> None:
    """Measures and prints; writes the file."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    facts = machine.facts(len(os.sched_getaffinity(0)))
    facts["backend"] = f"tensorflow {tf.__version__}"
    facts["command"] = " ".join(["python benchmarks/serving.py", *sys.argv[1:]])
    rows = []
    print(
        f"{'network':16} {'method':10} {'XLA':5} {'batch':>5} {'share':>6} "
        f"{'plain ms':>9} {'ms':>9} {'times':>6}"
    )
    for subject in _subjects():
        for xla in (word == "true" for word in _XLA.value):
            with tempfile.TemporaryDirectory() as folder:
                for row in _rows(subject, xla, folder):
                    rows.append(row)
                    print(
                        f"{row['network']:16} {row['method']:10} {row['xla']!s:5} "
                        f"{row['batch']:5} {row['certified']:6.2f} {row['plain_ms']:9.2f} "
                        f"{row['certified_ms']:9.2f} {row['times_plain']:6.1f}",
                        flush=True,
                    )
                    if _OUT.value:
                        report = {"facts": facts, "rows": rows}
                        path = pathlib.Path(_OUT.value + ".json")
                        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
