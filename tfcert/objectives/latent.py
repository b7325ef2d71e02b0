"""Layer-wise stages: attacks on the input of an inner layer, with the layers before it frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfcert.bounds.statistics import node_values
from tfcert.network import Network, network_of
from tfcert.objectives.objective import Batch
from tfcert.rules.linear import Kernel, Matrix
from tfcert.rules.primitives import Constant, Node
from tfcert.types import Tensor

__all__ = ["check_frozen", "freeze_before", "latent_node", "next_stage", "scores_from"]


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
    node = nodes[stage - 1].inputs[0]
    reached = {node}
    for other in network.nodes:
        sources = [s for s in other.inputs if not isinstance(s.primitive, Constant)]
        if sources and all(source in reached for source in sources):
            reached.add(other)
    if network.outputs not in reached:
        raise NotImplementedError(
            f"Layer {nodes[stage - 1].name!r}: a path of the model goes around its input, so an "
            "attack there does not decide the outputs. Layer-wise stages need a chain of layers."
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
    layers = [x for x in model._flatten_layers(include_self=False) if x.name in names]
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
            f"Stage {stage} of AdvIBP trains what follows on the attacked value; the layers before "
            "it are frozen. Go there by tfcert.objectives.next_stage(trainer), or set their "
            f"trainable=False. Received: trainable layers {', '.join(map(repr, free))}."
        )


def scores_from(batch: Batch, node: Node) -> Callable[[Tensor], Tensor]:
    """The scores as a function of an inner value."""
    network = network_of(batch.model)
    return lambda value: node_values(network, {node: value}, batch.moments)[network.outputs]


def next_stage(trainer: Any, **changes: Any) -> Any:
    """A trainer for the next layer-wise stage of AdvIBP, on the same model.

    Freezes every layer up to the dense or convolutional one that the finished stage began with, and
    what lies between it and the next, such as batch normalisation; keeps seed and verified_share;
    and starts with the full radius, conflict threshold 0 and fresh moments. Compile it with a new
    optimizer.

    Args:
        trainer: A ``CertifiedTrainer`` with an ``AdvIBP`` objective.
        **changes: Arguments of ``AdvIBP`` that differ from this.

    Example:

    >>> following = tfcert.objectives.next_stage(trainer)
    >>> following.compile(keras.optimizers.Adam(2.5e-4))
    """
    from tfcert.objectives.advibp import AdvIBP

    objective = trainer.objective
    if not isinstance(objective, AdvIBP):
        raise ValueError(f"`trainer` must train AdvIBP. Received: objective={objective!r}.")
    stage = objective.stage + 1
    freeze_before(trainer.model, stage)
    config = objective.get_config()
    config.update(stage=stage, ramp=1.0, attack_ramp=1.0, joint_begin=None, conflict_threshold=0.0)
    config.update(changes)
    return type(trainer)(
        trainer.model,
        AdvIBP.from_config(config),
        seed=trainer.seed,
        verified_share=trainer.verified_share,
    )
