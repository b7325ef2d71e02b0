"""Image data sets with pixels in [0, 1]; one of them, ``digits``, ships with the package."""

from tfcert.datasets.loading import NAMES, load

__all__ = ["NAMES", "load"]
