"""Several independent seeds made of one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.types import Tensor

__all__ = ["Seeds"]


class Seeds:
    """Independent seeds made of one: an integer, a SeedGenerator or a tensor."""

    # Odd offsets on the word of the seed that a SeedGenerator does not count with, so that the
    # seeds of one call never meet those of the next.
    offsets = (0, 0x3C6EF373, 0x5851F42D)

    def __init__(self, seed: Any):
        if isinstance(seed, keras.random.SeedGenerator):
            seed = seed.next()
        elif isinstance(seed, (int, np.integer)):
            seed = np.array([int(seed) & 0xFFFFFFFF, 0], "uint32")
        elif not ops.is_tensor(seed):
            raise ValueError(
                "`seed` must be an integer, a keras.random.SeedGenerator or an integer tensor. "
                f"Received: seed={seed!r}."
            )
        seed = ops.cast(ops.convert_to_tensor(seed), "uint32")
        self.seed = ops.stack([seed, ops.zeros_like(seed)]) if len(seed.shape) == 0 else seed

    def __getitem__(self, index: int) -> _TensorSeed:
        offset = np.array([self.offsets[index], 0], "uint32")
        return _TensorSeed(self.seed + ops.convert_to_tensor(offset))


class _TensorSeed(keras.random.SeedGenerator):
    """Hands a tensor to ``keras.random``, which takes no tensors as seeds."""

    def __init__(self, seed: Tensor):  # no super().__init__(): it would create a variable
        self.seed = seed

    def next(self, ordered: bool = True) -> Tensor:
        return self.seed
