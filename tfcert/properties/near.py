"""Outputs that stay near targets: what regression wants of its predictions."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt

from tfcert.properties import arguments
from tfcert.properties.asked import OutputProperty
from tfcert.types import ArrayLike

__all__ = ["Near"]

Array = npt.NDArray[np.float64]


@keras.saving.register_keras_serializable(package="tfcert.properties")
class Near(OutputProperty):
    """Every output stays nearer to its target than a tolerance: ``|f - y| < tolerance``.

    Args:
        tolerance: A number > 0, or one for each output.
        y: The targets, which broadcast against the outputs of one input, ``(outputs,)``, or of a
            batch, ``(batch, outputs)``. None in training: the targets come with each batch.

    Example:

    >>> asked = tfcert.properties.Near(0.5, y=[[1.0], [2.0]])
    >>> rows, offsets = asked.margins(inputs=2, outputs=1)
    >>> (rows @ np.array([[1.25], [3.0]])[..., None])[..., 0] + offsets
    array([[ 0.75,  0.25],
           [ 1.5 , -0.5 ]])
    """

    _per_input = {"y": 1}

    def __init__(self, tolerance: ArrayLike, y: ArrayLike | None = None):
        size = arguments.numbers("tolerance", tolerance)
        if size is None or size.ndim > 1 or not (np.isfinite(size) & (size > 0)).all():
            raise ValueError(
                "`tolerance` must be a finite number > 0, or one for each output. "
                f"Received: tolerance={arguments.shown(tolerance)}."
            )
        self.tolerance, self.y = size, arguments.numbers("y", y)
        if self.y is not None and not np.isfinite(self.y).all():
            raise ValueError(f"`y` must be finite. Received: y={arguments.shown(self.y)}.")

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        if self.y is None:
            raise ValueError(
                "`y` must be given where no training brings targets: "
                f"tfcert.properties.Near({arguments.shown(self.tolerance)}, y=targets). "
                "Received: y=None."
            )
        rows, tolerance = self._lines(outputs)
        targets = arguments.broadcast("y", self.y, (inputs, outputs))
        offsets = tolerance - targets @ rows.T
        return np.broadcast_to(rows, (inputs, *rows.shape)), offsets

    def fixed_margins(self, outputs: int) -> tuple[Array, Array, Array | None]:
        if self.y is not None:
            return super().fixed_margins(outputs)
        rows, tolerance = self._lines(outputs)
        return rows, tolerance, -rows

    def _lines(self, outputs: int) -> tuple[Array, Array]:
        """``f - y`` and ``y - f`` of every output, and the tolerance of each."""
        size = arguments.broadcast("tolerance", self.tolerance, (outputs,))
        eye = np.eye(outputs)
        return np.concatenate([eye, -eye]), np.concatenate([size, size])
