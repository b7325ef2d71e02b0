"""Exact binomial confidence bounds in float64, on NumPy alone.

A smoothed classifier is certified by counting votes, so what it promises rests on these few
functions. They use neither scipy nor TensorFlow Probability: the package needs the former for tests
only, and the latter is not there under JAX and gives NaN for no votes at all.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from tfcert.types import ArrayLike

__all__ = ["check_alpha", "lower_bound", "two_sided_test", "upper_bound"]

# Where a continued fraction and a search stop. Newton's steps square their error: behind one of
# 1e-8 lies 1e-13. Some 40 terms and 10 steps are needed at a million trials.
_STILL = 1e-14
_MOST_TERMS = 2_000
_SMALL_STEP = 1e-8
_MOST_STEPS = 50


def lower_bound(successes: ArrayLike, trials: int, alpha: float) -> np.ndarray:
    """Returns the one-sided Clopper-Pearson lower bound of a probability.

    The largest p at which ``P(Binomial(trials, p) >= successes) <= alpha``: the alpha-quantile of
    ``Beta(successes, trials - successes + 1)``. Whatever the true probability is, the bound lies
    above it with a probability of at most alpha. The bound is 0 without a success, and
    ``alpha ** (1 / trials)`` if every trial succeeds.

    Args:
        successes: The number of successes; an integer or an array of integers.
        trials: The number of trials.
        alpha: The probability that the bound is wrong, in (0, 1).

    Returns:
        float64, with the shape of ``successes``.

    Example:

    >>> lower_bound([0, 990, 1000], 1000, alpha=0.001).round(6)
    array([0.      , 0.976036, 0.993116])

    Reference: Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case
    of the binomial", Biometrika 26, 1934.
    """
    check_alpha(alpha)
    count = _checked_counts(successes, trials)
    # Among the counts of many inputs, or of many simulated runs, there are few different ones.
    distinct, inverse = np.unique(count, return_inverse=True)
    result = np.zeros(distinct.shape)
    result[distinct == trials] = math.exp(math.log(alpha) / trials)
    inner = (distinct > 0) & (distinct < trials)
    if inner.any():
        result[inner] = _beta_quantile(distinct[inner], trials, alpha)
    return result[inverse].reshape(count.shape)


def upper_bound(successes: Any, trials: int, alpha: float) -> np.ndarray:
    """The one-sided Clopper-Pearson upper bound; arguments as for `lower_bound`."""
    return 1.0 - lower_bound(trials - np.asarray(successes), trials, alpha)


def two_sided_test(first: Any, second: Any) -> np.ndarray:
    """The p-value of the hypothesis that two counts come from a fair coin.

    ``min(1, 2 P(Binomial(first + second, 1/2) >= max(first, second)))``.

    Example:

    >>> two_sided_test([5, 10], [5, 0]).round(6)
    array([1.      , 0.001953])
    """
    first, second = np.broadcast_arrays(np.asarray(first), np.asarray(second))
    most = np.maximum(first, second).astype("float64")
    total = (first + second).astype("float64")
    result = np.ones(most.shape)
    some = most > 0
    a, b = most[some], total[some] - most[some] + 1.0
    log_tail, _ = _log_cdf(a, b, np.full(a.shape, math.log(0.5)), _log_beta(a, b))
    result[some] = np.minimum(1.0, 2.0 * np.exp(log_tail))
    return result


def check_alpha(alpha: Any) -> None:
    """Raises where alpha is not a probability strictly between 0 and 1."""
    if not isinstance(alpha, (int, float, np.number)) or not 0.0 < alpha < 1.0:
        raise ValueError(f"`alpha` must lie strictly between 0 and 1. Received: alpha={alpha!r}.")


def _checked_counts(successes: Any, trials: int) -> np.ndarray:
    count = np.asarray(successes)
    if not isinstance(trials, (int, np.integer)) or trials < 1:
        raise ValueError(f"`trials` must be a positive integer. Received: trials={trials!r}.")
    if not np.issubdtype(count.dtype, np.integer):
        raise ValueError(f"`successes` must be integers. Received: dtype={count.dtype}.")
    if count.size and (count.min() < 0 or count.max() > trials):
        raise ValueError(
            f"`successes` must lie in [0, {trials}], the number of trials. "
            f"Received: from {count.min()} to {count.max()}."
        )
    return count


def _beta_quantile(count: np.ndarray, trials: int, alpha: float) -> np.ndarray:
    """The alpha-quantile of ``Beta(count, trials - count + 1)`` for ``0 < count < trials``.

    Newton's method on the logarithm of the distribution function over u = log x. That function is
    concave (the density of u is log-concave), so from the second step on all iterates lie left of
    the root and grow towards it: no bracket is needed, and an unfinished search is too low, which
    is the safe side. Logarithms also keep full relative precision for very small alpha.
    """
    a = count.astype("float64")
    b = trials - a + 1.0
    log_beta = _log_beta(a, b)
    # Wilson's score bound: close, and strictly between 0 and 1.
    z = -statistics.NormalDist().inv_cdf(alpha)
    spread = z * np.sqrt(a * (trials - a) / trials + z * z / 4.0)
    u = np.log((a + z * z / 2.0 - spread) / (trials + z * z))
    moving = np.ones(u.shape, bool)
    for _ in range(_MOST_STEPS):
        log_cdf, slope = _log_cdf(a, b, u, log_beta)
        step = (math.log(alpha) - log_cdf) / slope
        # Each bound stops on its own, so that it does not depend on what else is in the array.
        u = np.where(moving, u + step, u)
        moving &= np.abs(step) > _SMALL_STEP
        if not moving.any():
            break
    return np.exp(u)


def _log_beta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``log B(a, b)``. Its rounding, 1e-9 at a million trials, moves a quantile by 1e-12."""
    values = [
        math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q)
        for p, q in zip(a.ravel(), b.ravel(), strict=True)
    ]
    return np.asarray(values).reshape(a.shape)


def _log_cdf(
    a: np.ndarray, b: np.ndarray, u: np.ndarray, log_beta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of ``I_x(a, b)`` at ``x = exp(u)``, and its derivative by u."""
    x, rest = np.exp(u), -np.expm1(u)
    # The fraction converges fast left of the mean; right of it the other tail is computed.
    left = x <= (a + 1.0) / (a + b + 2.0)
    p, q, y = np.where(left, a, b), np.where(left, b, a), np.where(left, x, rest)
    front = a * u + b * np.log(rest) - log_beta
    tail = front - np.log(p) + np.log(_fraction(p, q, y))
    log_cdf = np.where(left, tail, np.log1p(-np.exp(np.minimum(tail, -1e-300))))
    return log_cdf, np.exp(front - log_cdf) / rest


def _fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``a B(a, b) I_x(a, b) / (x^a (1 - x)^b)``, by Lentz's method.

    Reference: the continued fraction 8.17.22 of the NIST Digital Library of Mathematical
    Functions, https://dlmf.nist.gov/8.17.
    """
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    c, result = np.ones_like(x), d
    moving = np.ones(x.shape, bool)
    for m in range(1, _MOST_TERMS):
        term = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / (1.0 + term * d)
        c = 1.0 + term / c
        half = d * c
        term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / (1.0 + term * d)
        c = 1.0 + term / c
        change = d * c
        result = np.where(moving, result * (half * change), result)
        moving &= np.abs(change - 1.0) > _STILL
        if not moving.any():
            break
    return result
