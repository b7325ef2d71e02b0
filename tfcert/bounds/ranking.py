"""Scores and margins of which some may be ahead of the label."""

from __future__ import annotations

from keras import ops

from tfcert.types import Tensor

__all__ = ["ranked", "ranked_margins"]

# The score of a rival that does not count: its part in a softmax is 0 in every float type.
_NO_SCORE = -1e9


def ranked(scores: Tensor, y: Tensor, allowed: int) -> Tensor:
    """Scores with the rivals of the label in falling order, of which the first ones do not count.

    The label is the largest of these scores where at most ``allowed`` rivals reach it. Every entry
    is monotone in the scores, so that upper bounds of scores give upper bounds of these scores.

    Args:
        scores: ``(batch, scores)``.
        y: The label of each, ``(batch,)``, whose score stays where it is.
        allowed: How many rivals may reach the label; 0 changes nothing.

    Example:

    >>> import numpy as np
    >>> np.asarray(ranked(np.array([[3.0, 2.0, 1.0, 4.0]]), np.array([1]), 1)).tolist()
    [[-1000000000.0, 2.0, 3.0, 1.0]]
    """
    if not allowed:
        return scores
    count = scores.shape[-1]
    y = ops.cast(y, "int32")[:, None]
    place = ops.arange(count, dtype="int32")[None]
    own = place == y
    # The label comes last in this order, whatever its score.
    order = ops.cast(ops.argsort(ops.where(own, float("inf"), -scores), axis=-1), "int32")
    # The rival of rank j stands at place j before the label, and at place j + 1 behind it.
    rank = ops.where(own, count - 1, ops.where(place < y, place, place - 1))
    chosen = ops.take_along_axis(order, rank, axis=-1)
    # No gather: XLA cannot compile the gradient of Keras's inside of a condition.
    picked = ops.where(chosen[..., None] == place[:, None], scores[:, None], 0.0)
    dropped = ops.logical_and(rank < allowed, ops.logical_not(own))
    return ops.where(dropped, _NO_SCORE, ops.sum(picked, axis=-1))


def ranked_margins(margins: Tensor, y: Tensor, allowed: int) -> Tensor:
    """``ranked`` for margins of the label over its rivals, 0 in column y, the least ones first."""
    return -ranked(-margins, y, allowed) if allowed else margins
