"""What attacks maximise, one number per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keras import ops

from tfcert.types import Tensor

__all__ = ["CLASSES", "LOSSES", "margin"]


def margin(y: Tensor, logits: Tensor) -> Tensor:
    """The largest wrong score minus the right one: positive where the model is wrong."""
    hot = ops.one_hot(y, logits.shape[-1], dtype="bool")
    right = ops.sum(ops.where(hot, logits, ops.zeros_like(logits)), axis=-1)
    wrong = ops.max(ops.where(hot, ops.full_like(logits, float("-inf")), logits), axis=-1)
    return wrong - right


def cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """``-log softmax(logits)_y``; its gradient vanishes where the model is very sure."""
    return ops.sparse_categorical_crossentropy(y, logits, from_logits=True)


def logits_ratio(y: Tensor, logits: Tensor) -> Tensor:
    """The margin over the difference of the best and the third score: blind to their scale.

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, equation 6
    """
    best = ops.top_k(logits, k=3, sorted=True)[0]
    return margin(y, logits) / (best[..., 0] - best[..., 2] + 1e-12)


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "logits_ratio": logits_ratio,
}

# The fewest classes that a loss is defined for.
CLASSES: Mapping[str, int] = {"cross_entropy": 2, "margin": 2, "logits_ratio": 3}
