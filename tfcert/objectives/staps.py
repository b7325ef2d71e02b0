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
    """Trains as TAPS, with intervals that start from the small box of SABR.

    The box is ``ratio`` times as wide as the clipped region, and surrounds the point of an attack
    on the input. All later layers are treated as in ``TAPS``. A ratio of 1 gives TAPS, and
    ``trailing_layers=0`` gives SABR.

    Args:
        region: The target region, with norm inf.
        ratio: The width of the small box as a fraction of the region's, from 0 to 1. The authors
            use 0.4 and 0.6 for MNIST at 0.1 and 0.3, 0.1 and 0.9 for CIFAR-10 at 2/255 and 8/255.
        trailing_layers: Number of dense and convolutional layers that the search covers, counted
            from the outputs: 2 splits the network before its second last layer. 0 gives the loss of
            IBP. For the 7 layers of ``cnn7`` the authors use 2.
        natural_weight: The share of the clean loss, from 0 to 1: a number, a schedule, or a pair
            (at radius 0, at full radius) between which it moves as the radius grows.
        gradient_scale: Factor applied to the gradient of the estimate, while the gradient of IBP
            stays. The authors use 4 for MNIST and 2 for CIFAR-10.
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
        attack_steps: Gradient steps of the attack on the input.
        attack_step_size: Length of a step, as a fraction of the radius. Default: 1/4, or more if
            the steps could not cross the region otherwise.
        attack_restarts: Number of starts of this attack. With several starts, the loss uses the
            worst point of the search; with one start, the last point.
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
