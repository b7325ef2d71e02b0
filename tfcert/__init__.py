"""Sound, tight and fast output bounds for Keras models under input perturbations."""

from tfcert import datasets
from tfcert.types import Bounds

__version__ = "0.1.0"

__all__ = ["Bounds", "__version__", "datasets"]
