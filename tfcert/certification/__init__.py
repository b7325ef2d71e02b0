"""Certification: verdicts on all inputs of a set, by attacks and bounds."""

from tfcert.certification.api import certify
from tfcert.certification.checking import UnsoundCertificateError
from tfcert.certification.results import Certificates

__all__ = ["Certificates", "UnsoundCertificateError", "certify"]
