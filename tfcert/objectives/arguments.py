"""Reads and checks what users give to objectives."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

__all__ = ["as_count", "as_positive", "as_switch"]


def as_count(name: str, value: Any) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)


def as_positive(name: str, value: Any) -> float:
    """A positive finite number."""
    number = float(value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"`{name}` must be > 0 and finite. Received: {name}={value!r}.")
    return number


def as_switch(name: str, value: Any) -> bool:
    """True or False; of a text, such as "false", either would be a guess."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)
