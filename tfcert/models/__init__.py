"""The papers' architectures as plain Keras models, and initialisation for certified training."""

from tfcert.models.architectures import NAMES, get
from tfcert.models.initialization import ibp_initialization

__all__ = ["NAMES", "get", "ibp_initialization"]
