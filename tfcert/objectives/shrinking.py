"""Intervals that an unstable ReLU makes narrower than they are: for losses, never for certificates.

A ReLU whose input may have either sign widens intervals layer by layer. Training on intervals with
its upper end shrunk gives some of that width back. What is computed then bounds nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

from tfcert.bounds import methods
from tfcert.bounds.evaluation import Evaluation
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.relaxations import TwoPiece
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.primitives import Node

__all__ = ["ShrunkIntervals", "training_intervals"]


def training_intervals(shrink: float) -> Any:
    """Returns the interval method of a loss: "ibp", or a method with shrinking ReLUs."""
    if not 0.0 < shrink <= 1.0:
        raise ValueError(f"`relu_shrink` must lie in (0, 1]. Received: relu_shrink={shrink!r}.")
    return "ibp" if shrink == 1.0 else ShrunkIntervals(shrink)


@dataclasses.dataclass(frozen=True)
class ShrunkIntervals(methods.IBP):
    """Interval bounds in which unstable two-piece functions scale the upper ends of their inputs.

    It has no name among the methods and is no bound: losses alone use it.

    Args:
        shrink: What the upper end of an unstable unit's input is multiplied with.

    Reference: Mueller et al., 2023, https://arxiv.org/abs/2210.04871, appendix C.
    """

    shrink: float = 1.0

    def begin(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        return _Shrinking(self.shrink, network, region, bound, **settings)


class _Shrinking(Evaluation):
    def __init__(self, shrink: float, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.shrink = shrink

    def enclose(self, node: Node, inputs: list[Interval]) -> Interval:
        two_piece = isinstance(self.parameters[node], TwoPiece)
        if two_piece and isinstance(node.primitive, Elementwise):
            (read,) = inputs
            unstable = ops.logical_and(read.lower < 0, read.upper > 0)
            upper = ops.where(unstable, self.shrink * read.upper, read.upper)
            inputs = [Interval.from_ends(read.lower, upper)]
        return super().enclose(node, inputs)
