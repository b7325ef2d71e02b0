"""The papers' architectures as plain Keras models, trained networks, and initialisation."""

from tfcert.models.architectures import NAMES, get
from tfcert.models.initialization import ibp_initialization
from tfcert.models.penalties import l1_penalty
from tfcert.models.published import pretrained

__all__ = ["NAMES", "get", "ibp_initialization", "l1_penalty", "pretrained"]
