"""The square attack: it tries changes of random squares, and needs no gradient."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.attack import Search, better, positive
from tfcert.attacks.inputs import Scores
from tfcert.attacks.windows import Windows, windows_of
from tfcert.entering import Regions
from tfcert.regions.seeds import Seeds
from tfcert.types import Tensor

__all__ = ["Square"]

# After so many of 10,000 steps the share of a square is halved.
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class Square(Search):
    """Random search whose steps change a random square, and keep the change if the margin grows.

    The attack uses only the scores of the model, so it also works without gradients, or with
    misleading gradients. In a box, a step moves the coordinates of a square to one of their two
    limits, the same limit within a channel. In a ball of norm 2, a step moves the distance of
    another square into this square, as two peaks of opposite signs. For inputs that are not images
    (height, width, channels), a step changes a random set of coordinates, each with its own sign.

    Args:
        region: The region to search: a box, or a ball of norm inf or 2.
        steps: Number of squares that are tried.
        restarts: Number of times that all steps run.
        share: Share of the coordinates in the first squares. The share is halved after 10, 50, 200,
            500, 1000, 2000, 4000, 6000 and 8000 of 10,000 steps; for other numbers of steps, after
            the same fractions.
        early_stop: Whether to stop once all inputs of the batch are misclassified.

    Example:

    >>> import keras, numpy as np, tfcert
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(2), np.zeros(2)])
    >>> x, y = np.array([[0.5, 0.25]], "float32"), np.array([0])
    >>> attack = tfcert.attacks.Square(tfcert.LpBall(0.25), steps=20)
    >>> np.asarray(model(attack(model, x, y))).argmax(axis=1).tolist()
    [1]

    Reference: Andriushchenko et al., 2020, https://arxiv.org/abs/1912.00049, algorithms 1 to 3
    """

    def __init__(
        self,
        region: Regions,
        steps: int = 5000,
        restarts: int = 1,
        *,
        share: float = 0.8,
        early_stop: bool = True,
    ):
        super().__init__(region, restarts, early_stop)
        if self.region.norm not in (2, math.inf):
            raise ValueError(
                "The square attack searches boxes and balls of norm inf and 2. Use APGD for "
                f"other norms. Received: region={region!r}."
            )
        if not 0 < share <= 1:
            raise ValueError(f"`share` must lie in (0, 1]. Received: share={share}.")
        self.steps, self.share = positive("steps", steps), float(share)

    def shares(self) -> np.ndarray:
        """The share of the coordinates in the square of each step."""
        passed = np.arange(self.steps) * 10_000 // self.steps
        return self.share * 0.5 ** np.searchsorted(_HALVED, passed)

    def _attempt(
        self,
        scores: Scores,
        x: Tensor,
        y: Tensor,
        logits: Tensor,
        number: Tensor,
        seed: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        windows = windows_of(tuple(x.shape[1:]))
        sizes = ops.cast(ops.convert_to_tensor(windows.sizes(self.shares())), x.dtype)
        change = self._swap if self.region.norm == 2 else self._flip
        points = self._start(windows, x, _drawn(x, seed, windows.start_draws))
        margin = losses.margin(y, scores(points))
        best, best_margin = better(points, margin, best, best_margin)

        def running(step: Tensor, points: Tensor, margin: Tensor, *best: Tensor) -> Tensor:
            return ops.logical_and(step < self.steps, self._goes_on(best[1]))

        def body(step: Tensor, points: Tensor, margin: Tensor, *best: Tensor) -> tuple:
            # Other words of the seed than those of other attempts and of the start.
            own = seed + ops.stack([(step + 1) * 1_640_531_527, 0 * step])
            tried = change(windows, x, points, _drawn(x, own, windows.draws), sizes[step])
            points, margin = better(tried, losses.margin(y, scores(tried)), points, margin)
            return step + 1, points, margin, *better(points, margin, *best)

        state = (ops.convert_to_tensor(0, dtype="int32"), points, margin, best, best_margin)
        return backend.loop(running, body, state)[-2:]

    def _start(self, windows: Windows, x: Tensor, numbers: Tensor) -> Tensor:
        if self.region.norm == 2:
            relief = windows.relief(numbers)
            return self._at(x, relief / ops.maximum(_length(relief), 1e-30))
        lower, upper = self.region.inner_limits(x)
        return ops.where(_flat(windows.corner(numbers), x) > 0, upper, lower)

    def _flip(
        self, windows: Windows, x: Tensor, points: Tensor, numbers: Tensor, size: Tensor
    ) -> Tensor:
        """Takes a window to its limits."""
        mask, signs = windows.window(numbers, size)
        shape = (ops.shape(x)[0], *windows.shape)
        mask, signs = (_flat(ops.broadcast_to(part, shape), x) for part in (mask, signs))
        lower, upper = self.region.inner_limits(x)
        return ops.where(mask, ops.where(signs > 0, upper, lower), points)

    def _swap(
        self, windows: Windows, x: Tensor, points: Tensor, numbers: Tensor, size: Tensor
    ) -> Tensor:
        """Moves into one window what another one had, and what nobody used."""
        radius = self.region.reach(x)
        moves = ops.where(radius > 0, (points - x) / ops.maximum(radius, 1e-30), 0.0)
        moves = ops.reshape(moves, (-1, *windows.shape))
        first, second, pattern = windows.bumps(numbers, size)
        unused = ops.maximum(1.0 - _length(moves) ** 2, 0.0) / windows.shape[-1]
        both = ops.where(ops.logical_or(first, second), moves, ops.zeros_like(moves))
        length = ops.sqrt(_length(both, (1, 2)) ** 2 + unused)  # in each channel
        old = ops.where(first, moves, ops.zeros_like(moves))
        new = _unit(_unit(pattern) + _unit(old)) * length
        moved = ops.where(first, new, ops.where(second, ops.zeros_like(moves), moves))
        return self._at(x, moved)

    def _at(self, x: Tensor, moves: Tensor) -> Tensor:
        """The points at these distances from x, in units of the radius."""
        return self.region.project(x + _flat(moves, x) * self.region.reach(x), x)


def _drawn(x: Tensor, seed: Tensor, count: int) -> Tensor:
    """Numbers from 0 to 1, so many for each input."""
    return keras.random.uniform((ops.shape(x)[0], count), dtype=x.dtype, seed=Seeds(seed)[1])


def _flat(values: Tensor, x: Tensor) -> Tensor:
    return ops.reshape(values, ops.shape(x))


def _length(values: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    return ops.sqrt(ops.sum(values**2, axis=axes, keepdims=True))


def _unit(values: Tensor) -> Tensor:
    """Of length 1 in every channel, where there is something."""
    return values / ops.maximum(_length(values, (1, 2)), 1e-30)
