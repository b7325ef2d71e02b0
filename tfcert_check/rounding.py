"""Limits of rounding errors, of the checker's own numbers in float64 and of networks in float32.

Trusted: additions, subtractions and products of float64 numbers are rounded to the nearest number,
or results below 2^-1022 to 0; products of matrices are such sums in any order, fused or not.

With u = 2^-53, a sum of n products of given numbers is off by at most ``n u / (1 - n u)`` times the
sum of the absolute values of the products, in any order, as long as nothing overflows. ``share(n)``
is more than twice that, and at least 16 u. So it also covers that the sum of absolute values is
computed itself, and the few roundings of using it. Results below 2^-1022 add at most 2^-1022 for
each product: as no value is above ``LARGEST`` and there are fewer than 2^50 products, ``TINY`` is
larger than all of them together. Overflow gives infinity or NaN, and neither proves anything.

``executed`` is the same for a network that runs in float32, with u = 2^-24: weights are rounded to
float32, sums are taken in any order, fused or not, and compilers may join a scale and a shift with
the kernel before. Operands and results below 2^-126 may count as 0; ``FLUSHED`` covers that.
"""

from __future__ import annotations

import numpy as np

from tfcert_check.operators import Array
from tfcert_check.refusal import need

__all__ = ["FLUSHED", "LARGEST", "SMALL", "TINY"]
__all__ += ["dot", "down", "executed", "lost", "outward", "share", "up"]

TINY = 2.0**-900
LARGEST = 2.0**60
# Added to sizes of what runs in float32: times ``executed``, it is more than 2^-100. Each product
# loses less than 2^-126 (1 + |w| + |x|), and the number of products is part of ``executed``.
FLUSHED = 2.0**-80
# Divisors, and variances, have to be larger, so that no part of them is lost.
SMALL = 2.0**-40


def share(terms: int) -> float:
    """By which part of a sum of absolute values a sum of so many products may be off."""
    return 2.0 * (terms + 8) * 2.0**-53


def executed(terms: int) -> float:
    """The same in float32, with 16 more roundings than products."""
    need(terms <= 2**20, f"sums of {terms} terms are too long for a bound of their rounding")
    errors = (terms + 16) * 2.0**-24
    return errors / (1.0 - errors)


def outward(lower: Array, upper: Array) -> tuple[Array, Array]:
    """A box of float32 numbers around a box, and around its limits rounded to float32."""
    ends = (lower.astype(np.float32), -np.inf), (upper.astype(np.float32), np.inf)
    low, high = (np.nextafter(end, np.float32(far)).astype(np.float64) for end, far in ends)
    return low, high


def down(x: Array) -> Array:
    """The next smaller number: below what was rounded to x."""
    return np.nextafter(x, -np.inf)


def up(x: Array) -> Array:
    """The next larger number."""
    return np.nextafter(x, np.inf)


def dot(rows: Array, values: Array) -> Array:
    """Sums of products: ``(boxes, rows, n)`` with ``(boxes or 1, n)``, to ``(boxes, rows)``."""
    found: Array = np.matmul(rows, values[..., None])[..., 0]
    return found


def lost(rows: Array, size: Array, terms: int = 0, more: float = 0.0) -> Array:
    """Returns the rounding losses of a dot product with rows, and of the rows themselves.

    Args:
        rows: ``(boxes, rows, n)``, computed as sums of so many products, or rounded once.
        size: ``(boxes or 1, n)``: sums of the absolute values of what the products multiply.
        terms: How many products.
        more: Another part of the same sum to lose.
    """
    found: Array = (share(rows.shape[-1] + terms) + more) * dot(np.abs(rows), size) + TINY
    return found
