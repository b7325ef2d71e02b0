"""Errors of a model on a test set: clean, attacked, and verified by several methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import attacks
from tfcert.bounds import least_margins
from tfcert.regions import Region

__all__ = ["assess"]


def assess(
    model: keras.Model,
    x: Any,
    y: Any,
    region: Region,
    methods: Sequence[Any] = ("ibp", "crown-ibp", "crown"),
    attack: attacks.Attack | None = None,
    batch_size: int = 250,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Errors of a model on labelled inputs, as shares of all of them.

    An input counts as an error of the attack if the model misclassifies it or a point of the region
    that the attack found, and as an error of a method if it is misclassified or not all its margin
    bounds are positive. Every method bounds every correctly classified input; none is told what
    another found.

    Args:
        model: A built model with one output, ``(batch, classes)``.
        x: Inputs.
        y: Integer labels.
        region: The region around each input.
        methods: Names or objects of ``tfcert.methods``.
        attack: Default: ``PGD(region, steps=100, restarts=1)`` on the margin.
        batch_size: Inputs at a time.
        log: Is given a line of progress now and then, such as ``print``.

    Returns:
        ``{"samples": n, "clean_error": share, "attack": {...}, "methods": {name: {...}}}`` with
        seconds; plain numbers, ready for JSON.
    """
    x, y = np.asarray(x), np.asarray(y)
    if region.varies(x):
        raise ValueError(
            "`region` must be the same for all inputs. Received: sizes or limits per sample, "
            f"{region!r}."
        )
    say = log or (lambda line: None)
    attack = attack or attacks.PGD(region, steps=100, loss="margin")
    predicted = np.concatenate(
        [
            np.argmax(ops.convert_to_numpy(model(part, training=False)), axis=-1)
            for part in np.array_split(x, max(1, len(x) // batch_size))
        ]
    )
    right = np.equal(predicted, y)
    result: dict[str, Any] = {"samples": len(x), "clean_error": float(1 - right.mean())}
    say(f"clean error {result['clean_error']:.4f}")

    if not right.any():
        raise ValueError("The model misclassifies all inputs: there is nothing to verify.")
    begin = time.perf_counter()
    points = ops.convert_to_numpy(attack(model, x[right], y[right], batch_size=batch_size))
    found = np.concatenate(
        [
            np.argmax(ops.convert_to_numpy(model(part, training=False)), axis=-1)
            for part in np.array_split(points, max(1, len(points) // batch_size))
        ]
    )
    broken = np.asarray(found != y[right])
    result["attack"] = {
        "name": repr(attack),
        "error": float(1 - (right.sum() - broken.sum()) / len(x)),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    say(f"attack error {result['attack']['error']:.4f}")

    result["methods"] = {}
    for method in methods:
        begin = time.perf_counter()
        verified = _verified(model, x[right], y[right], region, method, batch_size)
        name = method if isinstance(method, str) else repr(method)
        result["methods"][name] = {
            "error": float(1 - verified.sum() / len(x)),
            "seconds": round(time.perf_counter() - begin, 2),
        }
        unsound = int((verified & broken).sum())
        if unsound:
            raise RuntimeError(
                f"{name} verified {unsound} inputs that the attack broke. Keep the model and the "
                "inputs, and report this as a bug; float_safe=True tells whether it is rounding."
            )
        say(f"{name} verified error {result['methods'][name]['error']:.4f}")
    return result


def _verified(
    model: keras.Model, x: np.ndarray, y: np.ndarray, region: Region, method: Any, size: int
) -> np.ndarray:
    """Which inputs have positive margin bounds; the last batch is filled up to the same size."""
    size = min(size, len(x))
    parts = []
    for start in range(0, len(x), size):
        chosen = np.minimum(np.arange(start, start + size), len(x) - 1)
        again = len(x) > size
        least = least_margins(model, x[chosen], y[chosen], region, method, again=again)
        parts.append(ops.convert_to_numpy(least)[: len(x) - start] > 0)
    return np.concatenate(parts)
