"""Layers of l-infinity distance networks, whose robustness follows from their construction."""

from tfcert.layers.convolution import LInfDistanceConv2D
from tfcert.layers.distance import IdentityNormal, LInfDistance, distance_layers, set_exponent
from tfcert.layers.mean_shift import MeanShift
from tfcert.layers.sorted_distance import SortedDistance

__all__ = [
    "IdentityNormal",
    "LInfDistance",
    "LInfDistanceConv2D",
    "MeanShift",
    "SortedDistance",
    "distance_layers",
    "set_exponent",
]
