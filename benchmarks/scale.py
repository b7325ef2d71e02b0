"""What certifying an ImageNet-size set would cost: measured on a small network, then extrapolated.

    python benchmarks/scale.py --out=benchmarks/results/scale

docs/scale.md explains the extrapolation. Takes about two minutes.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import machine
import numpy as np
from absl import app, flags

import tfcert

_BATCH = flags.DEFINE_integer("batch", 32, "Inputs bounded together.", 1)
_EPS = flags.DEFINE_float("eps", 1 / 255, "Radius, on the pixel scale 0 to 1.", 0.0)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the fastest counts.", 1)
_INPUTS = flags.DEFINE_integer("inputs", 50_000, "Inputs of the large set.", 1)
_SAMPLES = flags.DEFINE_integer("samples", 100_000, "Noisy samples of smoothing.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Decides weights and inputs.")
_OUT = flags.DEFINE_string("out", None, "Where to write the rows: OUT.json.")

_ITERATIONS = 20  # of alpha-CROWN
_MEASURED_SAMPLES = 2_000


class Size(NamedTuple):
    """What the cost of a network depends on."""

    macs: int  # multiplications of a forward pass
    neurons: int  # that have a ReLU
    classes: int
    weighted: float  # neurons, each times the share of the network's work that lies before it


def small() -> keras.Model:
    """Two convolutions and two dense layers, for 32x32x3."""
    conv, dense = keras.layers.Conv2D, keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            conv(16, 4, strides=2, padding="same"),
            keras.layers.ReLU(),
            conv(32, 4, strides=2, padding="same"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            dense(100),
            keras.layers.ReLU(),
            dense(10),
        ]
    )


def size_of(model: keras.Model) -> Size:
    """Counts multiplications and ReLUs, layer by layer in the model's order."""
    done, neurons, sums = 0, 0, 0.0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            done += math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
        name = getattr(getattr(layer, "activation", None), "__name__", "")
        if isinstance(layer, keras.layers.ReLU) or name == "relu":
            count = math.prod(layer.output.shape[1:])
            neurons, sums = neurons + count, sums + count * done
    return Size(done, neurons, model.output_shape[-1], sums / done)


def work(size: Size, unstable: float, samples: int) -> dict[str, float]:
    """Multiplications per input of the parts that methods are made of.

    Intervals are two passes. A backward sweep passes once for each of its rows: the classes; for
    CROWN also, through what lies before them, all neurons whose sign is open. alpha-CROWN repeats
    the sweep of the classes with its gradient, three passes an iteration.
    """
    return {
        "intervals": 2.0 * size.macs,
        "classes": float(size.macs * size.classes),
        "neurons": size.macs * unstable * size.weighted,
        "iterations": 3.0 * _ITERATIONS * size.macs * size.classes,
        "samples": float(samples) * size.macs,
    }


# The parts of each method, of which the last is what it has over the method before.
PARTS = {
    "ibp": ("intervals",),
    "crown-ibp": ("intervals", "classes"),
    "crown": ("intervals", "classes", "neurons"),
    "alpha-crown": ("intervals", "classes", "neurons", "iterations"),
    "smoothing": ("samples",),
}


def extrapolate(
    seconds: Mapping[str, float], done: Mapping[str, float], wanted: Mapping[str, float]
) -> dict[str, float]:
    """Seconds per input of the large network, by method.

    Every part is taken to run as many multiplications a second as it did when it was measured, as
    the difference between a method and the one before.
    """
    rates: dict[str, float] = {}
    result = {}
    for name, parts in PARTS.items():
        before = sum(done[part] / rates[part] for part in parts[:-1])
        rates[parts[-1]] = done[parts[-1]] / max(seconds[name] - before, 1e-9)
        result[name] = sum(wanted[part] / rates[part] for part in parts)
    return result


