"""Training without certified bounds: on clean inputs, and on attacked ones."""

from __future__ import annotations

from typing import Any, Unpack

import keras

from tfcert.attacks import PGD
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.objective import Objective, RobustObjective
from tfcert.objectives.settings import Ramped
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["AdversarialTraining", "Standard"]


@keras.saving.register_keras_serializable(package="tfcert")
class Standard(Objective):
    """Cross-entropy of clean inputs.

    Args:
        region: The region of ``verified_accuracy``. None: it is not measured.
        validation_method: The bound method behind ``verified_accuracy``: a name or an object of
            ``tfcert.methods``. Default: "crown-ibp".
        property: What has to hold on the region, in place of labels: of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's own outputs, see ``IBP``.
        property_scale: What the property's margins are divided by in losses.
    """

    default_method = "crown-ibp"
    needs_moments = False
    term_names = ("natural",)

    def __init__(
        self,
        region: Region | None = None,
        validation_method: Any = None,
        *,
        property: Any = None,
        natural_loss: Any = None,
        property_scale: float = 1.0,
    ):
        super().__init__(
            region,
            validation_method=validation_method,
            property=property,
            natural_loss=natural_loss,
            property_scale=property_scale,
        )

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"natural": self.aim.natural(batch)}

    def get_config(self) -> dict[str, Any]:
        method = keras.saving.serialize_keras_object(self.settings.validation_method)
        asked = self.aim.get_config()
        return {**super().get_config(), "validation_method": method, **asked}


@keras.saving.register_keras_serializable(package="tfcert")
class AdversarialTraining(RobustObjective):
    """Cross-entropy of attacked inputs.

    During training, the attack and the loss see the same network: batch normalisation uses the
    statistics of the clean batch in both.

    Args:
        region: The target region.
        steps: Gradient steps of the attack.
        step_size: Length of each step, as a fraction of the radius; default:
            ``min(1, 2.5 / steps)``, as in ``tfcert.attacks.PGD``.
        train_eps: The radius for training. Default: the region's radius.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: The bound method behind ``verified_accuracy``: a name or an object of
            ``tfcert.methods``. Default: "crown-ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Reference: Madry et al., 2018, https://arxiv.org/abs/1706.06083, equation 2.1
    """

    default_method = "crown-ibp"
    term_names = ("adversarial",)
    bound = None  # Bounds have no part in its training.

    def __init__(
        self,
        region: Region,
        steps: int = 7,
        step_size: float | None = None,
        **shared: Unpack[Ramped],
    ):
        super().__init__(region, **shared)
        self.steps, self.step_size = steps, step_size
        self.attack = PGD(self.train_region, steps, step_size)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        place = batch.at_input(self.region_at(batch.clock))
        return {"adversarial": cross_entropy(batch.y, place.scores(place.worst(self.attack)))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps, "step_size": self.step_size}
