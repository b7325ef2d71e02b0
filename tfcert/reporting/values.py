"""Values of JSON files that may hold anything."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["find", "number", "short"]


def number(value: Any) -> float | None:
    """A number as a float, NaN and infinity included; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def find(facts: dict[str, Any] | None, key: str) -> Any:
    """The value of a key at the top of an object or in one of the objects in it, or None."""
    facts = facts or {}
    for level in (facts, *(value for value in facts.values() if isinstance(value, dict))):
        if level.get(key) is not None:
            return level[key]
    return None


def short(value: Any) -> str:
    """What came, escaped and not too long for a message."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."
