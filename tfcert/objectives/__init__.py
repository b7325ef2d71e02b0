"""Training methods as objectives: losses with their schedules, for ``tfcert.CertifiedTrainer``."""

from tfcert.objectives.advibp import AdvIBP
from tfcert.objectives.batch import Batch
from tfcert.objectives.crown_ibp import CrownIBP
from tfcert.objectives.distance import LInfDistance
from tfcert.objectives.fused import FusedCrownIBP
from tfcert.objectives.ibp import IBP
from tfcert.objectives.maar import MAAR
from tfcert.objectives.objective import Objective, RobustObjective
from tfcert.objectives.smoothing import (
    MACER,
    ConsistencySmoothing,
    GaussianSmoothing,
    SmoothAdv,
    StabilitySmoothing,
)
from tfcert.objectives.stages import next_stage
from tfcert.objectives.standard import AdversarialTraining, Standard
from tfcert.objectives.tightness import TightRelaxation

__all__ = [
    "IBP",
    "MAAR",
    "MACER",
    "AdvIBP",
    "AdversarialTraining",
    "Batch",
    "ConsistencySmoothing",
    "CrownIBP",
    "FusedCrownIBP",
    "GaussianSmoothing",
    "LInfDistance",
    "Objective",
    "RobustObjective",
    "SmoothAdv",
    "StabilitySmoothing",
    "Standard",
    "TightRelaxation",
    "next_stage",
]
