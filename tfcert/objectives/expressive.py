"""The base class of losses between the loss of an attack and the loss of intervals."""

from __future__ import annotations

from typing import Any, Unpack

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.ibp import IBP, CertifiedLoss
from tfcert.objectives.input_attack import InputAttack
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["Expressive", "ExpressiveLoss"]


class ExpressiveLoss(CertifiedLoss, total=False):
    """Keyword arguments of every loss between that of an attack and that of IBP."""

    attack_steps: int
    attack_step_size: float | None
    attack_restarts: int
    attack_scale: float


class Expressive(IBP):
    """A loss between that of an attacked input and that of IBP, by a number from 0 to 1.

    A subclass gives ``between``: what the number 0 makes the loss of the attack, and 1 that of IBP.

    Args:
        region: The target region.
        ibp_weight: alpha, the share of IBP: a number, a schedule, or a pair (at radius 0, at full
            radius).
        natural_weight: The share of the clean loss, likewise.
        attack_steps: Gradient steps of the attack.
        attack_step_size: Length of a step, as a fraction of the attack's radius.
        attack_restarts: Number of starts of the attack.
        attack_scale: The attack's radius while training, as a multiple of the training radius.
        **base: Arguments of IBP.
    """

    default_method = "crown-ibp"

    def __init__(
        self,
        region: Region,
        ibp_weight: Any,
        natural_weight: Any = 0.0,
        *,
        attack_steps: int = 8,
        attack_step_size: float | None = None,
        attack_restarts: int = 1,
        attack_scale: float = 1.0,
        **base: Unpack[CertifiedLoss],
    ):
        super().__init__(region, natural_weight, **base)
        self.add_weights(most=1.0, ibp_weight=ibp_weight)
        self.attack = InputAttack(
            self.settings, attack_steps, attack_step_size, attack_restarts, attack_scale
        )

    def robust_loss(self, batch: Batch, known: Margins, worst: Tensor) -> Tensor:
        alpha = self.weight("ibp_weight", batch.clock)
        return self.between(batch, worst, self.attack.scores(batch), alpha)

    def between(self, batch: Batch, worst: Tensor, attacked: Tensor, alpha: Tensor) -> Tensor:
        """The loss, ``(batch,)`` or a scalar.

        Args:
            batch: The batch.
            worst: Worst-case logits of IBP, ``(batch, classes)``.
            attacked: The scores at the attacked inputs, ``(batch, classes)``.
            alpha: The share of IBP at this step.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        attack = {**self.attack.get_config(), "attack_scale": self.attack.scale}
        return {**super().get_config(), **attack}
