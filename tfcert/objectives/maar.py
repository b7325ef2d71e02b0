"""MAAR: consistency of the worst case with the clean output, for what the model gets wrong."""

from __future__ import annotations

from typing import Any, Unpack

import keras
from keras import ops

from tfcert.bounds.margins import Margins
from tfcert.objectives.arguments import as_choice
from tfcert.objectives.batch import Batch
from tfcert.objectives.crown_ibp import CrownIBP, SweptLoss
from tfcert.objectives.losses import boosted_cross_entropy, cross_entropy, kl_divergence
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["MAAR"]

_CHOICES = {
    "classification": ("cross_entropy", "boosted"),
    "divergence": ("clean", "worst", "symmetric", "upper_bound"),
    "selection": ("soft", "hard"),
    "consistency_bound": ("training", "ibp"),
}
_DETACHABLE = ("weight", "clean")


@keras.saving.register_keras_serializable(package="tfcert")
class MAAR(CrownIBP):
    """Certified training with misclassification-aware consistency of output distributions.

    ``(1 - kappa) CE(worst, y) + kappa CE(z, y) + lambda (1 - p_y) KL(p || p_worst)`` with
    ``p = softmax(z)`` of the clean input and ``p_worst`` the softmax of the worst-case logits that
    the base method trains on. The base is CROWN-IBP. ``backward_weight=0.0`` makes IBP the base,
    and ``weight=0.0`` gives exactly the base method.

    The paper's abstract says that the term compares output distributions over the whole certified
    region, for misclassified inputs. The form here follows the authors' public work (MART), and an
    argument changes every choice.

    Args:
        region: The target region.
        weight: lambda, the weight of the consistency term: a number, a schedule, or a pair (at
            radius 0, at full radius).
        natural_weight: kappa, the share of the clean loss, from 0 to 1: a number, a schedule, or a
            pair (at radius 0, at full radius) between which it moves as the radius grows.
        backward_weight: beta, the share of the backward bound, from 0 to 1: a number, a schedule,
            or a pair (at radius 0, at full radius). 0.0 makes the base IBP.
        classification: "cross_entropy", or "boosted" for MART's loss of the worst-case logits.
        divergence: "clean" for KL(p || p_worst), "worst" for the reverse, "symmetric" for half the
            sum of both, or "upper_bound" for an upper bound of KL(p(x) || p(x')) in the region:
            ``sum_k p_k (log p_k + log sum_j exp(u_jk))`` with ``u_jk >= z'_j - z'_k``.
        selection: "soft" for the weight 1 - p_y, "hard" for 1 where the clean input is
            misclassified and 0 elsewhere.
        consistency_bound: "training" for the worst-case logits of the base, or "ibp".
        detach: The parts that take no gradient of this term: any of "weight" and "clean".
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
    >>> objective = tfcert.objectives.MAAR(region, weight=5.0, train_eps=0.2, ramp=(1, 10))

    References: Xu et al., 2020, https://arxiv.org/abs/2012.13103; Wang et al., Improving
    adversarial robustness requires revisiting misclassified examples, ICLR 2020.
    """

    def __init__(
        self,
        region: Region,
        weight: Any = 5.0,
        natural_weight: Any = (1.0, 0.5),
        backward_weight: Any = (1.0, 0.0),
        *,
        classification: str = "cross_entropy",
        divergence: str = "clean",
        selection: str = "soft",
        consistency_bound: str = "training",
        detach: tuple[str, ...] = (),
        **base: Unpack[SweptLoss],
    ):
        super().__init__(region, natural_weight, backward_weight, **base)
        self.add_weights(weight=weight)
        self.classification, self.divergence = classification, divergence
        self.selection, self.consistency_bound = selection, consistency_bound
        self.detach = tuple(detach)
        for name, choices in _CHOICES.items():
            as_choice(name, getattr(self, name), choices)
        if not set(self.detach) <= set(_DETACHABLE):
            raise ValueError(
                f"`detach` may hold {' and '.join(_DETACHABLE)}. Received: detach={detach!r}."
            )

    @property
    def extra_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.weights["weight"].is_zero else ("consistency",)

    @property
    def needs_all_margins(self) -> bool:
        return bool(self.extra_names) and self.divergence == "upper_bound"

    def robust_loss(self, batch: Batch, known: Margins, worst: Tensor) -> Tensor:
        if self.classification == "boosted":
            return boosted_cross_entropy(batch.y, worst)
        return super().robust_loss(batch, known, worst)

    def extra_terms(self, batch: Batch, known: Margins, worst: Tensor) -> dict[str, Tensor]:
        if not self.extra_names:
            return {}
        if self.consistency_bound == "ibp":
            worst = -known.interval()
        clean = batch.logits
        chosen = self._selected(batch)
        if "weight" in self.detach:
            chosen = ops.stop_gradient(chosen)
        if "clean" in self.detach:
            clean = ops.stop_gradient(clean)
        term = self._divergence(clean, worst, known)
        return {"consistency": self.weight("weight", batch.clock) * chosen * term}

    def _selected(self, batch: Batch) -> Tensor:
        if self.selection == "hard":
            wrong = ops.argmax(batch.logits, axis=-1) != ops.cast(batch.y, "int32")
            return ops.cast(wrong, batch.logits.dtype)
        return 1.0 - ops.exp(-cross_entropy(batch.y, batch.logits))

    def _divergence(self, clean: Tensor, worst: Tensor, known: Margins) -> Tensor:
        if self.divergence == "clean":
            return kl_divergence(clean, worst)
        if self.divergence == "worst":
            return kl_divergence(worst, clean)
        if self.divergence == "symmetric":
            return 0.5 * (kl_divergence(clean, worst) + kl_divergence(worst, clean))
        log_p = ops.log_softmax(clean)
        largest = -known.pairs()  # u[:, k, j] >= z'_j - z'_k
        return ops.sum(ops.exp(log_p) * (log_p + ops.logsumexp(largest, axis=-1)), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classification": self.classification,
            "divergence": self.divergence,
            "selection": self.selection,
            "consistency_bound": self.consistency_bound,
            "detach": list(self.detach),
        }
