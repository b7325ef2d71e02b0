"""Values of a network, and the batch statistics that bounds use during training.

While a network trains, BatchNormalization and MeanShift use the statistics of the batch. Bounds of
that step treat them as affine, with the mean and variance that the *clean* batch has, as the
literature does.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.network import Network, network_of
from tfcert.rules.normalization import Normalizing
from tfcert.rules.primitives import Constant, Node
from tfcert.types import Tensor

__all__ = ["batch_moments", "clean_moments", "node_values", "normalizing_nodes"]


def normalizing_nodes(network: Network) -> list[Node]:
    """The batch normalisations that train: frozen ones keep their moving statistics."""
    return [
        node
        for node in network.nodes
        if isinstance(node.primitive, Normalizing) and node.primitive.uses_batch
    ]


def batch_moments(network: Network, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``(mean, variance)`` of every node of ``normalizing_nodes`` on a clean batch, in one pass.

    Each is computed behind the batch normalisations before it, as in a training step.
    """
    normalizing = set(normalizing_nodes(network))
    moments: dict[Node, tuple[Tensor, Tensor]] = {}

    def parameters(node: Node, values: dict[Node, Tensor]) -> Any:
        if node not in normalizing:
            return node.primitive.parameters(network.dtype)
        assert isinstance(node.primitive, Normalizing)
        source = values[node.inputs[0]]
        moments[node] = ops.moments(source, axes=node.primitive.axes)
        return node.primitive.from_moments(*moments[node], network.dtype)

    _run(network, {network.input: x}, parameters)
    return [moments[node] for node in network.nodes if node in normalizing]


def clean_moments(model: keras.Model, x: Tensor) -> dict[Node, tuple[Tensor, Tensor]]:
    """``batch_moments`` by node; empty where nothing normalises."""
    network = network_of(model)
    nodes = normalizing_nodes(network)
    if not nodes:
        return {}
    return dict(zip(nodes, batch_moments(network, x), strict=True))


def node_values(
    network: Network,
    known: dict[Node, Tensor],
    moments: dict[Node, tuple[Tensor, Tensor]],
) -> dict[Node, Tensor]:
    """The values of all nodes behind given ones, at inference but for given statistics.

    Args:
        network: The network.
        known: Values of the input, or of nodes that every path to the outputs passes.
        moments: Mean and variance of batch normalisations, in place of the moving ones.
    """

    def parameters(node: Node, values: dict[Node, Tensor]) -> Any:
        del values
        if node in moments:
            assert isinstance(node.primitive, Normalizing)
            return node.primitive.from_moments(*moments[node], network.dtype)
        return node.primitive.parameters(network.dtype)

    return _run(network, known, parameters)


def _run(network: Network, known: dict[Node, Tensor], parameters: Any) -> dict[Node, Tensor]:
    values = dict(known)
    batch = ops.shape(next(iter(known.values())))[0]
    for node in network.nodes:
        if node in values:
            continue
        if isinstance(node.primitive, Constant):
            value = parameters(node, values)
            values[node] = ops.broadcast_to(value, (batch, *node.shape))
        elif node.inputs and all(source in values for source in node.inputs):
            sources = [values[source] for source in node.inputs]
            values[node] = node.primitive.apply(parameters(node, values), *sources)
    return values
