"""Methods that go forward only: intervals, and balls around the values at x."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from tfcert.bounds import lipschitz
from tfcert.bounds.balls import BallEvaluation
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.method import Method, register
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.types import Tensor

__all__ = ["IBP", "Lipschitz"]


@register("ibp")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class IBP(Method):
    """Interval bound propagation, the cheapest and loosest method.

    Reference: Gowal et al., 2018, https://arxiv.org/abs/1810.12715
    """


@register("lipschitz")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Lipschitz(Method):
    """The margin rule of l-inf-distance networks, which takes one forward pass.

    The bounds are ``f(x) -/+ L r``. L is the product of the l-inf Lipschitz factors that the layers
    declare. r is the largest distance of a point of the region from x in any coordinate; for an
    l-inf ball, r is eps. A margin ``m`` at x becomes ``m - 2 L r``. On distance networks this is
    never tighter than IBP. Layers without a declared factor raise an error, for example dense
    layers and distance layers at a finite p.

    Reference: Zhang et al., 2022, https://arxiv.org/abs/2110.06850
    """

    def check(self, network: Network, statistics: str = "moving") -> None:
        network.check("lipschitz")
        super().check(network, statistics)

    def check_layers(self, network: Network) -> None:
        super().check_layers(network)
        lipschitz.factor_of(network)  # Raises where a layer declares none.

    def begin(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        unit = 2.0**-24 if self.float_safe else None
        settings |= {"unit": unit, "dtype": self.dtype(network)}
        return BallEvaluation(network, region, bound, **settings)

    def tighten(self, evaluation: Evaluation, node: Node, interval: Interval) -> Interval:
        return interval  # A ball around the value at x: nothing shapes a relaxation.

    def served(
        self,
        model: keras.Model,
        network: Network,
        region: Region,
        x: Tensor,
        y: Tensor,
        scores: Tensor | None,
    ) -> dict[str, Tensor]:
        """Returns the margin, and the certified radius from the same scores."""
        if self.float_safe:
            return super().served(model, network, region, x, y, scores)
        scores = model(x, training=False) if scores is None else scores
        factor = lipschitz.factor(model)
        radius = lipschitz.radius_of(scores, factor)
        if isinstance(network.outputs.primitive, Nonlinear):
            # What the bounds would come to, from the scores that are there already: two scores
            # come closer by twice the factor times the way from x.
            best, bound = ops.top_k(scores, 2)[0], region.bind(x)
            away = ops.maximum(bound.upper - x, x - bound.lower)
            reach = ops.max(ops.reshape(away, (ops.shape(x)[0], -1)), axis=-1)
            margin = best[:, 0] - best[:, 1] - 2.0 * ops.cast(factor, scores.dtype) * reach
            return {"margin": margin, "radius": radius}
        return super().served(model, network, region, x, y, scores) | {"radius": radius}
