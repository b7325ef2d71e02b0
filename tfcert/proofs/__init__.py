"""Proofs that another program checks: the tree of a search, its slopes and multipliers."""

from tfcert.proofs.hidden import record_hidden
from tfcert.proofs.networks import write_network
from tfcert.proofs.tree import Closing, Tree
from tfcert.proofs.writing import write_proof

__all__ = ["Closing", "Tree", "record_hidden", "write_network", "write_proof"]
