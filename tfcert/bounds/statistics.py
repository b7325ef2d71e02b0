"""Batch statistics for bounds during training.

While a network trains, BatchNormalization uses the statistics of the batch. Bounds of that step
treat it as affine, with the mean and variance that the *clean* batch has, as the literature does.
"""

from __future__ import annotations

from keras import ops

from tfcert.network import Network
from tfcert.rules.normalization import BatchNorm
from tfcert.rules.primitives import Constant, Input, Node
from tfcert.types import Tensor

__all__ = ["batch_moments", "normalizing_nodes"]


def normalizing_nodes(network: Network) -> list[Node]:
    """The batch normalisations that train: frozen ones keep their moving statistics."""
    return [
        node
        for node in network.nodes
        if isinstance(node.primitive, BatchNorm) and node.primitive.layer.trainable
    ]


def batch_moments(network: Network, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``(mean, variance)`` of every node of ``normalizing_nodes`` on a clean batch, in one pass.

    Each is computed behind the batch normalisations before it, as in a training step.
    """
    normalizing = set(normalizing_nodes(network))
    values: dict[Node, Tensor] = {}
    moments = []
    for node in network.nodes:
        primitive = node.primitive
        if isinstance(primitive, Input):
            values[node] = x
            continue
        if node in normalizing:
            assert isinstance(primitive, BatchNorm)
            mean, variance = ops.moments(values[node.inputs[0]], axes=primitive.axes)
            moments.append((mean, variance))
            p = primitive.from_moments(mean, variance, network.dtype)
        else:
            p = primitive.parameters(network.dtype)
        if isinstance(primitive, Constant):
            values[node] = ops.broadcast_to(p, (ops.shape(x)[0], *node.shape))
        else:
            values[node] = primitive.apply(p, *[values[source] for source in node.inputs])
    return moments
