"""Rules of layers that normalise each sample by its own mean, deviation or length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfcert import relaxations
from tfcert.rules import building
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Declared, Scale, read
from tfcert.rules.nonlinear import Product
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule
from tfcert.types import Tensor

__all__ = ["Normalised"]


class Normalised(Product):
    """``x * inverse``, where ``inverse`` is known to be a function of x: the last axis's deviation.

    Every entry rises with its own x, and falls in size with the size of the others. That gives
    exact ends, which say more than any plane where the inverse is hardly known.

    Args:
        divisor: ``divisor(q)``, what x is divided by, from the sum of squares q over the last axis:
            a function that rises, and more slowly than the root of q.
    """

    def __init__(self, divisor: Callable[[Tensor], Tensor]):
        self.divisor = divisor

    def _end(self, own: Tensor, x: Interval, side: float) -> Tensor:
        nearest = ops.maximum(ops.maximum(x.lower, -x.upper), 0.0)
        least = building.sum_of_others(ops.square(nearest))
        most = building.sum_of_others(ops.square(x.magnitude))
        others = ops.where(side * own >= 0, least, most)
        return own / self.divisor(ops.square(own) + others)

    def ends(self, x: Interval) -> tuple[Tensor, Tensor]:
        """The exact range of the value."""
        return self._end(x.lower, x, -1.0), self._end(x.upper, x, 1.0)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return super().interval(p, *intervals).intersect(*self.ends(intervals[0])).ordered()

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        """The planes of the product; a constant where that is tighter at the centre."""
        x, y = intervals
        middle, error = x.center * y.center, x.radius * y.radius
        planes, ends = super().relax(p, slope, *intervals), self.ends(x)
        chosen: list[Tensor] = []
        for side, end in zip((-1.0, 1.0), ends, strict=True):
            flat = side * end <= side * middle + error
            on_x, on_y, intercept = planes[len(chosen) : len(chosen) + 3]
            zeros = ops.zeros_like(on_x)
            chosen += [ops.where(flat, zeros, on_x), ops.where(flat, zeros, on_y)]
            chosen.append(ops.where(flat, end, intercept))
        return tuple(chosen)


def _center(x: Node) -> Node:
    """``x - mean(x)`` over the last axis; ``|W| r = (1 - 2/n) r + mean(r)``."""
    size = x.shape[-1]
    return apply(
        Declared(
            lambda t: t - ops.mean(t, axis=-1, keepdims=True),
            lambda r: (1.0 - 2.0 / size) * r + ops.mean(r, axis=-1, keepdims=True),
            x.shape,
        ),
        x,
    )


def _divided(x: Node, weight: float, epsilon: float, limit: float, least: float = 0.0) -> Node:
    """``x / sqrt(max(weight * sum(x^2) + epsilon, least))``, the sum over the last axis.

    Args:
        x: The node.
        weight: Factor of the sum.
        epsilon: Added to it.
        limit: What no entry exceeds.
        least: The least square that x is divided by.
    """
    size = x.shape[-1]
    squares = building.curve(relaxations.CURVES["square"], x)
    spread = building.rearrange(
        lambda t: ops.repeat(weight * ops.sum(t, axis=-1, keepdims=True), size, axis=-1), squares
    )
    spread = building.scale(spread, shift=epsilon - least)
    if least:
        spread = building.curve(relaxations.CURVES["relu"], spread)
        spread = building.scale(spread, shift=least)
    inverse = building.curve(relaxations.CURVES["rsqrt"], spread)

    def divisor(q: Tensor) -> Tensor:
        return ops.sqrt(ops.maximum(weight * q + epsilon, least))

    result = apply(Normalised(divisor), x, inverse)

    def within(t: Interval) -> Interval:
        return Interval.from_ends(ops.full_like(t.lower, -limit), ops.full_like(t.upper, limit))

    return Node(result.primitive, result.inputs, result.shape, enclosure=(within, (x,)))


def _axes(axis: int | Sequence[int], x: Node) -> list[int]:
    """Axes counted from the batch axis on."""
    return [a % (len(x.shape) + 1) for a in ([axis] if isinstance(axis, int) else axis)]


def _scaled(x: Node, axes: Sequence[int], gamma: Any, beta: Any) -> Node:
    """``x * gamma + beta`` with weights over the given axes."""
    if gamma is None and beta is None:
        return x
    shape = [x.shape[a - 1] if a in axes else 1 for a in range(1, len(x.shape) + 1)]

    def factors(dtype: str) -> tuple[Tensor | None, ...]:
        return tuple(
            None if v is None else ops.reshape(read(v, dtype), shape) for v in (gamma, beta)
        )

    return apply(Scale(factors), x)  # type: ignore[arg-type]


def _standardised(x: Node, axes: Sequence[int], epsilon: float) -> Node:
    """``(x - mean) / sqrt(variance + epsilon)`` over axes."""
    moved, restore = building.to_last(x, axes)
    size = moved.shape[-1]
    limit = math.sqrt(max(size - 1, 0))
    return restore(_divided(_center(moved), 1.0 / size, epsilon, limit))


def _layer_normalization(layer: Any, x: Node) -> Node:
    if getattr(layer, "rms_scaling", False):
        raise NotImplementedError(
            "rms_scaling=True has no rule. Use keras.layers.RMSNormalization."
        )
    axes = _axes(layer.axis, x)
    result = _standardised(x, axes, float(layer.epsilon))
    return _scaled(result, axes, layer.gamma, layer.beta)


def _rms_normalization(layer: Any, x: Node) -> Node:
    axes = _axes(layer.axis, x)
    moved, restore = building.to_last(x, axes)
    size = moved.shape[-1]
    result = restore(_divided(moved, 1.0 / size, float(layer.epsilon), math.sqrt(size)))
    return _scaled(result, axes, layer.scale, None)


def _group_normalization(layer: Any, x: Node) -> Node:
    (axis,) = _axes(layer.axis, x)
    size = x.shape[axis - 1] // layer.groups
    shape = [*x.shape[: axis - 1], layer.groups, size, *x.shape[axis:]]
    grouped = building.reshape(x, shape)
    inside = [a for a in range(1, len(shape) + 1) if a != axis]
    result = building.reshape(_standardised(grouped, inside, float(layer.epsilon)), x.shape)
    return _scaled(result, [axis], layer.gamma, layer.beta)


# As in UnitNormalization.call.
_SHORTEST = 1e-12


def _unit_normalization(layer: Any, x: Node) -> Node:
    moved, restore = building.to_last(x, layer.axis)
    return restore(_divided(moved, 1.0, 0.0, 1.0, least=_SHORTEST**2))


def _normalize(op: Any, x: Node) -> Node:
    if op.order != 2 or op.axis is None:
        raise NotImplementedError("normalize has a rule for order=2 and given axes.")
    shortest = keras.config.epsilon() if op.epsilon is None else float(op.epsilon)
    moved, restore = building.to_last(x, op.axis)
    return restore(_divided(moved, 1.0, 0.0, 1.0, least=shortest**2))


register_rule("keras.ops.Normalize", _normalize)
register_rule(keras.layers.LayerNormalization, _layer_normalization)
register_rule(keras.layers.RMSNormalization, _rms_normalization)
register_rule(keras.layers.GroupNormalization, _group_normalization)
register_rule(keras.layers.UnitNormalization, _unit_normalization)
