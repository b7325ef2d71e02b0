"""CROWN-IBP with one row in place of one per class: the loss itself is bounded."""

from __future__ import annotations

import keras
from keras import ops

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.crown_ibp import CrownIBP
from tfcert.objectives.losses import cross_entropy
from tfcert.types import Tensor

__all__ = ["FusedCrownIBP"]

# Below this distance a chord's slope would be a quotient of two rounding errors.
_FLAT = 1e-3
# Keeps the logarithm finite; 1e-30 of the largest exponential is far below float32's rounding.
_TINY = 1e-30


@keras.saving.register_keras_serializable(package="tfcert")
class FusedCrownIBP(CrownIBP):
    """Trains as CROWN-IBP, with one backward sweep that bounds the loss itself.

    With ``w_j = z_j - z_y`` the loss is ``log(1 + sum_j exp(w_j))``. Over the intervals
    ``[l_j, u_j]`` of the w_j each exponential lies below its chord, and the sum of the chords is
    one linear function of the scores. So one row is swept, while ``CrownIBP`` sweeps one row for
    each other class:

        loss <= log(1 + T - min over the relaxation of sum_j s_j (z_y - z_j)),
        s_j = (exp(u_j) - exp(l_j)) / (u_j - l_j),    T = sum_j (exp(u_j) - s_j u_j)

    The share beta mixes this sum with the sum of the intervals, ``sum_j exp(u_j)``. The result
    bounds the largest loss at one point, while ``CrownIBP`` allows a different worst point for each
    margin. On the other hand, chords are looser than exponentials. Verified accuracy still uses
    exact margins.

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

    Example:

    >>> region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    >>> objective = tfcert.objectives.FusedCrownIBP(region, train_eps=0.2, ramp=(1, 10))

    Reference: Xu et al., 2020, https://arxiv.org/abs/2002.12920, section 3.3 (loss fusion).
    """

    @property
    def needs_all_margins(self) -> bool:
        return True  # The exponentials of all rivals are bounded as one sum.

    def margin_bounds(self, batch: Batch, known: Margins) -> Tensor:
        return known.interval()

    def robust_loss(self, batch: Batch, known: Margins, worst: Tensor) -> Tensor:
        if self.share.is_zero:
            return cross_entropy(batch.y, worst)
        beta = self.weight("backward_weight", batch.clock)
        # The label's own exponential, exp(0), is exact, and is taken apart from the others.
        others = 1.0 - known.hot
        shift = ops.stop_gradient(ops.max(worst, axis=-1))
        interval = ops.sum(others * ops.exp(worst - shift[:, None]), axis=-1)

        def mixed() -> Tensor:
            return beta * self._fused(known, worst, shift) + (1.0 - beta) * interval

        total = known.if_swept(beta > 0, mixed, interval)
        # The sum of exponentials is positive; its bound in float32 may fall below by rounding.
        total = ops.maximum(total, _TINY)
        return ops.log(ops.exp(-shift) + total) + shift

    def _fused(self, known: Margins, upper: Tensor, shift: Tensor) -> Tensor:
        """The bound of ``sum_j exp(w_j - shift)`` by a sweep of all chords together."""
        others = 1.0 - known.hot
        lower = ops.minimum(known.interval(-1.0), upper)
        width = upper - lower
        high = ops.exp(upper - shift[:, None])
        flat = width < _FLAT
        apart = ops.where(flat, ops.ones_like(width), width)
        chord = (high - ops.exp(lower - shift[:, None])) / apart
        slope = others * ops.where(flat, high, chord)
        constant = ops.sum(others * high - slope * upper, axis=-1)
        row = ops.sum(slope, axis=-1, keepdims=True) * known.hot - slope
        return constant - known.backward_of(row[:, None])[:, 0]
