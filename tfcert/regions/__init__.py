"""Regions: the inputs that an attacker may choose around ``x``."""

from tfcert.regions.box import Box
from tfcert.regions.lp_ball import LpBall
from tfcert.regions.numbers import Numbers
from tfcert.regions.region import BoundRegion, Region

__all__ = ["BoundRegion", "Box", "LpBall", "Numbers", "Region"]
