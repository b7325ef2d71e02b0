"""Attacks: inputs of a region that a model gets wrong, found by gradients or by trying."""

from tfcert.attacks.apgd import APGD
from tfcert.attacks.attack import Attack, Search
from tfcert.attacks.ensemble import Ensemble
from tfcert.attacks.pgd import FGSM, PGD
from tfcert.attacks.square import Square
from tfcert.attacks.substitutions import Substitutions

__all__ = ["APGD", "FGSM", "PGD", "Attack", "Ensemble", "Search", "Square", "Substitutions"]
