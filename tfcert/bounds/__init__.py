"""Bounds on the outputs of Keras models over regions of inputs."""

from tfcert.bounds import methods
from tfcert.bounds.api import bound, bound_margins, trace_count

__all__ = ["bound", "bound_margins", "methods", "trace_count"]
