"""Estimating a probability from samples that are looked at more than once.

At look k, after n_k samples, the Clopper-Pearson bound at level alpha_k is wrong with a probability
of at most alpha_k. The levels of all looks add up to alpha, so by the union bound all of them hold
together with a probability of at least 1 - alpha, and hence also the one at which sampling stopped,
whatever the rule for stopping was. This is a confidence sequence on a finite schedule of looks.

Reference: Darling and Robbins, "Confidence sequences for mean, variance, and median", PNAS 58,
1967, who introduced them; the bound itself is Bonferroni's.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfcert.smoothing import confidence

__all__ = ["Adaptive", "Plan", "estimate", "single_look"]

# How sure the forecast of what further samples could give is. It decides only when to stop: where
# it is wrong, some radius is lost, never the guarantee.
_FORECAST_ALPHA = 0.1
# The shares of alpha: of the look at which inputs stop whose votes all agree, which are the most
# in a good classifier and cost the most samples; of the last look; and of all others together.
_SHARES = (0.7, 0.15, 0.15)


class Plan(NamedTuple):
    """When the votes are looked at, and how much of alpha each look may use.

    Attributes:
        looks: Total numbers of samples, rising.
        alphas: One level per look.
    """

    looks: tuple[int, ...]
    alphas: tuple[float, ...]


def single_look(n: int, alpha: float) -> Plan:
    """The procedure with a fixed number of samples."""
    return Plan((n,), (alpha,))


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """Sampling that stops once more samples would change little.

    An input stops drawing when

    - even all n samples would probably end in an abstention, or
    - its radius is at least ``(1 - precision)`` of the radius expected from n samples without this
      option.

    The expectation assumes that further votes arrive at a 90 % upper confidence bound of their
    rate. The certificates hold with probability 1 - alpha, as without this option. An input that
    draws all n samples has only a part of alpha left for its last look, so its radius is slightly
    smaller.

    Args:
        precision: The share of the radius that may be given up for speed, in (0, 1).
        first: The number of samples at the first look.
        growth: The ratio between one look and the next.

    Example:

    >>> from tfcert.smoothing.noise import Gaussian
    >>> Adaptive(0.1).plan(100_000, 0.001, block=100, radius=Gaussian(0.25).radius).looks[:4]
    (700, 1000, 1500, 2200)
    """

    precision: float = 0.05
    first: int = 500
    growth: float = 1.5

    def __post_init__(self) -> None:
        if not (_is_number(self.precision) and 0.0 < self.precision < 1.0):
            raise ValueError(
                "`precision` must lie strictly between 0 and 1. "
                f"Received: precision={self.precision!r}."
            )
        if not isinstance(self.first, (int, np.integer)) or self.first < 1:
            raise ValueError(f"`first` must be a positive integer. Received: first={self.first!r}.")
        if not (_is_number(self.growth) and 1.0 < self.growth < math.inf):
            raise ValueError(f"`growth` must be above 1. Received: growth={self.growth!r}.")

    @classmethod
    def of(cls, adaptive: bool, precision: float | None) -> Adaptive | None:
        """Returns the rule for a program's flags, or None for a fixed number of samples."""
        if precision is None:
            return cls() if adaptive else None
        if not adaptive:
            raise ValueError(
                "--adaptive_precision goes with --adaptive. "
                f"Received: --adaptive_precision={precision}."
            )
        if not 0.0 < precision < 1.0:
            raise ValueError(
                "--adaptive_precision must lie strictly between 0 and 1. "
                f"Received: --adaptive_precision={precision}."
            )
        return cls(precision)

    def plan(
        self, n: int, alpha: float, block: int, radius: Callable[[np.ndarray], np.ndarray]
    ) -> Plan:
        """Returns the looks up to n samples, and their shares of alpha.

        All looks except the last are whole blocks, because noise is drawn in blocks. One look has
        most of alpha: there an input stops if all its votes agree. Powers of ``growth`` separate
        the other looks from this one and from each other.

        Args:
            n: The most samples.
            alpha: The sum of the levels of all looks.
            block: Number of samples drawn together.
            radius: A function from a lower bound of the probability to the radius.
        """
        most, last, others = _SHARES
        agreed = self._agreed(most * alpha, n, alpha, block, radius)
        # A look in the last tenth would use alpha and save nearly nothing.
        end = 0.9 * n
        anchor = agreed if agreed < end else n
        below, above = _steps(anchor / self.first, self.growth), _steps(end / anchor, self.growth)
        factors = [self.growth**step for step in range(-below, above + 1)]
        sizes = {block * math.ceil(anchor * factor / block) for factor in factors}
        looks = sorted(size for size in sizes if size < end and size != anchor)
        shares = dict.fromkeys(looks, others / max(len(looks), 1))
        shares[n] = last
        shares[anchor] = shares.get(anchor, 0.0) + most
        whole = math.fsum(shares.values())  # Without other looks theirs is free.
        sizes_and_shares = sorted(shares.items())
        return Plan(
            tuple(size for size, _ in sizes_and_shares),
            tuple(alpha * share / whole for _, share in sizes_and_shares),
        )

    def _agreed(
        self,
        level: float,
        n: int,
        alpha: float,
        block: int,
        radius: Callable[[np.ndarray], np.ndarray],
    ) -> int:
        """The fewest samples whose radius is enough if all of their votes agree."""
        enough = (1.0 - self.precision) * radius(confidence.lower_bound(n, n, alpha))
        first = math.ceil(self.first / block)

        def reached(blocks: int) -> bool:
            size = blocks * block
            return bool(radius(confidence.lower_bound(size, size, level)) >= enough)

        choices = range(first, max(first, n // block) + 1)
        return block * (first + bisect.bisect_left(choices, True, key=reached))

    def finished(
        self,
        votes: np.ndarray,
        drawn: int,
        p_lower: np.ndarray,
        plan: Plan,
        radius: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Returns the inputs that stop drawing.

        Args:
            votes: The votes for the chosen class, one count per input.
            drawn: Number of samples behind the votes.
            p_lower: Valid lower bounds of the class's probability.
            plan: The looks. The last look decides which radius can still be reached.
            radius: A function from a lower bound of the probability to the radius.
        """
        return radius(p_lower) >= self.enough(votes, drawn, plan, radius)

    def enough(
        self, votes: np.ndarray, drawn: int, plan: Plan, radius: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Returns the radius at which an input stops drawing, for the arguments of `finished`."""
        n, alpha = plan.looks[-1], math.fsum(plan.alphas)
        rate = confidence.upper_bound(votes, drawn, _FORECAST_ALPHA)
        forecast = votes + np.floor((n - drawn) * rate).astype("int64")
        return (1.0 - self.precision) * radius(confidence.lower_bound(forecast, n, alpha))


def _steps(ratio: float, growth: float) -> int:
    """How many steps of that growth fit into a ratio."""
    return max(0, math.floor(math.log(ratio) / math.log(growth)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def estimate(
    draw: Callable[[np.ndarray, int, int], np.ndarray],
    size: int,
    plan: Plan,
    adaptive: Adaptive | None = None,
    radius: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bounds of probabilities from votes.

    Args:
        draw: ``draw(inputs, start, stop)``: votes of the draws from start to stop, for the inputs
            with these numbers.
        size: How many inputs there are.
        plan: Looks and levels.
        adaptive: Decides which inputs stop before the last look; None: none of them.
        radius: The radius of a lower bound; needed with ``adaptive`` only.

    Returns:
        ``p_lower`` and the number of draws it comes from, one each per input.
    """
    votes = np.zeros(size, "int64")
    p_lower = np.zeros(size)
    samples = np.zeros(size, "int64")
    active = np.arange(size)
    drawn = 0
    for look, alpha in zip(*plan, strict=True):
        votes[active] += draw(active, drawn, look)
        drawn = look
        samples[active] = look
        # All looks hold together, so the best of them does.
        found = confidence.lower_bound(votes[active], look, alpha)
        p_lower[active] = np.maximum(p_lower[active], found)
        if adaptive is not None and look < plan.looks[-1]:
            done = adaptive.finished(votes[active], look, p_lower[active], plan, radius)
            active = active[~done]
        if not active.size:
            break
    return p_lower, samples
