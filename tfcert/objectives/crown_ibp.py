"""CROWN-IBP: intervals inside, one backward sweep from the margins."""

from __future__ import annotations

from typing import Any, Unpack

import keras

from tfcert.bounds import methods
from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.ibp import IBP, CertifiedLoss
from tfcert.objectives.mixture import SweepShare
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["CrownIBP", "SweptLoss"]


class SweptLoss(CertifiedLoss, total=False):
    """Keyword arguments of CROWN-IBP and of every objective that is built on it."""

    slope: str


@keras.saving.register_keras_serializable(package="tfcert")
class CrownIBP(IBP):
    """Trains with margins of a backward sweep at first, and with interval margins in the end.

    ``m = beta m_backward + (1 - beta) m_interval``. By default beta falls from 1 to 0 as the radius
    grows. So training ends as pure IBP, and computes no sweep once beta is 0.

    Args:
        region: The target region.
        natural_weight: kappa, the share of the clean loss, from 0 to 1: a number, a schedule, or a
            pair (at radius 0, at full radius) between which it moves as the radius grows.
        backward_weight: beta, the share of the backward bound, from 0 to 1: a number, a schedule,
            or a pair (at radius 0, at full radius). ``(1.0, 1.0)`` keeps the backward bound to
            the end.
        slope: The lower line of an unstable ReLU in the backward sweep: "adaptive" (1 where
            u > -l, else 0), "zero", "one", or "same" (parallel to the upper line).
        regularizer: Weight of the warm-up regularisers of Shi et al. (2021), which fade out as the
            radius grows. They balance how fast intervals widen and how many units stay unstable.
            Use them with ``tfcert.models.ibp_initialization``. The paper uses 0.5.
        tolerance: tau, the tolerance of these regularisers.
        train_eps: The radius for training. Default: the region's radius. The literature trains at a
            larger radius than it tests: on MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: How ``verified_accuracy`` is bounded: a name or an object of
            ``tfcert.methods``. Default: "ibp" where beta ends at 0, else "crown-ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Reference: Zhang et al., 2019, https://arxiv.org/abs/1906.06316, equations 13 to 15.
    """

    def __init__(
        self,
        region: Region,
        natural_weight: Any = (1.0, 0.5),
        backward_weight: Any = (1.0, 0.0),
        *,
        slope: str = "adaptive",
        **base: Unpack[CertifiedLoss],
    ):
        super().__init__(region, natural_weight, **base)
        self.add_weights(most=1.0, backward_weight=backward_weight)
        self.slope = methods.CrownIBP(slope).slope  # Checked there.

    @property
    def share(self) -> SweepShare:
        """Returns the weights that mix the margins of the sweep and of intervals."""
        return SweepShare(self.weights["backward_weight"], self.sweep_method())

    def sweep_method(self) -> methods.Method:
        """Returns the method of the backward sweep."""
        return methods.CrownIBP(self.slope)

    def training_method(self) -> Any:
        return self.share.training_method

    @property
    def default_method(self) -> Any:  # type: ignore[override]
        """The bound method behind ``verified_accuracy``, as at the end of training."""
        return self.share.last_method

    def margin_bounds(self, batch: Batch, known: Margins) -> Tensor:
        return self.share.margins(known, self.weight("backward_weight", batch.clock))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}
