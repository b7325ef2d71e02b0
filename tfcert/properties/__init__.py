"""Properties of a network: conditions on its outputs, for all inputs of a region or a box."""

from tfcert.properties.asked import (
    ClassStays,
    Linear,
    OutputProperty,
    OutputRange,
    Targeted,
    TopK,
)
from tfcert.properties.cases import Case, Property
from tfcert.properties.near import Near
from tfcert.properties.relations import Monotone
from tfcert.properties.vnnlib import read_vnnlib

__all__ = [
    "Case",
    "ClassStays",
    "Linear",
    "Monotone",
    "Near",
    "OutputProperty",
    "OutputRange",
    "Property",
    "Targeted",
    "TopK",
    "read_vnnlib",
]
