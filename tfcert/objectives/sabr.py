"""SABR: interval bounds of a small box around an attacked input."""

from __future__ import annotations

from typing import Any, Unpack

import keras

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.ibp import IBP, CertifiedLoss
from tfcert.objectives.input_attack import InputAttack
from tfcert.objectives.shrinking import training_intervals
from tfcert.objectives.small_box import SmallBox
from tfcert.regions import Region

__all__ = ["SABR"]


@keras.saving.register_keras_serializable(package="tfcert")
class SABR(IBP):
    """Trains with interval bounds of a small box around an attacked input.

    ``(1 - kappa) CE(worst, y) + kappa CE(z, y)``, where the worst-case logits are the interval
    bounds of a box. The box is ``ratio`` times as wide as the clipped region. The point of an
    attack is its middle; if the box would leave the region, it is moved inside. A ratio of 1 gives
    IBP. As the ratio goes to 0, the loss becomes the loss of the attacked input.

    The trained network has looser intervals than a network of IBP: verify it with CROWN or a
    complete method. The warm-up regularisers use the small box.

    Args:
        region: The target region, with norm inf.
        ratio: The width of the small box as a fraction of the region's, from 0 to 1. The authors
            use 0.4 and 0.9 for MNIST at 0.1 and 0.3, 0.1 and 0.9 for CIFAR-10 at 2/255 and 8/255.
        natural_weight: kappa, the share of the clean loss, from 0 to 1: a number, a schedule, or a
            pair (at radius 0, at full radius) between which it moves as the radius grows.
        relu_shrink: Factor applied in the loss to the upper end of an unstable ReLU's input; 1.0
            changes nothing. The authors use 0.8 for CIFAR-10 at 2/255.
        attack_steps: Gradient steps of the attack.
        attack_step_size: Length of a step, as a fraction of the radius. Default: 1/4, or more if
            the steps could not cross the region otherwise.
        attack_restarts: Number of starts of the attack. With several starts, the loss uses the
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
    >>> objective = tfcert.objectives.SABR(region, ratio=0.4, train_eps=0.2, ramp=(1, 10))

    Reference: Mueller et al., 2023, https://arxiv.org/abs/2210.04871, section 3.
    """

    default_method = "crown-ibp"

    def __init__(
        self,
        region: Region,
        ratio: float = 0.4,
        natural_weight: Any = 0.0,
        *,
        relu_shrink: float = 1.0,
        attack_steps: int = 8,
        attack_step_size: float | None = None,
        attack_restarts: int = 1,
        **base: Unpack[CertifiedLoss],
    ):
        super().__init__(region, natural_weight, **base)
        attack = InputAttack(self.settings, attack_steps, attack_step_size, attack_restarts)
        self.small_box = SmallBox(ratio, attack)
        self.relu_shrink = float(relu_shrink)
        self.intervals = training_intervals(self.relu_shrink)

    def training_method(self) -> Any:
        return self.intervals

    def known_bounds(self, batch: Batch) -> Margins:
        return self.small_box.bounds(self, batch, self.training_method())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.small_box.attack.get_config(),
            "ratio": self.small_box.ratio,
            "relu_shrink": self.relu_shrink,
        }
