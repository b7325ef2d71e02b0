"""The way into the bounds: a method runs over a network, then answers for its outputs."""

from __future__ import annotations

from typing import Any

from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.known import Known
from tfcert.bounds.method import Method
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.rules.primitives import Node
from tfcert.types import Bounds, Tensor

__all__ = ["evaluate", "lower_rows", "node_bounds"]


def evaluate(
    network: Network,
    region: Region,
    bound: BoundRegion,
    method: Method,
    moments: dict[Node, Any] | None = None,
    trains: bool = False,
    point: Tensor = None,
    known: Known | None = None,
) -> Evaluation:
    """Bounds of all nodes that a method needs before it answers for the outputs.

    Args:
        network: What is bounded.
        region: Gives the form of the input set.
        bound: The region around the inputs, ``region.bind(x)``.
        method: The method.
        moments: ``{node: (mean, variance)}`` of batch normalisations, instead of the moving ones.
        trains: Whether gradients of the bounds will be taken.
        point: The inputs that the region is put around; only the margin rule wants them.
        known: What is known of hidden values already.
    """
    return method.plan().evaluate(
        network, region, bound, moments=moments, trains=trains, point=point, known=known
    )


def node_bounds(evaluation: Evaluation, method: Method, node: Node) -> Bounds:
    """Bounds of an output node."""
    lower, upper = method.plan().outputs(evaluation, node).ordered().bounds
    return Bounds(evaluation.executed(lower, -1.0), evaluation.executed(upper, 1.0))


def lower_rows(
    evaluation: Evaluation, method: Method, node: Node, rows: Tensor, intersect: bool
) -> Tensor:
    """Lower bounds of linear functions of an output node.

    Args:
        evaluation: From ``evaluate`` with the same method, or a tighter one.
        method: The method.
        node: The output node.
        rows: Coefficients, ``(batch, rows, size of the output)``.
        intersect: Whether to take the larger of the method's and the interval bound.

    Returns:
        ``(batch, rows)``.
    """
    return evaluation.executed(method.plan().rows(evaluation, node, rows, intersect), -1.0)
