"""Layers of l-infinity distance networks, which are robust by construction, and the step."""

from tfcert.layers.convolution import LInfDistanceConv2D
from tfcert.layers.distance import IdentityNormal, LInfDistance, distance_layers, set_exponent
from tfcert.layers.mean_shift import MeanShift
from tfcert.layers.sorted_distance import SortedDistance
from tfcert.layers.step import Step

__all__ = [
    "IdentityNormal",
    "LInfDistance",
    "LInfDistanceConv2D",
    "MeanShift",
    "SortedDistance",
    "Step",
    "distance_layers",
    "set_exponent",
]
