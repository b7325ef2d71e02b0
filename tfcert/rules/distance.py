"""Rules of l-inf-distance networks: layers of distances, and the subtraction of a running mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from tfcert import backend, layers
from tfcert.layers import interval_kernels, point_kernels, sorted_kernels
from tfcert.rules import building
from tfcert.rules.interval import Interval
from tfcert.rules.linear import read
from tfcert.rules.nonlinear import Opaque
from tfcert.rules.normalization import Normalizing
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule
from tfcert.rules.rounding import rounding_error
from tfcert.types import Tensor

__all__ = ["Distances"]


class Distances(Opaque):
    """``||x - w_j||_p`` over the last axis, in intervals that are exact for each unit.

    Linear bounds start anew behind it. A unit is a maximum of many slopes of both signs: a line
    below it is its interval's end at best, and one above would cost a table of all its inputs.

    Args:
        layer: Holds the exponent ``p``.
        kernel: The weights ``(inputs, units)``, as a function without arguments.
    """

    def __init__(self, layer: Any, kernel: Any):
        self.layer, self.kernel = layer, kernel

    def parameters(self, dtype: str) -> tuple[Tensor, Tensor]:
        return read(self.kernel, dtype), read(self.layer.p, dtype)

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return _on_last(lambda x: point_kernels.distances(x, *p), p[0], values[0])

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x, (w, exponent) = intervals[0], p
        low, high = (ops.reshape(end, (-1, w.shape[0])) for end in x.bounds)
        ends = interval_kernels.interval_distances(low, high, w, exponent)
        shape = (-1, *x.lower.shape[1:-1], w.shape[1])
        return Interval.from_ends(*[ops.reshape(end, shape) for end in ends])

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        # At a finite p the factor is not 1. Compiled code cannot raise: nothing is certified then.
        return ops.where(ops.isinf(p[1]), radii[0], ops.full_like(radii[0], math.inf))

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        # At p = inf each difference is rounded once, and the largest is picked.
        w, exponent = p

        def sizes(x: Tensor) -> Tensor:
            return point_kernels.distances(x, -ops.abs(w), ops.full_like(exponent, math.inf))

        error = rounding_error(_on_last(sizes, w, magnitudes[0]), 2, unit)
        return ops.where(ops.isinf(exponent), error, ops.full_like(error, math.inf))

    def check(self, need: str) -> None:
        exponent = 1.0 * ops.convert_to_tensor(self.layer.p)  # No number while a graph is built.
        if backend.is_symbolic(exponent) or math.isinf(float(ops.convert_to_numpy(exponent))):
            return
        what = {
            "lipschitz": "has the l-inf Lipschitz factor 1 at p = inf only, so there is no margin "
            'rule at a finite p. Other methods bound any p, as method="ibp".',
            "rounding": "has a rounding analysis at p = inf only. Use float_safe=False.",
        }
        raise NotImplementedError(
            f"{what[need]} Certificates are for p = inf: tfcert.layers.set_exponent(model, "
            f"math.inf). Received: p={float(ops.convert_to_numpy(exponent)):g}."
        )


class SortedDistances(Opaque):
    """The layer's sorted sum, in intervals that are exact for each unit.

    Linear bounds start anew behind it, as behind ``Distances``.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: layers.SortedDistance):
        self.layer = layer

    def parameters(self, dtype: str) -> Tensor:
        return read(self.layer.kernel, dtype)

    def apply(self, w: Any, *values: Tensor) -> Tensor:
        return sorted_kernels.sorted_sum(values[0], w, self.layer.shares)

    def interval(self, w: Any, *intervals: Interval) -> Interval:
        x = intervals[0]
        return Interval.from_ends(*sorted_kernels.sorted_interval(*x.bounds, w, self.layer.shares))

    def lipschitz(self, w: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        return radii[0]

    def rounding(self, w: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        # A difference, its weight, the product, and the sum round once for each term.
        sizes = sorted_kernels.sorted_sum(magnitudes[0], -ops.abs(w), self.layer.shares)
        return rounding_error(sizes, len(self.layer.shares) + 4, unit)


def _on_last(function: Any, w: Tensor, x: Tensor) -> Tensor:
    """A function of rows ``(n, inputs)`` on the last axis of a value."""
    found = function(ops.reshape(x, (-1, w.shape[0])))
    return ops.reshape(found, (-1, *x.shape[1:-1], w.shape[1]))


def _with_bias(layer: Any, node: Node) -> Node:
    return node if layer.bias is None else building.scale(node, shift=layer.bias)


def _sorted_distance(layer: Any, x: Node) -> Node:
    return _with_bias(layer, apply(SortedDistances(layer), x))


def _linf_distance(layer: Any, x: Node) -> Node:
    return _with_bias(layer, apply(Distances(layer, lambda: layer.kernel), x))


def _linf_distance_conv(layer: Any, x: Node) -> Node:
    channels, filters = layer.kernel.shape[2], layer.filters // layer.groups
    size = math.prod(layer.kernel.shape[:3])
    parts = []
    for group in range(layer.groups):
        mine = slice(group * channels, (group + 1) * channels)
        own = slice(group * filters, (group + 1) * filters)

        def patches(t: Tensor, mine: slice = mine) -> Tensor:
            cut = layer.patches(t)[..., mine]
            return ops.reshape(cut, (-1, *cut.shape[1:3], size))

        def kernel(own: slice = own) -> Tensor:
            whole = ops.convert_to_tensor(layer.kernel)
            return ops.reshape(whole[..., own], (size, filters))

        parts.append(apply(Distances(layer, kernel), building.rearrange(patches, x)))
    if len(parts) > 1:
        parts = [building.rearrange(lambda *ts: ops.concatenate(ts, axis=-1), *parts)]
    return _with_bias(layer, parts[0])


class MeanShift(Normalizing):
    """``x - mean`` with a fixed mean."""

    @property
    def uses_batch(self) -> bool:
        return True

    def _factors(self, dtype: str) -> tuple[None, Tensor]:
        return self.from_moments(read(self.layer.moving_mean, dtype), None, dtype)

    def from_moments(self, mean: Tensor, variance: Any, dtype: str) -> tuple[None, Tensor]:
        return None, self._shaped(-mean)


def _mean_shift(layer: Any, x: Node) -> Node:
    return apply(MeanShift(layer, len(x.shape), -1), x)


register_rule(layers.LInfDistance, _linf_distance)
register_rule(layers.LInfDistanceConv2D, _linf_distance_conv)
register_rule(layers.SortedDistance, _sorted_distance)
register_rule(layers.MeanShift, _mean_shift)
