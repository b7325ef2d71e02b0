"""The papers' architectures as plain Keras models, and initialisation for certified training."""

from tfcert.models.architectures import NAMES, get
from tfcert.models.initialization import ibp_initialization
from tfcert.models.penalties import l1_penalty

__all__ = ["NAMES", "get", "ibp_initialization", "l1_penalty"]
