"""The losses that attacks maximise, one number per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from keras import ops

from tfcert.types import AttackLoss, Tensor

__all__ = ["CLASSES", "LOSSES", "TARGETED", "TARGETED_CLASSES", "Goal", "margin", "rivals"]


def margin(y: Tensor, logits: Tensor) -> Tensor:
    """The largest wrong score minus the right one: positive where the model is wrong."""
    wrong = ops.max(_without(y, logits), axis=-1)
    return wrong - _score(y, logits)


def cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """``-log softmax(logits)_y``; its gradient vanishes where the model is very sure."""
    return ops.sparse_categorical_crossentropy(y, logits, from_logits=True)


def logits_ratio(y: Tensor, logits: Tensor) -> Tensor:
    """The margin over the difference of the best and the third score: blind to their scale.

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, equation 6
    """
    best = ops.top_k(logits, k=3, sorted=True)[0]
    return margin(y, logits) / (best[..., 0] - best[..., 2] + 1e-12)


def targeted_margin(y: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """The score of the target minus the right one."""
    return _score(target, logits) - _score(y, logits)


def targeted_cross_entropy(y: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """``log softmax(logits)_target``."""
    return -cross_entropy(target, logits)


def targeted_logits_ratio(y: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """The targeted margin over the best score minus the mean of the third and the fourth.

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, equation 7
    """
    best = ops.top_k(logits, k=4, sorted=True)[0]
    spread = best[..., 0] - 0.5 * (best[..., 2] + best[..., 3])
    return targeted_margin(y, target, logits) / (spread + 1e-12)


LOSSES: Mapping[AttackLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "logits_ratio": logits_ratio,
}

TARGETED: Mapping[AttackLoss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": targeted_cross_entropy,
    "margin": targeted_margin,
    "logits_ratio": targeted_logits_ratio,
}

# The fewest classes that a loss is defined for, without a target and with one.
CLASSES: Mapping[AttackLoss, int] = {"cross_entropy": 2, "margin": 2, "logits_ratio": 3}
TARGETED_CLASSES: Mapping[AttackLoss, int] = {**CLASSES, "logits_ratio": 4}


class Goal(NamedTuple):
    """The loss that an attack maximises for given inputs.

    Attributes:
        loss: The name of the loss.
        y: Labels.
        target: The class that is to win, one for each input; None: any wrong one.
    """

    loss: AttackLoss
    y: Tensor
    target: Tensor | None = None

    def value(self, logits: Tensor) -> Tensor:
        """The loss of each input."""
        if self.target is None:
            return LOSSES[self.loss](self.y, logits)
        return TARGETED[self.loss](self.y, self.target, logits)

    def margin(self, logits: Tensor) -> Tensor:
        """The margin of each input, whichever class wins."""
        return margin(self.y, logits)


def rivals(y: Tensor, logits: Tensor, count: int) -> Tensor:
    """The wrong classes with the largest scores, the largest first: ``(batch, count)``."""
    return ops.top_k(_without(y, logits), k=count, sorted=True)[1]


def _score(y: Tensor, logits: Tensor) -> Tensor:
    hot = ops.one_hot(y, logits.shape[-1], dtype="bool")
    return ops.sum(ops.where(hot, logits, ops.zeros_like(logits)), axis=-1)


def _without(y: Tensor, logits: Tensor) -> Tensor:
    hot = ops.one_hot(y, logits.shape[-1], dtype="bool")
    return ops.where(hot, ops.full_like(logits, float("-inf")), logits)
