"""tfcert's side of the benchmark of margins: bounds by every method, and attacked values."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import cases

__all__ = ["Question", "measure"]


@dataclasses.dataclass(frozen=True)
class Question:
    """The task of one process.

    Args:
        network: The network; labels are the classes that it gives to its inputs.
        inputs: How many of its inputs are bounded.
        radii: Radii of the l-inf ball, without clipping.
        methods: Names of ``cases.METHODS``.
        dtype: The float type of the networks and the bounds.
    """

    network: cases.Network
    inputs: int
    radii: Sequence[float]
    methods: Sequence[str]
    dtype: str = "float32"


def measure(question: Question) -> list[dict[str, Any]]:
    """By radius: the least margin of every input by method, attacked, and without a perturbation.

    "crown cpu" and the like are the processor seconds of the call, in a list of one.
    """
    import keras
    from keras import ops

    import tfcert

    keras.config.set_floatx(question.dtype)
    keras.config.set_dtype_policy(question.dtype)
    model = cases.build_keras(question.network)
    x = question.network.inputs[: question.inputs].astype(question.dtype)
    scores = ops.convert_to_numpy(model(x))
    y = scores.argmax(axis=1)
    others = scores - 1e30 * (y[:, None] == range(scores.shape[1]))
    rows = []
    for eps in question.radii:
        region = tfcert.LpBall(eps)
        attack = tfcert.attacks.PGD(region, steps=50, restarts=2, early_stop=False)
        keras.utils.set_random_seed(0)
        found = attack.worst_points(model, x, y)[2]
        row: dict[str, Any] = {"clean": (scores.max(axis=1) - others.max(axis=1)).tolist()}
        row["attacked"] = (-ops.convert_to_numpy(found)).tolist()
        for method in question.methods:
            begin = time.process_time()
            least = tfcert.least_margins(model, x, y, region, method)
            row[method] = ops.convert_to_numpy(least).tolist()
            row[f"{method} cpu"] = [time.process_time() - begin]
        rows.append(row)
    return rows
