"""Exp-IBP: a product of powers of the losses of IBP and of an attack."""

from __future__ import annotations

from typing import Any, Unpack

import keras
from keras import ops

from tfcert.objectives.arguments import as_switch
from tfcert.objectives.batch import Batch
from tfcert.objectives.expressive import Expressive, ExpressiveLoss
from tfcert.objectives.losses import cross_entropy
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["ExpIBP"]

# Below it a loss counts as this: the power's gradient is infinite at 0.
_LEAST = 1e-12


@keras.saving.register_keras_serializable(package="tfcert")
class ExpIBP(Expressive):
    """Multiplies the loss of IBP and the loss of an attacked input.

    ``L_ibp^alpha L_attack^(1 - alpha)`` with ``L_ibp = CE(worst, y)`` of interval bounds and
    ``L_attack = CE(z', y)`` at the end of an attack. As in the released code, both losses are means
    over the batch; ``per_sample=True`` multiplies sample by sample.

    Args:
        region: The target region.
        ibp_weight: alpha, from 0 to 1: a number, a schedule, or a pair (at radius 0, at full
            radius). 1 gives IBP, 0 gives adversarial training. The authors use 0.095 and 0.5 for
            CIFAR-10 at 2/255 and 8/255.
        natural_weight: The share of the clean loss, from 0 to 1: a number, a schedule, or a pair
            (at radius 0, at full radius) between which it moves as the radius grows.
        per_sample: Whether to multiply the losses sample by sample. By default their means are
            multiplied.
        attack_steps: Gradient steps of the attack.
        attack_step_size: Length of a step, as a fraction of the attack's radius. Default: 1/4, or
            more if the steps could not cross the region otherwise.
        attack_restarts: Number of starts of the attack. With several starts, the loss uses the
            worst point of the search; with one start, the last point.
        attack_scale: The attack's radius while training, as a multiple of the training radius. The
            authors use 2.1 for CIFAR-10 at 2/255, and 1 for the other settings.
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
    >>> objective = tfcert.objectives.ExpIBP(region, ibp_weight=0.1, ramp=(1, 10))

    Reference: De Palma et al., 2024, https://arxiv.org/abs/2305.13991, section 4.
    """

    def __init__(
        self,
        region: Region,
        ibp_weight: Any = 0.5,
        natural_weight: Any = 0.0,
        *,
        per_sample: bool = False,
        **base: Unpack[ExpressiveLoss],
    ):
        super().__init__(region, ibp_weight, natural_weight, **base)
        self.per_sample = as_switch("per_sample", per_sample)

    def between(self, batch: Batch, worst: Tensor, attacked: Tensor, alpha: Tensor) -> Tensor:
        losses = [cross_entropy(batch.y, logits) for logits in (worst, attacked)]
        if not self.per_sample:
            losses = [batch.mean(loss) for loss in losses]
        upper, lower = (ops.log(ops.maximum(loss, _LEAST)) for loss in losses)
        return ops.exp(alpha * upper + (1.0 - alpha) * lower)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "per_sample": self.per_sample}
