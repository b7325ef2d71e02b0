"""Attacks: inputs of a region that a model gets wrong, found by gradient ascent."""

from tfcert.attacks.apgd import APGD
from tfcert.attacks.pgd import FGSM, PGD

__all__ = ["APGD", "FGSM", "PGD"]
