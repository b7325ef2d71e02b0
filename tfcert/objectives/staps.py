"""STAPS: TAPS over a small box around an attacked input."""

from __future__ import annotations

from typing import Any, Unpack

import keras

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.input_attack import InputAttack
from tfcert.objectives.small_box import SmallBox
from tfcert.objectives.taps import TAPS, LatentLoss
from tfcert.regions import Region

__all__ = ["STAPS"]


@keras.saving.register_keras_serializable(package="tfcert")
class STAPS(TAPS):
    """TAPS whose intervals start from the small box of SABR.

    The box is ``ratio`` times as wide as the clipped region and lies around the point that an
    attack on the input finds; from it on everything is as in ``TAPS``. A ratio of 1 is TAPS, and
    without trailing layers STAPS is SABR.

    Args:
        region: The target region, with norm inf.
        ratio: The width of the small box as a fraction of the region's, from 0 to 1. The authors
            take 0.4 and 0.6 for MNIST at 0.1 and 0.3, 0.1 and 0.9 for CIFAR-10 at 2/255 and 8/255.
        trailing_layers: How many dense and convolutional layers the search passes, counted from the
            outputs: a split before the second last layer is 2. 0: the loss is that of IBP. Of the 7
            layers of ``cnn7`` the authors take 2.
        natural_weight: The share of the clean loss, from 0 to 1: a number, a schedule, or a pair
            (at radius 0, at full radius) between which it moves as the radius grows.
        gradient_scale: What the gradient of the estimate is multiplied with, beside that of IBP.
            The authors take 4 for MNIST and 2 for CIFAR-10.
        link: How far into the box a point hands its gradient to the box's ends, as a share of the
            width, from above 0 to 1: ``tfcert.objectives.latent_search.linked``.
        search_steps: Gradient steps of the search for each margin.
        search_restarts: Random starts of each search.
        relu_shrink: What the upper end of an unstable ReLU's input is multiplied with in intervals
            of the loss, 1.0 for nothing. The authors take 0.8 for CIFAR-10 at 2/255.
        ibp_warmup: Whether the loss is that of IBP alone while the radius grows, as in the
            authors' code.
        per_sample: Whether losses are multiplied sample by sample, in place of their means.
        attack_steps: Gradient steps of the attack on the input.
        attack_step_size: Length of a step, as a fraction of the radius. Default: 1/4, or what lets
            the steps cross the region.
        attack_restarts: Number of starts of this attack. Of several the worst point met counts, of
            one the last.
        regularizer: Weight of the warm-up regularisers of Shi et al. (2021), which fade out as the
            radius grows. They balance how fast intervals widen and how many units stay unstable.
            Use them with ``tfcert.models.ibp_initialization``. Their paper takes 0.5.
        tolerance: tau, the tolerance of these regularisers.
        train_eps: The radius to train at, where it differs from the region's.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: How ``verified_accuracy`` is bounded: a name or an object of
            ``tfcert.methods``. Default: "crown-ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Example:

    >>> region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    >>> objective = tfcert.objectives.STAPS(region, ratio=0.4, train_eps=0.2, ramp=(1, 10))

    Reference: Mao et al., 2023, https://arxiv.org/abs/2305.04574, section 4.
    """

    def __init__(
        self,
        region: Region,
        ratio: float = 0.4,
        trailing_layers: int = 2,
        natural_weight: Any = 0.0,
        *,
        attack_steps: int = 8,
        attack_step_size: float | None = None,
        attack_restarts: int = 1,
        **base: Unpack[LatentLoss],
    ):
        super().__init__(region, trailing_layers, natural_weight, **base)
        attack = InputAttack(self.settings, attack_steps, attack_step_size, attack_restarts)
        self.small_box = SmallBox(ratio, attack)

    def known_bounds(self, batch: Batch) -> Margins:
        return self.small_box.bounds(self, batch, self.training_method())

    def get_config(self) -> dict[str, Any]:
        attack = self.small_box.attack.get_config()
        return {**super().get_config(), **attack, "ratio": self.small_box.ratio}
