"""Layers of l-infinity distance networks, robust by construction; the step; steps of integers."""

from tfcert.layers.convolution import LInfDistanceConv2D
from tfcert.layers.distance import IdentityNormal, LInfDistance, distance_layers, set_exponent
from tfcert.layers.mean_shift import MeanShift
from tfcert.layers.requantize import Requantize
from tfcert.layers.sorted_distance import SortedDistance
from tfcert.layers.step import Step

__all__ = [
    "IdentityNormal",
    "LInfDistance",
    "LInfDistanceConv2D",
    "MeanShift",
    "Requantize",
    "SortedDistance",
    "Step",
    "distance_layers",
    "set_exponent",
]
