"""Limits of the rounding errors of an execution.

The model is the standard one, with flushing: every operation errs by at most ``u`` of its exact
result, where numbers below ``TINY`` may count as zero. Sums may be taken in any order, and steps
may be fused. Not covered are algorithms that compute other sums, as Winograd's or Fourier
convolutions, and operands that are rounded to fewer bits, as in TF32.

Reference: Higham, 2002, "Accuracy and Stability of Numerical Algorithms", chapter 3.
"""

from __future__ import annotations

from keras import ops

from tfcert.types import Tensor

__all__ = ["HUGE", "TINY", "flushed", "gamma", "rounding_error"]

# Results and operands below this may be flushed to zero: an absolute error per operation.
TINY = 2.0**-126
# From here on an execution in float32 may overflow.
HUGE = 2.0**126


def gamma(terms: int, unit: float) -> float:
    """Higham's bound ``n u / (1 - n u)`` on the relative error of n rounded operations."""
    if terms * unit >= 0.5:
        raise NotImplementedError(
            f"sums {terms} terms, too many for a rounding bound with unit roundoff {unit:g}."
        )
    return terms * unit / (1.0 - terms * unit)


def rounding_error(size: Tensor, terms: int, unit: float) -> Tensor:
    """Returns the error of a rounded sum of products, in any order of summation.

    Args:
        size: The sum of the absolute values of all parts.
        terms: Largest number of roundings that one part goes through.
        unit: Unit roundoff.

    Returns:
        ``gamma(terms) size``, and what flushing the results of as many products and sums adds;
        infinite where a part may overflow.
    """
    error = gamma(terms, unit) * size + 4 * terms * TINY
    return ops.where(size >= HUGE, float("inf"), error)


def flushed(terms: int, unit: float) -> float:
    """Returns the amount to add to both factors of a product, to cover flushed operands.

    An operand below ``TINY`` may count as zero, which costs up to ``TINY`` times the other factor:
    with ``t = TINY / gamma``, ``gamma (|x| + t) (|w| + t) >= gamma |x| |w| + TINY (|x| + |w|)``.
    """
    return TINY / gamma(terms, unit)
