"""Bounds on the outputs of Keras models over regions of inputs."""

from tfcert.bounds import lipschitz, methods
from tfcert.bounds.api import bound, bound_margins, least_margins, trace_count

__all__ = [
    "bound",
    "bound_margins",
    "least_margins",
    "lipschitz",
    "methods",
    "trace_count",
]
