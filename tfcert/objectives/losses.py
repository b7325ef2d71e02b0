"""Terms that several objectives are made of; each gives one number per sample."""

from __future__ import annotations

from keras import ops

from tfcert.types import Tensor

__all__ = ["boosted_cross_entropy", "cross_entropy", "kl_divergence", "worst_case_logits"]


def cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """``-log softmax(logits)_y``.

    Args:
        y: Integer labels, ``(batch,)``.
        logits: ``(batch, classes)``.

    Returns:
        ``(batch,)``.
    """
    return ops.sparse_categorical_crossentropy(y, logits, from_logits=True)


def worst_case_logits(margins: Tensor) -> Tensor:
    """Logits that no point of the region has worse: 0 for the label, ``-margin`` elsewhere.

    Args:
        margins: Lower bounds of ``f_y - f_j``, 0 in column y.
    """
    return -margins


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(other))``, at least 0, ``(batch,)``."""
    log_p, log_q = ops.log_softmax(logits), ops.log_softmax(other)
    # Where p underflows to 0 the product is 0 even if log q is -inf.
    p = ops.exp(log_p)
    terms = ops.where(p > 0, p * (log_p - log_q), ops.zeros_like(p))
    return ops.maximum(ops.sum(terms, axis=-1), 0.0)


def boosted_cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """``-log q_y - log(1 - max of q_j, j != y)`` with ``q = softmax(logits)``.

    Reference: Wang et al., Improving adversarial robustness requires revisiting misclassified
    examples (MART), ICLR 2020.
    """
    q = ops.softmax(logits)
    hot = ops.one_hot(y, ops.shape(logits)[-1], dtype=q.dtype)
    others = ops.max(q - hot * 2.0, axis=-1)
    # 1.0001: the guard of the paper's code, without which a confident error gives -log 0.
    return cross_entropy(y, logits) - ops.log(1.0001 - others)