def unstable_share(model: keras.Model, x: np.ndarray, region: tfcert.LpBall) -> float:
    """The share of ReLUs whose sign is open after CROWN."""
    before = [layer.input for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    lower, upper = tfcert.bound(keras.Model(model.inputs, before), x, region, "crown")
    ends = zip(map(np.asarray, lower), map(np.asarray, upper), strict=True)
    open_signs = [((low < 0) & (high > 0)).ravel() for low, high in ends]
    return float(np.concatenate(open_signs).mean())


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    call()  # Compiles.
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        np.asarray(call())
        times.append(time.perf_counter() - begin)
    return min(times)


def measure() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The facts of both networks, and a row for each method."""
    keras.utils.set_random_seed(_SEED.value)
    model = small()
    generator = np.random.default_rng(_SEED.value)
    x = generator.random((_BATCH.value, 32, 32, 3)).astype("float32")
    y = np.zeros(len(x), int)
    region = tfcert.LpBall(_EPS.value, clip=(0.0, 1.0))
    unstable = unstable_share(model, x, region)
    seconds = {}
    for name in ("ibp", "crown-ibp", "crown", "alpha-crown"):
        method = (
            tfcert.methods.AlphaCrown(iterations=_ITERATIONS) if name == "alpha-crown" else name
        )

        def call(method: Any = method) -> Any:
            return tfcert.bound_margins(model, x, y, region, method)

        seconds[name] = _seconds(call, _REPEATS.value) / len(x)
    smoothed = tfcert.smoothing.SmoothedClassifier(model, sigma=0.25)
    arguments = {"n0": 1, "n": _MEASURED_SAMPLES, "alpha": 0.001, "seed": 0}
    seconds["smoothing"] = _seconds(lambda: smoothed.certify(x[:4], **arguments).radius, 3) / 4
    large = keras.applications.ResNet50(weights=None)
    sizes = {"small": size_of(model), "large": size_of(large)}
    done = work(sizes["small"], unstable, _MEASURED_SAMPLES + 1)
    wanted = work(sizes["large"], unstable, _SAMPLES.value)
    estimated = extrapolate(seconds, done, wanted)
    rows = [
        {
            "method": name,
            "inputs_per_second": 1.0 / taken,
            "gmacs": sum(done[part] for part in PARTS[name]) / 1e9,
            "large_gmacs": sum(wanted[part] for part in PARTS[name]) / 1e9,
            "large_seconds": estimated[name],
            "large_hours": _INPUTS.value * estimated[name] / 3600,
        }
        for name, taken in seconds.items()
    ]
    facts = {
        "small": sizes["small"]._asdict(),
        "large": sizes["large"]._asdict(),
        "unstable": unstable,
        "inputs": _INPUTS.value,
        "samples": _SAMPLES.value,
        "measured_samples": _MEASURED_SAMPLES,
        "batch": _BATCH.value,
        "eps": _EPS.value,
    }
    return facts, rows


def text(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        f"Measured: {facts['small']['macs'] / 1e6:.2f} million multiplications, "
        f"{facts['small']['neurons']} ReLUs, of which {100 * facts['unstable']:.1f} % are open.",
        f"Extrapolated: {facts['large']['macs'] / 1e9:.2f} billion multiplications, "
        f"{facts['large']['neurons'] / 1e6:.1f} million ReLUs, {facts['inputs']} inputs.",
        f"{'method':<14}{'inputs/s':>10}{'GMAC/input':>12}{'large, GMAC':>14}{'hours':>12}",
    ]
    lines += [
        f"{row['method']:<14}{row['inputs_per_second']:>10.4g}{row['gmacs']:>12.4g}"
        f"{row['large_gmacs']:>14.4g}{row['large_hours']:>12.4g}"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    known = {"command": " ".join(["python benchmarks/scale.py", *sys.argv[1:]])}
    known |= machine.facts(2) | {"backend": keras.backend.backend()}
    facts, rows = measure()
    print(text(facts, rows))
    if _OUT.value:
        path = pathlib.Path(f"{_OUT.value}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {"facts": {**known, **facts}, "rows": rows}
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
