"""TAPS: intervals up to an inner value, attacks from there on."""

from __future__ import annotations

from typing import Any, Unpack

import keras
from keras import ops

from tfcert.bounds.margins import Margins
from tfcert.network import network_of
from tfcert.objectives.arguments import as_positive, as_switch
from tfcert.objectives.batch import Batch
from tfcert.objectives.ibp import IBP, CertifiedLoss
from tfcert.objectives.latent import split_node
from tfcert.objectives.latent_search import LatentSearch
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.shrinking import training_intervals
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["TAPS", "LatentLoss"]


class LatentLoss(CertifiedLoss, total=False):
    """Keyword arguments of TAPS and of every objective that is built on it."""

    gradient_scale: float
    link: float
    search_steps: int
    search_restarts: int
    relu_shrink: float
    ibp_warmup: bool
    per_sample: bool


@keras.saving.register_keras_serializable(package="tfcert")
class TAPS(IBP):
    """Multiplies the loss of IBP by a loss that attacks on the last layers estimate.

    Intervals give a box for the input of the first trailing layer. For each margin an attack
    searches this box for the worst point. These points give the logits ``worst'``. The loss is
    ``CE(worst', y) CE(worst, y)``, with the worst-case logits of intervals through all layers. The
    first factor is at most the second. As in the authors' code, both factors are means over the
    batch.

    ``trailing_layers=0`` is defined as the loss of IBP. (The formula would give its square.) With
    one trailing layer the search is exact, because a margin is linear in the input of the last
    layer.

    Args:
        region: The target region.
        trailing_layers: Number of dense and convolutional layers that the search covers, counted
            from the outputs: 2 splits the network before its second last layer. 0 gives the loss of
            IBP. For the 7 layers of ``cnn7`` the authors use 4 and 3 for MNIST at 0.1 and 0.3, 6
            and 2 for CIFAR-10 at 2/255 and 8/255.
        natural_weight: The share of the clean loss, from 0 to 1: a number, a schedule, or a pair
            (at radius 0, at full radius) between which it moves as the radius grows.
        gradient_scale: Factor applied to the gradient of the estimate, while the gradient of IBP
            stays. The authors use 4, and 2 for CIFAR-10 at 8/255.
        link: Distance from an end of the box, as a share of the box's width, within which a point
            passes its gradient to this end; above 0, at most 1. See
            ``tfcert.objectives.latent_search.linked``.
        search_steps: Gradient steps of the search for each margin.
        search_restarts: Random starts of each search.
        relu_shrink: Factor applied in the loss to the upper end of an unstable ReLU's input; 1.0
            changes nothing. The authors use 0.8 for CIFAR-10 at 2/255.
        ibp_warmup: Whether to train with the loss of IBP alone while the radius grows, as in the
            authors' code.
        per_sample: Whether to multiply the losses sample by sample. By default their means are
            multiplied.
        regularizer: Weight of the warm-up regularisers of Shi et al. (2021), which fade out as the
            radius grows. They balance how fast intervals widen and how many units stay unstable.
            Use them with ``tfcert.models.ibp_initialization``. The paper uses 0.5.
        tolerance: tau, the tolerance of these regularisers.
        train_eps: The radius for training. Default: the region's radius.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: The bound method behind ``verified_accuracy``: a name or an object of
            ``tfcert.methods``. Default: "crown-ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Example:

    >>> region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    >>> objective = tfcert.objectives.TAPS(region, trailing_layers=2, ramp=(1, 10))

    Reference: Mao et al., 2023, https://arxiv.org/abs/2305.04574, section 3.
    """

    default_method = "crown-ibp"

    def __init__(
        self,
        region: Region,
        trailing_layers: int = 2,
        natural_weight: Any = 0.0,
        *,
        gradient_scale: float = 4.0,
        link: float = 0.5,
        search_steps: int = 8,
        search_restarts: int = 1,
        relu_shrink: float = 1.0,
        ibp_warmup: bool = True,
        per_sample: bool = False,
        **base: Unpack[CertifiedLoss],
    ):
        super().__init__(region, natural_weight, **base)
        self.trailing_layers = trailing_layers
        self.gradient_scale = as_positive("gradient_scale", gradient_scale)
        self.search = LatentSearch(self.target, search_steps, search_restarts, link)
        self.relu_shrink = float(relu_shrink)
        self.intervals = training_intervals(self.relu_shrink)
        self.ibp_warmup = as_switch("ibp_warmup", ibp_warmup)
        self.per_sample = as_switch("per_sample", per_sample)

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        if self.trailing_layers != 0:
            split_node(network_of(trainer.scores), self._split_at)

    @property
    def _split_at(self) -> int:
        """The layers behind the split, with that which a property adds."""
        return self.trailing_layers + self.aim.added_layers

    def training_method(self) -> Any:
        return self.intervals

    def robust_loss(self, batch: Batch, known: Margins, worst: Tensor) -> Tensor:
        interval = cross_entropy(batch.y, worst)
        if self.trailing_layers == 0:
            return interval
        if not self.ibp_warmup or batch.clock.final:
            return self.product(batch, known, interval)
        return ops.cond(
            self.ramp(batch.clock) >= 1.0,
            lambda: self.product(batch, known, interval),
            lambda: interval if self.per_sample else batch.mean(interval),
        )

    def product(self, batch: Batch, known: Margins, interval: Tensor) -> Tensor:
        """The loss of the estimate times that of IBP, ``(batch,)`` or a scalar."""
        node = split_node(known.network, self._split_at)
        found = self.search.worst_logits(batch, node, known.evaluation.intervals[node])
        estimate = cross_entropy(batch.y, found)
        if not self.per_sample:
            estimate, interval = batch.mean(estimate), batch.mean(interval)
        # The value of the estimate with a multiple of its gradient.
        more = (self.gradient_scale - 1.0) * (estimate - ops.stop_gradient(estimate))
        return (estimate + more) * interval

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.search.get_config(),
            "trailing_layers": self.trailing_layers,
            "gradient_scale": self.gradient_scale,
            "relu_shrink": self.relu_shrink,
            "ibp_warmup": self.ibp_warmup,
            "per_sample": self.per_sample,
        }
