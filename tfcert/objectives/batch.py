"""One training step as an objective sees it, with further passes through the model."""

from __future__ import annotations

import dataclasses

import keras
from keras import ops

from tfcert.attacks import PGD
from tfcert.bounds.ranking import ranked
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.objectives.attacking import Place
from tfcert.regions import Box, Region
from tfcert.regions.seeds import Seeds
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.schedules import Clock
from tfcert.types import Tensor

__all__ = ["Batch", "mean_of"]


@dataclasses.dataclass
class Batch:
    """One training step as an objective sees it: inputs, labels, clean logits and clock.

    In all bounds, attacks and losses of a training step except the first pass, BatchNormalization
    and MeanShift use ``moments``, the statistics of the clean batch. So an attack and its loss see
    the same network.

    Attributes:
        model: The model of the scores: the user's own model, without a final softmax.
        x: Inputs.
        y: Integer labels of the scores, ``(batch,)``; 0 with a property, see ``objectives.aims``.
        logits: What the objective's ``first_pass`` gave: by default ``model(x)``, in training mode
            while training.
        clock: Where training stands; ``clock.final`` in validation.
        training: Whether this step trains.
        seed: Integer tensor of shape ``(2,)``, computed from the trainer's seed and the step.
        sample_weight: Weights, ``(batch,)``, or None.
        known: Whether each label is valid, ``(batch,)``; ``y`` is 0 for invalid labels.
        notes: Values that ``terms`` passes to ``combine``, and both to the History.
        moments: Mean and variance of the clean batch at every layer that normalises, by node. Empty
            in validation and for objectives whose ``needs_moments`` is False: layers then use
            their moving statistics.
        plain: The model whose outputs decide: a property is about them.
        targets: What came with the batch in place of labels; None without a property.
        shift: What the targets add to the scores that ``model`` gives, ``(batch, scores)``; None
            for nothing.
        allowed: How many scores may reach that of the label, see ``tfcert.bounds.ranking``.
    """

    model: keras.Model
    x: Tensor
    y: Tensor
    logits: Tensor
    clock: Clock
    training: bool
    seed: Tensor
    sample_weight: Tensor | None = None
    known: Tensor | bool = True
    notes: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    moments: dict[Node, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)
    plain: keras.Model | None = None
    targets: Tensor | None = None
    shift: Tensor | None = None
    allowed: int = 0

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean over the samples, weighted as in Keras's losses."""
        if len(values.shape) == 0:
            return values
        if self.sample_weight is not None:
            values = values * ops.cast(self.sample_weight, values.dtype)
        return mean_of(values)

    def random(self, index: int = 0) -> keras.random.SeedGenerator:
        """Returns seeds for ``keras.random`` from the trainer's seed and the step."""
        return Seeds(self.seed)[index]

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores at other inputs, in inference mode with ``moments``."""
        if not self.moments:
            return self.deciding(self.model(x, training=False))
        return self.forward_from(network_of(self.model).input, x)

    def forward_from(self, node: Node, values: Tensor) -> Tensor:
        """Returns the scores for given values of an inner node, in inference mode with ``moments``.

        Args:
            node: A node that every path to the outputs passes, see ``latent_node``.
            values: ``(batch, *shape of the node)``.
        """
        network = network_of(self.model)
        return self.deciding(node_values(network, {node: values}, self.moments)[network.outputs])

    def deciding(self, scores: Tensor) -> Tensor:
        """Scores that the model gives, with what the targets add to them, as losses see them.

        Args:
            scores: ``(batch, scores)``, or ``(n * batch, scores)`` with n rows for each input.
        """
        if self.shift is None and not self.allowed:
            return scores
        count = ops.shape(scores)[0] // ops.shape(self.y)[0]
        if self.shift is not None:
            scores = scores + ops.repeat(self.shift, count, axis=0)
        return ranked(scores, ops.repeat(self.y, count, axis=0), self.allowed)

    def attacked(self, attack: PGD) -> Tensor:
        """Returns the inputs at the end of an attack; no gradient flows through them."""
        return self.at_input(attack.region).worst(attack)

    def at_input(self, region: Region) -> Place:
        """Returns the inputs of a region around the batch, as a place for an attack."""

        def scores(points: Tensor) -> Tensor:
            # A gradient to the points stays: an attack asks for it.
            return self.forward(points + (self.x - ops.stop_gradient(self.x)))

        return Place(region, self.x, self.y, self.seed, scores)

    def at_node(self, node: Node, interval: Interval) -> Place:
        """Returns the values of an inner node within its bounds, as a place for an attack.

        Args:
            node: A node that every path to the outputs passes.
            interval: Bounds of its values, such as ``known.evaluation.intervals[node]`` of
                ``objective.bounds(batch, "ibp")``. No gradient flows through them here.
        """
        lower, upper = (ops.stop_gradient(end) for end in interval.bounds)
        center = ops.clip(0.5 * (lower + upper), lower, upper)

        def scores(values: Tensor) -> Tensor:
            return self.forward_from(node, values)

        return Place(Box(lower, upper), center, self.y, self.seed, scores)


def mean_of(values: Tensor) -> Tensor:
    """The mean, and 0 of nothing: of several devices some may have no part of a small batch."""
    size = ops.cast(ops.maximum(ops.size(values), 1), values.dtype)
    return ops.sum(values) / size
