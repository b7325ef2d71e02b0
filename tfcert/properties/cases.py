"""A way to break a property, as numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Case"]

Array = npt.NDArray[np.float64]


class Case(NamedTuple):
    """One way to break a property: an input of a box whose outputs fulfil all rows.

    Attributes:
        lower: Lower limits of the inputs, flat, ``(inputs,)``.
        upper: Upper limits.
        rows: ``(rows, outputs + 1)``: all of ``rows @ (*outputs, 1)`` are at least 0.
    """

    lower: Array
    upper: Array
    rows: Array
