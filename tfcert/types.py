"""The types that every part of the package shares, and that users see in signatures."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras
import numpy.typing as npt

__all__ = [
    "ArrayLike",
    "AttackLoss",
    "Bounds",
    "DatasetName",
    "Initializer",
    "MethodName",
    "Norm",
    "NormName",
    "Operand",
    "PathLike",
    "Seed",
    "Statistics",
    "Tensor",
]

# A tensor of whichever backend Keras runs on; keras.KerasTensor where a model is only described.
Tensor = Any

# What can be made an array: numbers, nested lists, NumPy's arrays, and tensors of both backends.
ArrayLike = npt.ArrayLike

# The names of bounding methods, of the norms of a ball, of how batch normalisation is bounded, of
# what an attack makes large, and of data sets.
MethodName = Literal["ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz"]
NormName = Literal["inf", "linf", "l2", "l1"]
Norm = NormName | float
Statistics = Literal["moving", "batch"]
AttackLoss = Literal["cross_entropy", "margin", "logits_ratio"]
DatasetName = Literal["digits", "mnist", "fashion_mnist", "cifar10"]

# A file or a folder.
PathLike = str | os.PathLike[str]

# What decides random numbers: a number, a generator that counts on, or a tensor of such a number.
Seed = int | keras.random.SeedGenerator | Tensor

# What Keras takes as an initializer.
Initializer = str | dict[str, Any] | keras.initializers.Initializer | Callable[..., Tensor]

# A constant of a rule: numbers, a variable that is read anew by every evaluation, or a function
# that is called by every evaluation.
Operand = ArrayLike | keras.Variable | Callable[[], Tensor]


class Bounds(NamedTuple):
    """Lower and upper bounds of a value: ``lower <= value <= upper``.

    This named tuple is a structure that ``keras.tree``, ``tf.function`` and XLA accept.

    Attributes:
        lower: The lower bound of each entry.
        upper: The upper bound of each entry.
    """

    lower: Tensor
    upper: Tensor
