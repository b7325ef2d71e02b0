"""Reports: certified accuracy, certified radii, training runs; numbers, tables, figures, a page."""

from tfcert.reporting.entries import Entries, read
from tfcert.reporting.history import plot_history
from tfcert.reporting.statistics import (
    Estimate,
    PairedDifference,
    average_certified_radius,
    certified_accuracy,
    paired_difference,
    share,
)

__all__ = [
    "Entries",
    "Estimate",
    "PairedDifference",
    "average_certified_radius",
    "certified_accuracy",
    "paired_difference",
    "plot_history",
    "read",
    "share",
]
