"""Margin bounds of intervals, mixed with those of a backward sweep."""

from __future__ import annotations

from typing import Any

from tfcert.bounds import methods
from tfcert.bounds.margins import Margins
from tfcert.objectives.settings import Weight
from tfcert.types import Tensor

__all__ = ["SweepShare"]


class SweepShare:
    """``beta`` times what a backward sweep gives, and ``1 - beta`` times what intervals give.

    Where beta is 0 no sweep is computed.

    Args:
        weight: beta, from 0 to 1.
        method: How the sweep is done.
    """

    def __init__(self, weight: Weight, method: methods.Method):
        self.weight, self.method = weight, method

    @property
    def is_zero(self) -> bool:
        """Whether no step has a sweep."""
        return self.weight.is_zero

    @property
    def training_method(self) -> Any:
        """Returns the method that bounds hidden layers in training."""
        return "ibp" if self.is_zero else self.method

    @property
    def last_method(self) -> Any:
        """The method that training ends with: intervals alone where beta ends at 0."""
        return "ibp" if self.weight.last == 0 else self.method

    def margins(self, known: Margins, beta: Tensor) -> Tensor:
        """The mixed margin bounds, ``(batch, classes)``.

        Args:
            known: Margins with ``training_method``.
            beta: The weight at this step.
        """
        interval = known.interval()
        if self.is_zero:
            return interval
        return known.if_swept(
            beta > 0, lambda: beta * known.backward() + (1.0 - beta) * interval, interval
        )
