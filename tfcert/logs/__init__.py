"""Logs of certification runs: one line per input, in a file that survives a kill at any moment.

A log is a table of tab-separated values with a header. Two kinds are known by their columns:
``CERTIFY`` (verdicts proved by bounds) and ``SMOOTHING`` (radii that hold with a chosen
probability, in the columns that this field's scripts read). Further columns may follow. Beside the
log stand ``<log>.json``, the facts of its run, and ``<log>.counterexamples/<idx>.npy``.
"""

from tfcert.logs.reading import (
    CERTIFY,
    SMOOTHING,
    VERDICTS,
    Log,
    counterexample_path,
    facts_path,
    read,
    read_counterexample,
    read_facts,
)
from tfcert.logs.writing import Writer

__all__ = [
    "CERTIFY",
    "SMOOTHING",
    "VERDICTS",
    "Log",
    "Writer",
    "counterexample_path",
    "facts_path",
    "read",
    "read_counterexample",
    "read_facts",
]
