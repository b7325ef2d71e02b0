"""Powers of many numbers in float32, fast enough for the inner loop of a distance.

``d^p = 2^(p log2 d)`` with a polynomial for each of the two functions: additions and
multiplications, of which a compiler makes vector instructions. That takes a tenth of the time of
the library's ``pow``. Other types than float32 go through the library.
"""

from __future__ import annotations

import keras
from keras import ops

from tfcert import backend
from tfcert.types import Tensor

__all__ = ["eighth", "exp2", "log2", "seventh", "with_sign"]

# Of log2(1 + m) / m for 1 + m in [sqrt(1/2), sqrt(2)], and of 2^f for f in [-1/2, 1/2]: minimax
# polynomials, constant term first. The absolute error of the logarithm is 7e-7, the relative error
# of the power 3e-6.
_LOG2 = (1.4426963, -0.7213677, 0.4806487, -0.35918486, 0.2951001, -0.27097702, 0.17616518)
_EXP2 = (1.0000001, 0.693121, 0.24021865, 0.05592203, 0.0096857063)

# The bits of sqrt(1/2), and how many bits of a float32 lie below its exponent.
_HALF_ROOT, _FRACTION = 0x3F3504F3, 23
# Powers of 2 below this one are no normal numbers.
_LOWEST = -126.0


def log2(values: Tensor) -> Tensor:
    """The base-2 logarithm of numbers that are not negative; -127 or less for 0."""
    if not _single(values):
        return ops.log2(ops.maximum(values, 1e-300))
    bits = backend.bits_as(values, "int32")
    # values = 2^exponent (1 + m)
    exponent = ops.right_shift(bits - _HALF_ROOT, _FRACTION)
    m = backend.bits_as(bits - ops.left_shift(exponent, _FRACTION), "float32") - 1.0
    return ops.cast(exponent, "float32") + m * _polynomial(_LOG2, m)


def exp2(exponents: Tensor) -> Tensor:
    """2 to powers of at most 127; 2^-126, as good as 0, where they are below -126."""
    exponents = ops.maximum(exponents, _LOWEST)
    if not _single(exponents):
        return ops.exp(0.6931471805599453 * exponents)
    whole = ops.floor(exponents + 0.5)
    bits = backend.bits_as(_polynomial(_EXP2, exponents - whole), "int32")
    return backend.bits_as(bits + ops.left_shift(ops.cast(whole, "int32"), _FRACTION), "float32")


def eighth(values: Tensor) -> Tensor:
    """``values^8``, with which training begins."""
    square = values * values
    fourth = square * square
    return fourth * fourth


def seventh(values: Tensor) -> Tensor:
    """``values^7``, with the sign of the values."""
    square = values * values
    return values * square * (square * square)


def with_sign(magnitude: Tensor, signed: Tensor) -> Tensor:
    """Numbers that are not negative, with the signs of others (either sign where these are 0)."""
    return ops.where(signed < 0, -magnitude, magnitude)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def _single(values: Tensor) -> bool:
    return keras.backend.standardize_dtype(values.dtype) == "float32"
