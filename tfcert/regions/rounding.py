"""Sums, products and casts that are rounded in a stated direction.

``keras.ops.nextafter`` goes through float64 on TensorFlow and then rounds back to where it started,
so the neighbour of a float is computed here. Numbers below the smallest normal one count as zero,
because processors and compilers may flush them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = [
    "add_down",
    "add_up",
    "cast_down",
    "cast_up",
    "difference",
    "multiply_down",
    "multiply_up",
]


def _step(value: Tensor) -> Tensor:
    """A step that takes ``value`` to its next float, outwards or inwards.

    With u half a unit in the last place of 1, u (1 + 2u) |value| is more than half and less than
    one and a half of value's own unit, so that adding it rounds to the neighbour. Near zero, where
    this product would be flushed, the smallest normal number is the step.

    Reference: Rump et al., 2009, "Computing predecessor and successor in rounding to nearest".
    """
    info = np.finfo(keras.backend.standardize_dtype(value.dtype))
    half_unit = float(info.eps) / 2
    return (half_unit * (1 + 2 * half_unit)) * ops.abs(value) + float(info.tiny)


def add_up(x: Tensor, y: Tensor) -> Tensor:
    """The sum, or its next float where the sum was rounded downwards; exact sums stay."""
    total = x + y
    # Knuth's TwoSum: (x + y) - total without error. Only additions and subtractions, so that a
    # compiler that contracts products into fused operations leaves it alone.
    y_rounded = total - x
    error = (x - (total - y_rounded)) + (y - y_rounded)
    return total + ops.stop_gradient(ops.where(error > 0, _step(total), 0.0))


def add_down(x: Tensor, y: Tensor) -> Tensor:
    """The sum, or the float before it where the sum was rounded upwards; exact sums stay."""
    return -add_up(-x, -y)


def multiply_up(x: Tensor, y: Tensor) -> Tensor:
    """At least the product of two numbers >= 0; exact where one of them is 0 or 1."""
    product = x * y
    return product + ops.stop_gradient(_product_step(x, y, product))


def multiply_down(x: Tensor, y: Tensor) -> Tensor:
    """At most the product of two numbers >= 0, at least 0; exact where one of them is 0 or 1."""
    product = x * y
    return ops.maximum(product - ops.stop_gradient(_product_step(x, y, product)), 0.0)


def _product_step(x: Tensor, y: Tensor, product: Tensor) -> Tensor:
    exact = (x == 0) | (x == 1) | (y == 0) | (y == 1)
    return ops.where(exact, 0.0, _step(product))


def cast_up(value: Any, dtype: str) -> Tensor:
    """The smallest number of ``dtype`` that is at least ``value``: a tensor, or float64."""
    if not ops.is_tensor(value):
        return ops.convert_to_tensor(round_up(np.asarray(value, "float64"), dtype), dtype)
    source = keras.backend.standardize_dtype(value.dtype)
    rounded = ops.cast(value, dtype)
    if source == dtype or source != "float64":
        return rounded
    return rounded + ops.where(ops.cast(rounded, source) < value, _step(rounded), 0.0)


def cast_down(value: Any, dtype: str) -> Tensor:
    """The largest number of ``dtype`` that is at most ``value``."""
    return -cast_up(-value, dtype)


def round_up(value: np.ndarray, dtype: str) -> np.ndarray:
    """The smallest numbers of ``dtype`` that are at least the values."""
    with np.errstate(over="ignore"):
        rounded = value.astype(dtype)
    rounded = np.where(rounded < value, np.nextafter(rounded, np.array(np.inf, dtype)), rounded)
    tiny = np.finfo(dtype).tiny
    rounded = np.where((rounded > 0) & (rounded < tiny), tiny, rounded)
    return np.where((rounded < 0) & (rounded > -tiny), 0, rounded).astype(dtype)


def difference(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded difference, and what rounding took away from it."""
    total = first - second
    rounded = total - first
    return total, (first - (total - rounded)) - (second + rounded)
