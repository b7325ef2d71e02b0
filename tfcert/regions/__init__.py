"""Regions: the inputs that an attacker may choose around ``x``."""

from tfcert.regions.alternatives import Alternatives
from tfcert.regions.box import Box
from tfcert.regions.lp_ball import LpBall
from tfcert.regions.numbers import Numbers
from tfcert.regions.product import Product
from tfcert.regions.region import BoundRegion, Region
from tfcert.regions.words import WordSubstitutions

__all__ = [
    "Alternatives",
    "BoundRegion",
    "Box",
    "LpBall",
    "Numbers",
    "Product",
    "Region",
    "WordSubstitutions",
]
