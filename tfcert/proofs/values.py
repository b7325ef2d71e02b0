"""Values of a network as the checker reads it, in plain float64. The checker needs no values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import tfcert_check
from tfcert_check.steps import Affine, TwoPiece

__all__ = ["values_of"]

Array = npt.NDArray[np.float64]


def values_of(network: tfcert_check.Network, points: Array) -> list[Array]:
    """All values at some inputs, ``(points, inputs)``, in the order of ``network.steps``."""
    found = [points]
    for step in network.steps[1:]:
        match step:
            case Affine():
                value = np.broadcast_to(step.bias, (len(points), step.size))
                for operator, place in step.parts:
                    value = value + operator.apply(found[place])
            case TwoPiece():
                z = found[step.source]
                value = np.maximum(z, 0) + step.slope * np.minimum(z, 0)
        found.append(value)
    return found
