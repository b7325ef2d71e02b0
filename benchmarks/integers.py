"""Bounds of a small convolutional network in int8, beside those of the float network.

    python benchmarks/integers.py --out=benchmarks/results/integers

The data set is the UCI digits that ship with the package. TensorFlow converts each trained network
to a LiteRT file of int8 operators, calibrated with 100 training digits. The program counts how many
integers of the loaded model are those that TensorFlow's interpreter computes, bounds and certifies
both networks, and executes random points of the regions of certified digits.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import machine
import numpy as np
from absl import app, flags

_EPS = flags.DEFINE_list("eps", ["0", "0.01", "0.03"], "Radii of bounds, for pixels in [0, 1].")
_CERTIFIED = flags.DEFINE_float("certified_eps", 0.03, "Radius of training and of certificates.")
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs of training.", lower_bound=1)
_DIGITS = flags.DEFINE_integer("digits", 100, "Test digits that are certified.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown"], "Methods of bounds.")
_OUT = flags.DEFINE_string("out", None, "File for the results, without its ending: OUT.json.")


def trained(trained_with: str) -> Any:
    """A network trained by one objective, and the test digits."""
    import keras
    from keras import layers

    import tfcert

    keras.utils.set_random_seed(0)
    (x, y), test = tfcert.datasets.load("digits")
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )
    region = tfcert.LpBall(_CERTIFIED.value, clip=(0.0, 1.0))
    objective = (
        tfcert.objectives.IBP(region, ramp=(1, max(2, 2 * _EPOCHS.value // 3)))
        if trained_with == "ibp"
        else tfcert.objectives.Standard()
    )
    trainer = tfcert.CertifiedTrainer(model, objective, seed=0)
    trainer.compile(keras.optimizers.Adam(2e-3, global_clipnorm=5.0))
    trainer.fit(x, y, batch_size=64, epochs=_EPOCHS.value, verbose=0)
    return model, x[:100], test


def converted(model: Any, calibration: np.ndarray, path: pathlib.Path) -> None:
    """Writes the network as a LiteRT file of int8 operators."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(io.StringIO()):
        path.write_bytes(converter.convert())


def executed(path: pathlib.Path, x: np.ndarray, reference: bool) -> np.ndarray:
    """Outputs of TensorFlow's interpreter, by the optimised or the reference kernels."""
    import tensorflow as tf

    kinds = tf.lite.experimental.OpResolverType
    kind = kinds.BUILTIN_REF if reference else kinds.AUTO
    running = tf.lite.Interpreter(str(path), experimental_op_resolver_type=kind)
    (entry,), (end,) = running.get_input_details(), running.get_output_details()
    running.resize_tensor_input(entry["index"], x.shape)
    running.allocate_tensors()
    running.set_tensor(entry["index"], x.astype("float32"))
    running.invoke()
    return running.get_tensor(end["index"])


def measured(trained_with: str, folder: pathlib.Path) -> dict[str, Any]:
    """One network, as floats and as integers."""
    import tfcert

    model, calibration, (x, y) = trained(trained_with)
    path = folder / f"{trained_with}.tflite"
    converted(model, calibration, path)
    integers = tfcert.interchange.load_litert(path)
    row: dict[str, Any] = {"trained_with": trained_with}
    own = np.asarray(integers(x))
    for name, reference in (("optimized", False), ("reference", True)):
        row[f"equal_outputs_{name}"] = float(np.mean(own == executed(path, x, reference)))
    some, labels = x[: _DIGITS.value], y[: _DIGITS.value]
    networks = {"float": model, "int8": integers}
    row["widths"] = {}
    for eps in map(float, _EPS.value):
        for method in _METHODS.value:
            for name, network in networks.items():
                region = tfcert.LpBall(eps, clip=(0.0, 1.0))
                lower, upper = tfcert.bound(network, some, region, method)
                row["widths"][f"{name} {method} {eps:g}"] = float(np.mean(upper - lower))
    region = tfcert.LpBall(_CERTIFIED.value, clip=(0.0, 1.0))
    for name, network in networks.items():
        begin = time.perf_counter()
        result = tfcert.certify(network, some, labels, region, method=_METHODS.value)
        verified = result.verdict == "verified"
        row[name] = {
            "accuracy": float(np.mean(np.argmax(network.predict(x, verbose=0), axis=1) == y)),
            "verdicts": {
                str(kind): int((result.verdict == kind).sum()) for kind in np.unique(result.verdict)
            },
            "seconds": round(time.perf_counter() - begin, 1),
        }
    points = np.asarray(region.sample(some[verified], 100, 0, corners=True))
    flat = points.reshape(-1, *x.shape[1:])
    classes = [executed(path, flat, reference).argmax(axis=1) for reference in (False, True)]
    expected = np.repeat(labels[verified], points.shape[1])
    row["executed_points"] = 2 * len(flat)
    row["broken_certificates"] = int(sum((found != expected).sum() for found in classes))
    return row


def main(argv: Sequence[str]) -> None:
    """Measures two networks and prints a line for each."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=UserWarning, module="tensorflow")
    facts = {"command": " ".join(["python benchmarks/integers.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for trained_with in ("ibp", "standard"):
            rows.append(measured(trained_with, pathlib.Path(folder)))
            print(rows[-1], flush=True)
            if _OUT.value:
                machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
