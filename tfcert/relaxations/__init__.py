"""Scalar functions as bound propagation sees them: ranges, enclosing lines, and their reasons.

A `Curve` declares what is known of a function (where it is convex, where it turns); its bounds are
derived from that. `CURVES` lists the known ones by name; factories make those that take arguments.
"""

from tfcert.relaxations.curve import SLOPES, Curve, Lines, monotone_only
from tfcert.relaxations.envelope import SLACK
from tfcert.relaxations.piecewise import PiecewiseLinear, TwoPiece
from tfcert.relaxations.rectifiers import (
    clip,
    hard_shrink,
    leaky_relu,
    prelu,
    relu,
    soft_shrink,
    threshold,
)
from tfcert.relaxations.staircase import Staircase
from tfcert.relaxations.table import CURVES, celu, elu, gelu, power, squareplus

__all__ = [
    "CURVES",
    "Curve",
    "Lines",
    "PiecewiseLinear",
    "SLACK",
    "SLOPES",
    "Staircase",
    "TwoPiece",
    "celu",
    "clip",
    "elu",
    "gelu",
    "hard_shrink",
    "leaky_relu",
    "monotone_only",
    "power",
    "prelu",
    "relu",
    "soft_shrink",
    "squareplus",
    "threshold",
]
