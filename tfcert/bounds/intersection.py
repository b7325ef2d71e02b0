"""Two methods at once, and the tighter bound of each value."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.method import Method
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["Intersection"]


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Intersection(Method):
    """Two methods together, which keep the tighter bound of each value.

    The second method runs alone, so the result is never looser than its bounds. The first method
    uses the tighter interval of each hidden value. Other intervals may give other lines around a
    ReLU, so the first method may find other bounds than alone.

    Args:
        first: The method whose intervals are tightened by those of the second one.
        second: The method that runs alone.
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
    """

    first: Method
    second: Method

    @property
    def intersect(self) -> bool:  # type: ignore[override]
        return self.first.intersect or self.second.intersect

    @property
    def backward(self) -> bool:  # type: ignore[override]
        return self.first.backward or self.second.backward

    def tighter(self) -> Method | None:
        return self.first.tighter() or self.second.tighter()

    def check(self, network: Network, statistics: str = "moving") -> None:
        super().check(network, statistics)
        self.first.check(network, statistics)
        self.second.check(network, statistics)

    def entries(self, network: Network, rows: int) -> int:
        return self.first.entries(network, rows) + self.second.entries(network, rows)

    def first_call_at_once(self, network: Network, batch: int) -> bool:
        both = (self.first, self.second)
        return all(method.first_call_at_once(network, batch) for method in both)

    def begin(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        other = self.second.plan().evaluate(network, region, bound, **settings)
        return self.first.plan().begin(network, region, bound, companion=other, **settings)

    def tighten(self, evaluation: Evaluation, node: Node, interval: Interval) -> Interval:
        interval = self.first.plan().tighten(evaluation, node, interval)
        return interval.intersect(*evaluation.other.intervals[node].bounds)

    def outputs(self, evaluation: Evaluation, node: Node) -> Interval:
        interval = self.first.plan().outputs(evaluation, node)
        other = self.second.plan().outputs(evaluation.other, node)
        return interval.intersect(*other.bounds)

    def rows(self, evaluation: Evaluation, node: Node, rows: Tensor, intersect: bool) -> Tensor:
        first = self.first.plan().rows(evaluation, node, rows, intersect)
        second = self.second.plan().rows(evaluation.other, node, rows, intersect=False)
        return ops.maximum(first, second)

    def deciding_rows(self, evaluation: Evaluation, node: Node, rows: Tensor) -> Tensor:
        return self.rows(evaluation, node, rows, intersect=True)
