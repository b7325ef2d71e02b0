"""Attacks on the input of an inner layer; in layer-wise stages the layers before it are frozen."""

from __future__ import annotations

import keras

from tfcert import graph
from tfcert.network import Network, network_of
from tfcert.rules.linear import Kernel, Matrix
from tfcert.rules.primitives import Constant, Node

__all__ = ["check_frozen", "freeze_before", "latent_node", "split_node"]


def weighted_nodes(network: Network) -> list[Node]:
    """The nodes of dense and convolutional layers, in order."""
    return [node for node in network.nodes if isinstance(node.primitive, Kernel | Matrix)]


def latent_node(network: Network, stage: int) -> Node:
    """The value that the ``stage``-th dense or convolutional layer reads.

    All paths to the outputs must lead through it.
    """
    nodes = weighted_nodes(network)
    if not 1 <= stage <= len(nodes):
        raise ValueError(
            f"`stage` must lie between 1 and {len(nodes)}, the number of dense and convolutional "
            f"layers of model {network.name!r}. Received: stage={stage}."
        )
    return _decisive(network, nodes[stage - 1])


def split_node(network: Network, trailing: int) -> Node:
    """The value that the first of the last ``trailing`` dense or convolutional layers reads.

    All paths to the outputs must lead through it.
    """
    nodes = weighted_nodes(network)
    if not 1 <= trailing <= len(nodes):
        raise ValueError(
            f"`trailing_layers` must lie between 0 and {len(nodes)}, the number of dense and "
            f"convolutional layers of model {network.name!r}. Received: trailing_layers={trailing}."
        )
    return _decisive(network, nodes[-trailing])


def _decisive(network: Network, reader: Node) -> Node:
    """The value that a node reads, where it decides the outputs."""
    node = reader.inputs[0]
    reached = {node}
    for other in network.nodes:
        sources = [s for s in other.inputs if not isinstance(s.primitive, Constant)]
        if sources and all(source in reached for source in sources):
            reached.add(other)
    if network.outputs not in reached:
        raise NotImplementedError(
            f"Layer {reader.name!r}: some path of the model bypasses this layer, so an attack on "
            "its input does not decide the outputs. Use a model without such a path, as a chain "
            "of layers."
        )
    return node


def layers_before(model: keras.Model, stage: int) -> list[keras.layers.Layer]:
    """The layers with weights on the way to the input of the ``stage``-th layer."""
    network = network_of(model)
    names = {node.name for node in network.ancestors(latent_node(network, stage))}
    nodes = weighted_nodes(network)
    # That layer itself may first rearrange what it reads.
    if nodes[stage - 1].name not in {node.name for node in nodes[: stage - 1]}:
        names.discard(nodes[stage - 1].name)
    layers = [x for x in graph.layers_of(model) if x.name in names]
    return [x for x in layers if x.weights and not isinstance(x, keras.Model)]


def freeze_before(model: keras.Model, stage: int) -> None:
    """Freezes what a stage does not train: every layer on the way to the attacked value."""
    for layer in layers_before(model, stage):
        layer.trainable = False


def check_frozen(model: keras.Model, stage: int) -> None:
    """Raises unless all layers are frozen that a stage does not train."""
    free = [layer.name for layer in layers_before(model, stage) if layer.trainable_weights]
    if free:
        raise ValueError(
            f"Stage {stage} of AdvIBP needs frozen layers before the attacked value. Call "
            "tfcert.objectives.next_stage(trainer), or set trainable=False for these layers. "
            f"Received: trainable layers {', '.join(map(repr, free))}."
        )
