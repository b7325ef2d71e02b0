"""Sound, tight and fast output bounds for Keras models under input perturbations."""

from tfcert import datasets, relaxations, rules
from tfcert.bounds import bound, bound_margins, methods
from tfcert.regions import Box, LpBall
from tfcert.rules import register_activation, register_affine, register_monotone, register_rule
from tfcert.types import Bounds

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "Box",
    "LpBall",
    "__version__",
    "bound",
    "bound_margins",
    "datasets",
    "methods",
    "register_activation",
    "register_affine",
    "register_monotone",
    "register_rule",
    "relaxations",
    "rules",
]
