"""Balls in place of intervals: values at x, and how far they move at most."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcert.bounds.evaluation import Evaluation
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Constant, Node
from tfcert.types import Tensor

__all__ = ["BallEvaluation", "moved"]


class BallEvaluation(Evaluation):
    """An evaluation whose intervals are balls around the values at x, its ``point``."""

    def inputs(self) -> Interval:
        """The ball around x that just holds the region."""
        x = ops.cast(self.point, self.dtype)
        away = ops.maximum(self.bound.upper - x, x - self.bound.lower)
        return _ball(x, _most(away))

    def enclose(self, node: Node, inputs: list[Interval]) -> Interval:
        """The ball around the value of the centres."""
        p = self.parameters[node]
        center = node.primitive.apply(p, *[x.center for x in inputs])
        return _ball(center, moved(node, p, [_most(x.radius) for x in inputs]))


def moved(node: Node, p: Any, radii: list[Tensor]) -> Tensor:
    """Returns how far the value of a node moves, ``(batch,)``, if its inputs move by radii."""
    if isinstance(node.primitive, Constant):
        return ops.zeros_like(ops.ravel(p)[:1])
    try:
        return node.primitive.lipschitz(p, [source.shape for source in node.inputs], *radii)
    except NotImplementedError as reason:
        raise NotImplementedError(f"Layer {node.name!r}: {reason}") from reason


def _most(values: Tensor) -> Tensor:
    """The largest entry of each sample, ``(batch,)``."""
    return ops.max(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)


def _ball(center: Tensor, radius: Tensor) -> Interval:
    shape = [-1] + [1] * (len(center.shape) - 1)
    return Interval.from_center(center, ops.reshape(radius, shape) + ops.zeros_like(center))
