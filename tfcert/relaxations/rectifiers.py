"""Piecewise linear activation functions of Keras with arguments."""

from __future__ import annotations

import math

from keras import activations, ops

from tfcert import types
from tfcert.relaxations import curve as curve_lib
from tfcert.relaxations import piecewise

__all__ = [
    "clip",
    "hard_shrink",
    "leaky_relu",
    "prelu",
    "relu",
    "soft_shrink",
    "threshold",
]

_INF = math.inf


def relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> curve_lib.Curve:
    """The curve of ``keras.layers.ReLU``.

    x above `threshold`, ``negative_slope * (x - threshold)`` below, at most `max_value`. It jumps
    at a positive threshold.
    """
    if max_value is None and threshold == 0:
        return piecewise.TwoPiece(negative_slope, name="relu")
    top = _INF if max_value is None else float(max_value)
    slope, threshold = float(negative_slope), float(threshold)
    pieces = [(-_INF, slope, -slope * threshold if slope else 0.0)]
    if threshold < top:
        pieces.append((threshold, 1.0, 0.0))
    if top < _INF:
        pieces.append((max(threshold, top), 0.0, top))
    starts, slopes, intercepts = zip(*pieces, strict=True)
    return piecewise.PiecewiseLinear(
        "relu",
        lambda x: activations.relu(
            x, negative_slope=slope, max_value=max_value, threshold=threshold
        ),
        starts[1:],
        slopes,
        intercepts,
        limits=(-_INF if slope > 0 else 0.0, top),
    )


def leaky_relu(negative_slope: float = 0.2) -> curve_lib.Curve:
    """The curve of ``keras.layers.LeakyReLU``."""
    return piecewise.TwoPiece(float(negative_slope), name="leaky_relu")


def prelu(alpha: types.Tensor) -> curve_lib.Curve:
    """The curve of ``keras.layers.PReLU``; `alpha` is a tensor that broadcasts to the inputs."""
    return piecewise.TwoPiece(alpha, name="prelu")


def clip(low: float, high: float) -> curve_lib.Curve:
    """The curve of ``min(max(x, low), high)``."""
    low, high = float(low), float(high)
    if low > high:
        raise NotImplementedError(f"clip has no rule for limits with low > high: {low}, {high}.")
    if low == high:
        return piecewise.PiecewiseLinear("clip", lambda x: ops.clip(x, low, high), (), (0,), (low,))
    return piecewise.PiecewiseLinear(
        "clip", lambda x: ops.clip(x, low, high), (low, high), (0, 1, 0), (low, 0, high)
    )


def threshold(threshold: float, default_value: float) -> curve_lib.Curve:
    """The curve of ``keras.activations.threshold``: x above `threshold`, else `default_value`."""
    return piecewise.PiecewiseLinear(
        "threshold",
        lambda x: ops.where(x > threshold, x, ops.full_like(x, default_value)),
        (float(threshold),),
        (0.0, 1.0),
        (float(default_value), 0.0),
    )


def soft_shrink(threshold: float = 0.5) -> curve_lib.Curve:
    """The curve of ``keras.activations.soft_shrink``: x moved towards 0 by `threshold`."""
    t = _shrinking("soft_shrink", threshold)
    if t == 0:
        return piecewise.PiecewiseLinear("soft_shrink", lambda x: x, (), (1.0,), (0.0,))
    return piecewise.PiecewiseLinear(
        "soft_shrink",
        lambda x: ops.soft_shrink(x, threshold=t),
        (-t, t),
        (1.0, 0.0, 1.0),
        (t, 0.0, -t),
    )


def hard_shrink(threshold: float = 0.5) -> curve_lib.Curve:
    """The curve of ``keras.activations.hard_shrink``: 0 on ``[-threshold, threshold]``, else x."""
    t = _shrinking("hard_shrink", threshold)
    if t == 0:
        return piecewise.PiecewiseLinear("hard_shrink", lambda x: x, (), (1.0,), (0.0,))
    return piecewise.PiecewiseLinear(
        "hard_shrink",
        lambda x: ops.hard_shrink(x, threshold=t),
        (-t, t),
        (1.0, 0.0, 1.0),
        (0.0, 0.0, 0.0),
    )


def _shrinking(name: str, threshold: float) -> float:
    if not threshold >= 0:
        raise NotImplementedError(f"{name} has no rule for a threshold below 0: {threshold}.")
    return float(threshold)
