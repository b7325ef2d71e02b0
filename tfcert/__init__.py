"""Sound, tight and fast output bounds for Keras models under input perturbations."""

from tfcert import (
    attacks,
    branching,
    callbacks,
    certification,
    datasets,
    interchange,
    layers,
    logs,
    models,
    objectives,
    proofs,
    properties,
    regions,
    relaxations,
    reporting,
    rules,
    scaling,
    schedules,
    smoothing,
)
from tfcert.bounds import (
    bound,
    bound_margins,
    least_margins,
    lipschitz,
    methods,
)
from tfcert.branching import verify
from tfcert.certification import certify
from tfcert.derivatives import derivative
from tfcert.entering import split_embedding
from tfcert.export import export_certified
from tfcert.regions import Box, LpBall
from tfcert.rules import register_activation, register_affine, register_monotone, register_rule
from tfcert.trainer import CertifiedTrainer
from tfcert.types import Bounds
from tfcert.version import __version__

__all__ = [
    "Bounds",
    "Box",
    "CertifiedTrainer",
    "LpBall",
    "__version__",
    "attacks",
    "bound",
    "bound_margins",
    "branching",
    "callbacks",
    "certification",
    "certify",
    "datasets",
    "derivative",
    "export_certified",
    "interchange",
    "least_margins",
    "lipschitz",
    "logs",
    "layers",
    "methods",
    "models",
    "objectives",
    "proofs",
    "properties",
    "regions",
    "register_activation",
    "register_affine",
    "register_monotone",
    "register_rule",
    "relaxations",
    "reporting",
    "rules",
    "scaling",
    "schedules",
    "smoothing",
    "split_embedding",
    "verify",
]
