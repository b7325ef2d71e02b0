"""Certification: the verdict on every input of a set, by attack and by bounds."""

from tfcert.certification.api import certify
from tfcert.certification.checking import UnsoundCertificateError
from tfcert.certification.results import Certificates

__all__ = ["Certificates", "UnsoundCertificateError", "certify"]
