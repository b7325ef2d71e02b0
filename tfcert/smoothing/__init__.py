"""Randomized smoothing: certificates that hold with a chosen probability, for any network."""

from tfcert.smoothing.certifying import SmoothedResult, certify_set
from tfcert.smoothing.classifier import SmoothedCertificates, SmoothedClassifier
from tfcert.smoothing.confidence import lower_bound
from tfcert.smoothing.noise import Gaussian, Laplace, Noise, Uniform
from tfcert.smoothing.precision import in_bfloat16
from tfcert.smoothing.sequential import Adaptive

__all__ = [
    "Adaptive",
    "Gaussian",
    "Laplace",
    "Noise",
    "SmoothedCertificates",
    "SmoothedClassifier",
    "SmoothedResult",
    "Uniform",
    "certify_set",
    "in_bfloat16",
    "lower_bound",
]
