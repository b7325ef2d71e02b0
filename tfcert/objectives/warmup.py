"""Regularisers that steady the warm-up of certified training."""

from __future__ import annotations

from keras import ops

from tfcert.bounds.evaluation import Evaluation
from tfcert.network import Network
from tfcert.relaxations import TwoPiece
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Scale
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["warmup_regularizers"]

_TINY = 1e-12


def warmup_regularizers(evaluation: Evaluation, tolerance: float) -> Tensor:
    """Returns the growth of intervals and the imbalance of units, averaged over ReLU layers.

    Tightness: ``relu(tau - w_0 / w_i) / tau`` with w_i the mean width of the intervals before layer
    i's ReLU and w_0 that of the input, behind a Normalization at the front. Balance: the same hinge
    on two ratios of active to inactive units, that of their mean centres and that of their
    contributions to the variance of the centres, each turned to lie below 1.

    Args:
        evaluation: Intervals of all layers.
        tolerance: tau.

    Reference: Shi et al., 2021, https://arxiv.org/abs/2103.17268, equations 7 and 8.
    """
    network = evaluation.network
    width = ops.mean(evaluation.intervals[_normalised_input(network)].radius)
    terms = []
    for node in network.nodes:
        if not isinstance(node.primitive, Elementwise):
            continue
        if not isinstance(evaluation.parameters[node], TwoPiece):
            continue
        interval = evaluation.intervals[node.inputs[0]]
        terms.append(_tightness(interval, width, tolerance) + _balance(interval, tolerance))
    if not terms:
        return ops.zeros((), dtype=evaluation.dtype)
    return sum(terms) / len(terms)


def _normalised_input(network: Network) -> Node:
    """The input as the first layer with weights sees it, behind what scales its entries."""
    node = network.input
    while True:
        readers = [other for other in network.nodes if node in other.inputs]
        if len(readers) != 1 or not isinstance(readers[0].primitive, Scale):
            return node
        node = readers[0]


def _tightness(interval: Interval, width: Tensor, tolerance: float) -> Tensor:
    ratio = width / ops.maximum(ops.mean(interval.radius), _TINY)
    # At radius 0 both widths are 0, and nothing explodes.
    return ops.where(width > 0, ops.relu(tolerance - ratio) / tolerance, 0.0)


def _balance(interval: Interval, tolerance: float) -> Tensor:
    center = interval.center
    active = ops.cast(interval.lower > 0, center.dtype)
    inactive = ops.cast(interval.upper < 0, center.dtype)
    spread = (center - ops.mean(center)) ** 2
    means = _ratio(ops.mean(center * active), -ops.mean(center * inactive))
    variances = _ratio(ops.sum(spread * active), ops.sum(spread * inactive))
    hinge = ops.relu(tolerance - means) + ops.relu(tolerance - variances)
    return hinge / tolerance


def _ratio(first: Tensor, second: Tensor) -> Tensor:
    """The smaller over the larger of two numbers >= 0; 1, which costs nothing, without units."""
    known = ops.logical_and(first > _TINY, second > _TINY)
    one = ops.ones_like(first)
    first, second = ops.where(known, first, one), ops.where(known, second, one)
    return ops.minimum(first / second, second / first)
