"""Interval bound propagation as a training loss."""

from __future__ import annotations

from typing import Any, Unpack

import keras
from keras import ops

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy, worst_case_logits
from tfcert.objectives.objective import RobustObjective
from tfcert.objectives.settings import Ramped
from tfcert.objectives.warmup import warmup_regularizers
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["IBP", "CertifiedLoss"]


class CertifiedLoss(Ramped, total=False):
    """Keyword arguments of IBP and of every objective that is built on it."""

    regularizer: float
    tolerance: float


@keras.saving.register_keras_serializable(package="tfcert")
class IBP(RobustObjective):
    """Mixes the cross-entropy of worst-case logits from intervals with the clean cross-entropy.

    ``(1 - kappa) CE(worst, y) + kappa CE(z, y)``, where ``worst_j = -(lower bound of z_y - z_j)``.

    Args:
        region: The target region.
        natural_weight: kappa, the share of the clean loss, from 0 to 1: a number, a schedule, or a
            pair (at radius 0, at full radius) between which it moves as the radius grows.
        regularizer: Weight of the warm-up regularisers of Shi et al. (2021), which fade out as the
            radius grows. They balance how fast intervals widen and how many units stay unstable.
            Use them with ``tfcert.models.ibp_initialization``. The paper uses 0.5.
        tolerance: tau, the tolerance of these regularisers.
        train_eps: The radius for training. Default: the region's radius. The literature trains at a
            larger radius than it tests: on MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: The bound method behind ``verified_accuracy``: a name or an object of
            ``tfcert.methods``. Default: "ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Example:

    >>> region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    >>> objective = tfcert.objectives.IBP(region, train_eps=0.2, ramp=(1, 10))

    References: Gowal et al., 2018, https://arxiv.org/abs/1810.12715, equations 9 to 12; Shi et al.,
    2021, https://arxiv.org/abs/2103.17268, section 3.
    """

    default_method = "ibp"

    def __init__(
        self,
        region: Region,
        natural_weight: Any = (1.0, 0.5),
        *,
        regularizer: float = 0.0,
        tolerance: float = 0.5,
        **shared: Unpack[Ramped],
    ):
        super().__init__(region, **shared)
        self.add_weights(most=1.0, natural_weight=natural_weight)
        self.regularizer, self.tolerance = float(regularizer), float(tolerance)
        if self.regularizer < 0 or not self.tolerance > 0:
            raise ValueError(
                "`regularizer` must be at least 0 and `tolerance` > 0. "
                f"Received: regularizer={regularizer}, tolerance={tolerance}."
            )

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("natural", "robust", *self.extra_names, *(["warmup"] * (self.regularizer > 0)))

    extra_names: tuple[str, ...] = ()

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        known = self.known_bounds(batch)
        worst = worst_case_logits(self.margin_bounds(batch, known))
        kappa = self.weight("natural_weight", batch.clock)
        natural = self.aim.natural(batch)
        if self.weights["natural_weight"].is_zero:  # A third of the step would compute zeros.
            natural = ops.stop_gradient(natural)
        terms = {
            "natural": kappa * natural,
            "robust": (1.0 - kappa) * self.robust_loss(batch, known, worst),
        }
        terms.update(self.extra_terms(batch, known, worst))
        if self.regularizer:
            fading = self.regularizer * (1.0 - self.ramp(batch.clock))
            terms["warmup"] = fading * warmup_regularizers(known.evaluation, self.tolerance)
        return terms

    def known_bounds(self, batch: Batch) -> Margins:
        """Returns the evaluation that the loss and the regularisers read."""
        return self.bounds(batch, self.training_method())

    def training_method(self) -> Any:
        """Returns the method that bounds hidden layers."""
        return "ibp"

    def margin_bounds(self, batch: Batch, known: Margins) -> Tensor:
        """Returns the margin bounds in the loss, ``(batch, classes)``."""
        return known.interval()

    def robust_loss(self, batch: Batch, known: Margins, worst: Tensor) -> Tensor:
        """Returns the loss of worst-case logits, per sample."""
        return cross_entropy(batch.y, worst)

    def extra_terms(self, batch: Batch, known: Margins, worst: Tensor) -> dict[str, Tensor]:
        """Returns terms that a subclass adds to the loss."""
        return {}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "regularizer": self.regularizer,
            "tolerance": self.tolerance,
        }
