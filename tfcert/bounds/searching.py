"""Lines of smooth functions: found by a search of some hundred small operations.

Where operations are carried out one by one, the search takes longer than all else in a sweep. So
it is done for many nodes at once, and as one graph for all when it comes back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfcert import backend
from tfcert.relaxations import Curve, Lines
from tfcert.types import Tensor

__all__ = ["lines_of"]

# Searches for one function up to which tracing takes longer than it saves. Measured on two cores:
# 0.1 s for a search, 0.5 s for tracing it, and 3 ms for a search from then on.
_UNTRACED = 4


def lines_of(curve: Curve, lower: Tensor, upper: Tensor, slope: str) -> Lines:
    """``curve.lines(lower, upper, slope)``."""
    if not (backend.runs_at_once() and curve.is_searched):
        return curve.lines(lower, upper, slope)
    return _search(curve, slope, keras.backend.standardize_dtype(lower.dtype))(lower, upper)


@functools.lru_cache(maxsize=64)
def _search(curve: Curve, slope: str, dtype: str) -> _Search:
    return _Search(lambda lower, upper: curve.lines(lower, upper, slope), dtype)


class _Search:
    """A search that is traced when it comes back."""

    def __init__(self, lines: Callable[..., Lines], dtype: str):
        self._lines, self._dtype, self._left = lines, dtype, _UNTRACED
        self._traced: Callable[..., Any] | None = None

    def __call__(self, lower: Tensor, upper: Tensor) -> Lines:
        if self._left > 0:
            self._left -= 1
            return self._lines(lower, upper)
        if self._traced is None:
            self._traced = backend.traced_once(self._lines, self._dtype, self._dtype)
        shape = tuple(lower.shape)
        found = self._traced(*(backend.reshape(end, (-1,)) for end in (lower, upper)))
        return Lines(*(backend.reshape(line, shape) for line in found))
