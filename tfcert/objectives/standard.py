"""Training without certified bounds: on clean inputs, and on attacked ones."""

from __future__ import annotations

from typing import Any

import keras

from tfcert.attacks import PGD
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.objective import Batch, Objective, RobustObjective, checked_method
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["AdversarialTraining", "Standard"]


@keras.saving.register_keras_serializable(package="tfcert")
class Standard(RobustObjective):
    """Cross-entropy of clean inputs.

    Args:
        region: Optional: where ``verified_accuracy`` is measured.
        validation_method: How it is bounded.
    """

    default_method = "crown-ibp"

    def __init__(self, region: Region | None = None, validation_method: Any = None):
        if region is None:
            Objective.__init__(self)
            self.validation_method = checked_method(validation_method)
        else:
            super().__init__(region, validation_method=validation_method)

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("natural",)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"natural": cross_entropy(batch.y, batch.logits)}

    def schedules(self) -> dict[str, Any]:
        return {}

    def current(self, clock: Any) -> dict[str, Tensor]:
        return {}

    @property
    def bound(self) -> None:
        return None  # Bounds have no part in its training.

    def margins(self, model: keras.Model, x: Tensor, y: Tensor) -> Tensor | None:
        return None if self.region is None else super().margins(model, x, y)

    def get_config(self) -> dict[str, Any]:
        method = keras.saving.serialize_keras_object(self.validation_method)
        return {**Objective.get_config(self), "validation_method": method}


@keras.saving.register_keras_serializable(package="tfcert")
class AdversarialTraining(RobustObjective):
    """Cross-entropy of attacked inputs.

    Args:
        region: The target region.
        steps: Gradient steps of the attack.
        step_size: Of each, as a fraction of the radius; default as in ``tfcert.attacks.PGD``.
        train_eps: See ``RobustObjective``.
        ramp: See ``RobustObjective``.
        validation_method: See ``RobustObjective``.

    Reference: Madry et al., 2018, https://arxiv.org/abs/1706.06083, equation 2.1
    """

    default_method = "crown-ibp"

    def __init__(
        self,
        region: Region,
        steps: int = 7,
        step_size: float | None = None,
        *,
        train_eps: float | None = None,
        ramp: Any = 1.0,
        validation_method: Any = None,
    ):
        super().__init__(
            region, train_eps=train_eps, ramp=ramp, validation_method=validation_method
        )
        self.steps, self.step_size = steps, step_size
        self.attack = PGD(self.train_region, steps, step_size)

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("adversarial",)

    @property
    def bound(self) -> None:
        return None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        attack = self.attack.with_region(self.region_at(batch.clock))
        return {"adversarial": cross_entropy(batch.y, batch.forward(batch.attacked(attack)))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps, "step_size": self.step_size}
