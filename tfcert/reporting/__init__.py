"""Reports: certified accuracy, certified radii and their errors, as numbers, tables and a page."""

from tfcert.reporting.entries import Entries, read
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
    "read",
    "share",
]
