"""What a model takes, as one tensor: several inputs as one vector, words as their vectors."""

from tfcert.entering.embedding import SplitModel, split_embedding
from tfcert.entering.entry import Entry, Inputs, Regions, enter, joined
from tfcert.entering.joining import Joined, product_of
from tfcert.entering.served import ServedInputs

__all__ = [
    "Entry",
    "Inputs",
    "Joined",
    "Regions",
    "ServedInputs",
    "SplitModel",
    "enter",
    "joined",
    "product_of",
    "split_embedding",
]
