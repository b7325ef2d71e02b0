"""Proofs that another program checks: the tree of a search, its slopes and multipliers."""

from tfcert.proofs.tree import Closing, Tree

__all__ = ["Closing", "Tree"]
