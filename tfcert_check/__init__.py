"""Checks proofs of a network's property. The package needs only numpy and onnx, not tfcert.

What is trusted, and why a proof that passes is one, is told in docs/proofs.md.
"""

from tfcert_check.networks import Network, read_network
from tfcert_check.proofs import Proof, check, margins, read_proof
from tfcert_check.properties import Case, Property, read_property
from tfcert_check.refusal import Refused

__all__ = ["Case", "Network", "Proof", "Property", "Refused"]
__all__ += ["check", "margins", "read_network", "read_proof", "read_property"]
