"""Statistics of a log, each with its standard error.

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
    """The mean difference of two logs over common inputs, its standard error, and their number."""

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
    """Returns the share of True in an array of bools, with its standard error."""
    return _mean(chosen)


def certified_accuracy(entries: Entries, radii: Sequence[float]) -> list[Estimate]:
    """Returns for each radius r the share of inputs that are correct with a certified radius >= r.

    A smoothing certificate covers inputs closer than r. The radius of ``tfcert.certify`` is the
    largest verified one, and covers inputs at the distance r as well.

    Example:

    >>> for accuracy in tfcert.reporting.certified_accuracy(entries, [0.0, 0.25, 0.5]):
    ...     print(f"{accuracy.value:.3f} +- {accuracy.error:.3f}")
    """
    return [share(entries.certified(radius)) for radius in radii]


def average_certified_radius(entries: Entries) -> Estimate:
    """Returns the average certified radius, the mean of ``radius * correct`` over all inputs.

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
    """Returns the mean difference of two logs over common inputs, with its standard error.

    Let d_i be the difference of the two values at input i. The result is the mean of d_i and the
    error ``s(d) / sqrt(n)``.

    Args:
        first: A log.
        second: Another log about the same data set.
        values: A function from a log to one value per input. Default: ``radius * correct``, whose
            mean is the average certified radius.

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
