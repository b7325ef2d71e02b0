"""Training methods as objectives: losses with their schedules, for ``tfcert.CertifiedTrainer``."""

from tfcert.objectives.advibp import AdvIBP
from tfcert.objectives.batch import Batch
from tfcert.objectives.cc_ibp import CCIBP
from tfcert.objectives.crown_ibp import CrownIBP
from tfcert.objectives.distance import LInfDistance
from tfcert.objectives.exp_ibp import ExpIBP
from tfcert.objectives.fused import FusedCrownIBP
from tfcert.objectives.ibp import IBP
from tfcert.objectives.maar import MAAR
from tfcert.objectives.mtl_ibp import MTLIBP
from tfcert.objectives.objective import Objective, RobustObjective
from tfcert.objectives.sabr import SABR
from tfcert.objectives.smoothing import (
    MACER,
    ConsistencySmoothing,
    GaussianSmoothing,
    SmoothAdv,
    StabilitySmoothing,
)
from tfcert.objectives.stages import next_stage
from tfcert.objectives.standard import AdversarialTraining, Standard
from tfcert.objectives.staps import STAPS
from tfcert.objectives.taps import TAPS
from tfcert.objectives.tightness import TightRelaxation

__all__ = [
    "CCIBP",
    "IBP",
    "MAAR",
    "MACER",
    "MTLIBP",
    "SABR",
    "STAPS",
    "TAPS",
    "AdvIBP",
    "AdversarialTraining",
    "Batch",
    "ConsistencySmoothing",
    "CrownIBP",
    "ExpIBP",
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
