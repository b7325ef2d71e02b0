"""Limits of rounding errors in float64.

Trusted: additions, subtractions and products of float64 numbers are rounded to the nearest number,
or results below 2^-1022 to 0; products of matrices are such sums in any order, fused or not.

With u = 2^-53, a sum of n products of given numbers is off by at most ``n u / (1 - n u)`` times the
sum of the absolute values of the products, in any order, as long as nothing overflows. ``share(n)``
is more than twice that, and at least 16 u. So it also covers that the sum of absolute values is
computed itself, and the few roundings of using it. Results below 2^-1022 add at most 2^-1022 for
each product: as no value is above ``LARGEST`` and there are fewer than 2^50 products, ``TINY`` is
larger than all of them together. Overflow gives infinity or NaN, and neither proves anything.
"""

from __future__ import annotations

import numpy as np

from tfcert_check.operators import Array

__all__ = ["LARGEST", "TINY", "dot", "down", "lost", "share", "up"]

TINY = 2.0**-900
LARGEST = 2.0**60


def share(terms: int) -> float:
    """By which part of a sum of absolute values a sum of so many products may be off."""
    return 2.0 * (terms + 8) * 2.0**-53


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


def lost(rows: Array, size: Array, terms: int = 0) -> Array:
    """Returns the rounding losses of a dot product with rows, and of the rows themselves.

    Args:
        rows: ``(boxes, rows, n)``, computed as sums of so many products, or rounded once.
        size: ``(boxes or 1, n)``: sums of the absolute values of what the products multiply.
        terms: How many products.
    """
    found: Array = share(rows.shape[-1] + terms) * dot(np.abs(rows), size) + TINY
    return found
