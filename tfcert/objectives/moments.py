"""Weights of two objectives from moving averages of their past gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = ["GradientMoments", "combination_weights"]

_MEAN_RATE, _NORM_RATE = 0.9, 0.99


class GradientMoments:
    """Moving averages of two gradients, which lag one step behind.

    At each step the *previous* step's gradients enter the averages (at the first one the current
    ones), so that the weights do not depend on the current batch:
    ``M_i <- 0.9 M_i + 0.1 g_i``, ``N_i <- 0.99 N_i + 0.01 ||g_i||``, both divided by
    ``1 - rate^t``.

    Args:
        trainer: Keeps the variables, so that they are saved with it.
        shapes: The shapes of the tensors whose gradients are watched.
    """

    def __init__(self, trainer: Any, shapes: Sequence[tuple[int, ...]]):
        def variable(name: str, shape: tuple[int, ...]) -> keras.Variable:
            return trainer.add_weight(
                name=name,
                shape=shape,
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

        self.count = variable("moment_steps", ())
        self.norms = [variable(f"gradient_norm_{i}", ()) for i in (1, 2)]
        self.means = [
            [variable(f"gradient_mean_{i}_{k}", s) for k, s in enumerate(shapes)] for i in (1, 2)
        ]
        self.last = [
            [variable(f"last_gradient_{i}_{k}", s) for k, s in enumerate(shapes)] for i in (1, 2)
        ]

    def weights(
        self,
        first: list[Tensor],
        second: list[Tensor],
        active: Tensor,
        adversarial_leads: Tensor,
        rescale: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(c1, c2, conflict)`` for this step, and updates the averages where active.

        Args:
            first: The current gradient of the adversarial loss.
            second: That of the certified loss.
            active: Whether the joint phase has begun; before it the averages stay empty.
            adversarial_leads: Which objective leads in a conflict.
            rescale: See ``combination_weights``.
        """
        count = self.count + 1.0
        # A void step leaves no trace.
        size = sum(ops.sum(part) for part in (*first, *second))
        active = ops.logical_and(active, ops.isfinite(size))
        means, norms = [], []
        for i, current in enumerate((first, second)):
            seen = [
                ops.where(count <= 1.0, now, ops.convert_to_tensor(before))
                for now, before in zip(current, self.last[i], strict=True)
            ]
            moved = [
                _MEAN_RATE * m + (1.0 - _MEAN_RATE) * g
                for m, g in zip(self.means[i], seen, strict=True)
            ]
            norm = _NORM_RATE * self.norms[i] + (1.0 - _NORM_RATE) * _length(seen)
            means.append([m / (1.0 - _MEAN_RATE**count) for m in moved])
            norms.append(norm / (1.0 - _NORM_RATE**count))
            self._keep(active, self.norms[i], norm)
            for variable, value in zip(self.means[i], moved, strict=True):
                self._keep(active, variable, value)
            for variable, value in zip(self.last[i], current, strict=True):
                self._keep(active, variable, value)
        self._keep(active, self.count, count)
        dot = _dot(*means)
        squares = [_dot(m, m) for m in means]
        return combination_weights(dot, norms, squares, adversarial_leads, rescale)

    def _keep(self, active: Tensor, variable: keras.Variable, value: Tensor) -> None:
        variable.assign(ops.where(active, value, ops.convert_to_tensor(variable)))


def combination_weights(
    dot: Tensor,
    norms: Sequence[Tensor],
    squares: Sequence[Tensor],
    adversarial_leads: Tensor,
    rescale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(c1, c2, conflict)`` from the averages M_i and N_i.

    In agreement, ``D = <M_1, M_2> > 0``, the step follows the bisector ``b = M_1/N_1 + M_2/N_2``
    with the mean of the two gradients' projections on it:
    ``q = (N_1 + N_2 + D/N_1 + D/N_2) / (2 ||b||^2)``, ``c1 = q/N_1``, ``c2 = q/N_2``. In a conflict
    the leading gradient is freed of its component along the other: ``c1 = 1, c2 = -D/N_2^2`` if the
    adversarial one leads, else ``c2 = 1, c1 = -D/N_1^2``.

    Args:
        dot: D.
        norms: N_1 and N_2.
        squares: ``||M_1||^2`` and ``||M_2||^2``.
        adversarial_leads: Which case holds in a conflict.
        rescale: Whether the weights of an agreement are multiplied by N_1.

    Returns:
        The weights, without gradients, and whether there is a conflict. A weight that would divide
        by a norm of 0 is 0.
    """
    n1, n2 = norms
    i1, i2 = _inverse(n1), _inverse(n2)
    bisector = squares[0] * i1**2 + squares[1] * i2**2 + 2.0 * dot * i1 * i2
    q = (n1 + n2 + dot * i1 + dot * i2) * 0.5 * _inverse(bisector)
    scale = n1 if rescale else ops.ones_like(n1)
    conflict = dot <= 0
    one = ops.ones_like(dot)
    c1 = ops.where(conflict, ops.where(adversarial_leads, one, -dot * i1**2), scale * q * i1)
    c2 = ops.where(conflict, ops.where(adversarial_leads, -dot * i2**2, one), scale * q * i2)
    return ops.stop_gradient(c1), ops.stop_gradient(c2), conflict


def _inverse(value: Tensor) -> Tensor:
    known = value > 0
    return ops.where(known, 1.0 / ops.where(known, value, ops.ones_like(value)), 0.0)


def _dot(first: list[Tensor], second: list[Tensor]) -> Tensor:
    return sum(ops.sum(a * b) for a, b in zip(first, second, strict=True))


def _length(tensors: list[Tensor]) -> Tensor:
    return ops.sqrt(_dot(tensors, tensors))
