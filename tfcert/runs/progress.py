"""A line that shows the progress of a run and the remaining time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal

__all__ = ["Progress", "Verbose", "wanted"]

# Whether progress is shown: 0 and 1 for no and yes, "auto" for where somebody watches.
Verbose = int | Literal["auto"]

# A terminal's line is drawn anew so often, and a file gets a line of its own (seconds).
_TERMINAL, _FILE = 0.2, 30.0


def wanted(verbose: Verbose) -> bool:
    """Whether progress is to be shown.

    Raises:
        ValueError: `verbose` is something else than 0, 1 or "auto".
    """
    if verbose not in (0, 1, "auto"):
        raise ValueError(f'`verbose` must be 0, 1 or "auto". Received: verbose={verbose!r}.')
    return _watched() if verbose == "auto" else bool(verbose)


def _watched() -> bool:
    """Whether standard error is a terminal or the output of a notebook's cell."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    # The kernel of a notebook replaces the stream by one of its own.
    return type(sys.stderr).__module__.startswith("ipykernel")


class Progress:
    """Shows ``done/total``, counts, and the time left, on standard error.

    On a terminal and in a notebook one line is drawn again and again; a file gets a line now and
    then.

    Args:
        total: Inputs of the run.
        done: Those that were done before it was interrupted.
        counts: Gives the numbers to show, by name.
        verbose: See `wanted`.
    """

    def __init__(
        self, total: int, done: int, counts: Callable[[], Mapping[str, object]], verbose: Verbose
    ):
        self._total, self._begun, self._done, self._counts = total, done, done, counts
        self._on = wanted(verbose) and done < total
        self._begin = self._shown = time.monotonic()
        self._terminal = _watched()
        self._width = 0

    def add(self, count: int) -> None:
        """Counts inputs that are done."""
        self._done += count
        now = time.monotonic()
        pause = _TERMINAL if self._terminal else _FILE
        if self._on and (now - self._shown >= pause or self._done == self._total):
            self._shown = now
            self._show(now)

    def close(self) -> None:
        """Ends the line."""
        if self._on and self._terminal and self._width:
            sys.stderr.write("\n")

    def _show(self, now: float) -> None:
        here = self._done - self._begun
        left = (now - self._begin) * (self._total - self._done) / max(here, 1)
        shown = ", ".join(f"{name} {value}" for name, value in self._counts().items())
        line = f"{self._done}/{self._total}  {shown}  {_duration(left)} left"
        end = "\n"
        if self._terminal:
            line, end = "\r" + line.ljust(self._width), ""
        self._width = len(line)
        sys.stderr.write(line + end)
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"
