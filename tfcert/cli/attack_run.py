"""The work of the attacking program: load, attack, check the points, write."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import attacks, datasets, files, provenance
from tfcert.cli.attack_config import Config, check, settings
from tfcert.regions import LpBall

__all__ = ["attack_model"]

_ATTACKS: dict[str, type[attacks.Attack]] = {
    "apgd": attacks.APGD,
    "ensemble": attacks.Ensemble,
    "fgsm": attacks.FGSM,
    "pgd": attacks.PGD,
    "square": attacks.Square,
}


def attack_model(config: Config, log: Callable[[str], None]) -> dict[str, Any]:
    """Attacks what the model gets right, writes the results and returns them."""
    attack, model, (x, y) = _prepare(config)
    begin = time.perf_counter()
    clean = _predicted(model, x, config.batch_size)
    if (clean < 0).any():
        raise ValueError(
            f"The model returns NaN for {int((clean < 0).sum())} of {len(x)} images, the first "
            f"with the number {np.argmax(clean < 0)}. Received: --model_path={config.model_path}."
        )
    right = np.flatnonzero(clean == y)
    log(f"clean accuracy {len(right) / len(x):.4f}")
    broken = np.zeros(0, int)
    if len(right):
        points = attack(model, x[right], y[right], config.seed, config.batch_size)
        points = np.asarray(ops.convert_to_numpy(points))
        _check_inside(attack, points, x[right], config.batch_size)
        broken = right[_predicted(model, points, config.batch_size) != y[right]]
    results = {
        "samples": len(x),
        "clean_accuracy": len(right) / len(x),
        "accuracy_under_attack": (len(right) - len(broken)) / len(x),
        "attack": repr(attack),
        "broken": broken.tolist(),
        "seconds": round(time.perf_counter() - begin, 2),
        "flags": dataclasses.asdict(config),
        "model_sha256": hashlib.sha256(pathlib.Path(config.model_path).read_bytes()).hexdigest(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    log(f"accuracy under attack {results['accuracy_under_attack']:.4f}")
    files.write_json(pathlib.Path(config.out), results)
    return results


def _prepare(config: Config) -> tuple[attacks.Attack, keras.Model, tuple[np.ndarray, np.ndarray]]:
    """All that is needed, after finding what would stop the program later."""
    check(config)
    attack = _attack(config)
    model = files.load_model(config.model_path)
    _, (x, y) = datasets.load(config.dataset, config.data_dir)
    x, y = x[: config.limit], y[: config.limit]
    if tuple(model.input_shape[1:]) != x.shape[1:]:
        raise ValueError(
            f"--dataset={config.dataset} has images of shape {x.shape[1:]}. Received: a model for "
            f"inputs of shape {tuple(model.input_shape[1:])}."
        )
    files.check_writable(pathlib.Path(config.out))
    return attack, model, (x, y)


def _attack(config: Config) -> attacks.Attack:
    region = LpBall(config.eps, config.norm, (0.0, 1.0))
    return _ATTACKS[config.attack](region, **settings(config))


def _predicted(model: keras.Model, x: np.ndarray, size: int) -> np.ndarray:
    """The model's classes; -1, which is no class, where it returns NaN."""
    parts = [model(x[start : start + size], training=False) for start in range(0, len(x), size)]
    scores = np.concatenate([ops.convert_to_numpy(part) for part in parts])
    return np.where(np.isnan(scores).any(axis=-1), -1, np.argmax(scores, axis=-1))


def _check_inside(attack: attacks.Attack, points: np.ndarray, x: np.ndarray, size: int) -> None:
    """Decides beyond float64 what the attack should have seen to."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        outside = int((~attack.region.contains(points[part], x[part])).sum())
        if outside:
            raise RuntimeError(
                f"{outside} points of {attack!r} lie outside of the region. Keep the model, and "
                "report this as a bug."
            )
