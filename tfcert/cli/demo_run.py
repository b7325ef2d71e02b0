"""The demo's computation: train a small classifier, verify it by every method, rank the inputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import tfcert
from tfcert import datasets, provenance
from tfcert.cli.demo_config import Config
from tfcert.types import MethodName

__all__ = ["METHODS", "Config", "Results", "build_model", "run"]

# From the cheapest and loosest to the dearest and tightest.
METHODS: tuple[MethodName, ...] = ("ibp", "crown-ibp", "crown", "alpha-crown")

_RADIUS_METHOD: MethodName = "crown"
_RADIUS_HIGHEST = 0.25
_RADIUS_STEPS = 10  # halvings: radii to 0.25 / 2**10, about 2e-4
_PIXELS = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Results:
    """What the demo found; the arrays have one entry per verified test image."""

    config: Config
    parameters: int
    training_seconds: float
    test_accuracy: float  # on all 360 test images
    x: np.ndarray
    y: np.ndarray
    predictions: np.ndarray
    verified: dict[str, np.ndarray]  # method -> (eps, image), True where verified
    seconds: dict[str, list[float]]  # method -> one call per eps, the first one compiles
    radius: np.ndarray  # the largest eps found at which CROWN verifies; 0 if misclassified
    runner_up: np.ndarray  # the class whose margin bound is the smallest at that radius

    @property
    def clean_accuracy(self) -> float:
        """The fraction of the chosen images that is classified correctly."""
        return float(np.mean(self.predictions == self.y))

    def accuracies(self, method: str) -> list[float]:
        """The fraction of the chosen images that `method` verifies, for each eps."""
        return [float(accuracy) for accuracy in self.verified[method].mean(axis=1)]

    def facts(self) -> dict[str, Any]:
        """All numbers, and what is needed to repeat the run, as plain Python values."""
        return {
            "flags": dataclasses.asdict(self.config),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "commit": provenance.commit(),
            "parameters": self.parameters,
            "training_seconds": round(self.training_seconds, 3),
            "test_accuracy": self.test_accuracy,
            "clean_accuracy": self.clean_accuracy,
            "methods": {
                method: {
                    "verified_accuracy": self.accuracies(method),
                    "seconds_first_call": round(self.seconds[method][0], 4),
                    "seconds_later_calls": [round(s, 4) for s in self.seconds[method][1:]],
                }
                for method in self.verified
            },
            "certified_radius": {
                "method": _RADIUS_METHOD,
                "median": float(np.median(self.radius)),
                "of_each_image": [round(float(radius), 6) for radius in self.radius],
            },
        }


def build_model() -> keras.Model:
    """A plain Keras classifier of 8x8 images that gives 10 logits."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            # Active in training only: smoother decision boundaries, hence larger margins.
            layers.GaussianNoise(0.2),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def run(config: Config, log: Callable[[str], None]) -> Results:
    """Trains and certifies; `log` gets a line whenever a part is done."""
    keras.utils.set_random_seed(config.seed)
    (x_train, y_train), (x_test, y_test) = datasets.load("digits")
    model = build_model()
    model.compile(
        keras.optimizers.AdamW(2e-3, weight_decay=0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    log(f"Training {model.count_params():,} weights for {config.epochs} epochs ...")
    begin = time.perf_counter()
    model.fit(x_train, y_train, batch_size=64, epochs=config.epochs, verbose=0)
    training_seconds = time.perf_counter() - begin
    test_accuracy = float(np.mean(_classify(model, x_test) == y_test))
    log(f"  {training_seconds:.1f} s; {test_accuracy:.1%} of the 360 test images are right.")

    # The file keeps the order in which people wrote; a fixed choice mixes them.
    chosen = np.random.default_rng(0).permutation(len(x_test))[: config.examples]
    x, y = x_test[chosen], y_test[chosen]
    predictions = _classify(model, x)
    verified: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {}
    for method in METHODS:
        log(f"Verifying {len(x)} images at {len(config.eps)} sizes of eps by {method} ...")
        verified[method], seconds[method] = _verify(model, x, y, config.eps, method)
        log(f"  {sum(seconds[method]):.1f} s, of which {seconds[method][0]:.1f} s the first call.")
    log(f"Searching each image's largest eps that {_RADIUS_METHOD} verifies ...")
    radius, runner_up = _radii(model, x, y)
    return Results(
        config=config,
        parameters=model.count_params(),
        training_seconds=training_seconds,
        test_accuracy=test_accuracy,
        x=x,
        y=y,
        predictions=predictions,
        verified=verified,
        seconds=seconds,
        radius=radius,
        runner_up=runner_up,
    )


def _classify(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.argmax(model.predict(x, batch_size=len(x), verbose=0), axis=-1)


def _margins(
    model: keras.Model, x: np.ndarray, y: np.ndarray, region: tfcert.LpBall, method: MethodName
) -> np.ndarray:
    """The margin bounds, with the column of the true class set to +inf."""
    margins = keras.ops.convert_to_numpy(tfcert.bound_margins(model, x, y, region, method=method))
    return np.where(np.arange(margins.shape[1]) == y[:, None], np.inf, margins)


def _verify(
    model: keras.Model, x: np.ndarray, y: np.ndarray, sizes: tuple[float, ...], method: MethodName
) -> tuple[np.ndarray, list[float]]:
    """Which image is verified at which eps, and the seconds each eps took."""
    verified, seconds = [], []
    for eps in sizes:
        begin = time.perf_counter()
        margins = _margins(model, x, y, tfcert.LpBall(eps, clip=_PIXELS), method)
        seconds.append(time.perf_counter() - begin)
        # x itself is in the region, so positive margins imply a correct classification.
        verified.append(np.all(margins > 0, axis=1))
    return np.stack(verified), seconds


def _radii(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's largest eps found by halving, and the class that comes closest there."""
    region = tfcert.LpBall(_RADIUS_HIGHEST, clip=_PIXELS)
    verified = np.zeros(len(x), np.float32)
    failed = np.full(len(x), _RADIUS_HIGHEST, np.float32)
    for _ in range(_RADIUS_STEPS):
        eps = (verified + failed) / 2
        holds = np.all(_margins(model, x, y, region.with_eps(eps), _RADIUS_METHOD) > 0, axis=1)
        verified, failed = np.where(holds, eps, verified), np.where(holds, failed, eps)
    closest = np.argmin(_margins(model, x, y, region.with_eps(verified), _RADIUS_METHOD), axis=1)
    return verified, closest
