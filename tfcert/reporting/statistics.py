"""What a log says about a classifier, each number with its standard error.

The inputs of a log are taken as a random sample of all inputs. A mean of n values v_i then has the
standard error ``s / sqrt(n)`` with ``s^2 = sum_i (v_i - mean)^2 / (n - 1)``; for values 0 and 1
that is ``sqrt(p (1 - p) / (n - 1))``. Two classifiers on the same inputs are compared through the
differences of each input's values, whose error is far smaller than that of two separate samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfcert.reporting.entries import Entries

__all__ = [
    "Estimate",
    "PairedDifference",
    "average_certified_radius",
    "certified_accuracy",
    "paired_difference",
    "share",
]


class Estimate(NamedTuple):
    """A mean and its standard error, which is NaN for a single value."""

    value: float
    error: float


class PairedDifference(NamedTuple):
    """The mean of first - second over the inputs of both, its standard error, how many they are."""

    value: float
    error: float
    inputs: int


def _mean(values: np.ndarray) -> Estimate:
    values = values.astype(np.float64)
    if len(values) == 0:
        return Estimate(math.nan, math.nan)
    with np.errstate(over="ignore", invalid="ignore"):  # A file may hold the largest floats.
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Estimate(float(values.mean()), float(error))


def share(chosen: np.ndarray) -> Estimate:
    """The share of True in an array of bools."""
    return _mean(chosen)


def certified_accuracy(entries: Entries, radii: Sequence[float]) -> list[Estimate]:
    """For each radius r, the share of inputs that are correct with a certified radius >= r.

    Of smoothing, such a certificate is about inputs closer than r; of ``tfcert.certify``, whose
    radius is the largest that was verified, about those at the distance r too.

    Example:

    >>> for accuracy in tfcert.reporting.certified_accuracy(entries, [0.0, 0.25, 0.5]):
    ...     print(f"{accuracy.value:.3f} +- {accuracy.error:.3f}")
    """
    return [share(entries.certified(radius)) for radius in radii]


def average_certified_radius(entries: Entries) -> Estimate:
    """ACR, the mean over all inputs of ``radius * correct``.

    Example:

    >>> acr = tfcert.reporting.average_certified_radius(entries)
    >>> print(f"{acr.value:.3f} +- {acr.error:.3f}")

    Reference: Zhai et al., 2020, https://arxiv.org/abs/2001.02378, section 6.
    """
    return _mean(entries.robust_radius())


def paired_difference(
    first: Entries,
    second: Entries,
    values: Callable[[Entries], np.ndarray] | None = None,
) -> PairedDifference:
    """The difference of two logs over the inputs that both have, with its standard error.

    With d_i the difference of the two values at input i, it is the mean of d_i and its error
    ``s(d) / sqrt(n)``.

    Args:
        first: A log.
        second: Another, about the same data set.
        values: Gives a value for each input of a log. Default: ``radius * correct``, whose mean is
            the ACR.

    Raises:
        ValueError: No index is in both logs, or they disagree about an input's label.

    Example:

    >>> found = tfcert.reporting.paired_difference(consistency, gaussian)
    >>> clearly_better = found.value > 2 * found.error
    >>> tfcert.reporting.paired_difference(a, b, lambda entries: entries.certified(0.5))
    >>> tfcert.reporting.paired_difference(a, b, lambda entries: entries.verdicts("verified"))
    """
    _, left, right = np.intersect1d(first.idx, second.idx, return_indices=True)
    if len(left) == 0:
        raise ValueError(f"{first.path} and {second.path} have no idx in common.")
    other = np.flatnonzero(first.label[left] != second.label[right])
    if len(other):
        place = other[0]
        raise ValueError(
            f"{first.path} and {second.path} are not about the same data: the input with idx "
            f"{first.idx[left[place]]} has label {first.label[left[place]]} and "
            f"{second.label[right[place]]}; {len(other)} of {len(left)} differ."
        )
    values = values or Entries.robust_radius
    one, two = (values(log).astype(np.float64) for log in (first, second))
    found = _mean(one[left] - two[right])
    return PairedDifference(found.value, found.error, len(left))
