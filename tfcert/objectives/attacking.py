"""Attacks inside of a training step: on the input, or on the value of an inner node.

``Batch.at_input`` and ``Batch.at_node`` say where: they make a ``Place``, whose scores have the
statistics of the clean batch. Any attack of ``tfcert.attacks`` runs there (``Place.worst``), and so
does ``SignedSteps``. Points that an attack found carry no gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from keras import ops

from tfcert import backend
from tfcert.attacks import PGD
from tfcert.objectives.losses import cross_entropy
from tfcert.regions import Region
from tfcert.regions.seeds import Seeds
from tfcert.types import Tensor

__all__ = ["Place", "SignedSteps", "stationarity"]


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of an attack: a region, and the scores of its points.

    Args:
        region: The points that the attack may choose, around ``center``.
        center: Points of the region, of the shape of the attacked value.
        y: Integer labels, ``(batch,)``.
        seed: Integer tensor of shape ``(2,)``, for random starts.
        scores: Gives the scores at points, ``(batch, classes)``.
    """

    region: Region
    center: Tensor
    y: Tensor
    seed: Tensor
    scores: Callable[[Tensor], Tensor]

    def worst(self, attack: PGD) -> Tensor:
        """Points where a restart ends; this place replaces the attack's own region."""
        attack = attack.with_region(self.region)
        return ops.stop_gradient(attack.last_point(self.scores, self.center, self.y, self.seed))

    def strongest(self, attack: PGD) -> Tensor:
        """The worst points that an attack met, by their margin, its centre and restarts among them.

        Args:
            attack: Without ``early_stop``: the other samples of a batch say nothing about one.
        """
        attack = attack.with_region(self.region)
        return ops.stop_gradient(attack.search(self.scores, self.center, self.y, self.seed))


@dataclasses.dataclass(frozen=True)
class SignedSteps:
    """Signed gradient steps on the cross-entropy in a box, from random points.

    The steps are few and written out one after another, since a branch of a compiled step may hold
    them. Steps are measured in the radius before clipping: half of the clipped box would shorten
    them where an input lies at a limit, as most pixels of a digit do.

    Args:
        steps: How many.
        length: Length of a step, as a fraction of the region's radius.
    """

    steps: int
    length: float

    def __call__(self, place: Place, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """``(points, stationarity)`` at the end, without gradients; see ``stationarity``.

        Args:
            place: Where to attack; its region is a box.
            threshold: Samples rest after their first step while their measure is at most this.
        """
        limits = (*place.region.inner_limits(place.center), place.region.reach(place.center))
        lower, upper, reach = map(ops.stop_gradient, limits)
        uniform = keras.random.uniform(
            ops.shape(lower), dtype=lower.dtype, seed=Seeds(place.seed)[0]
        )
        points = lower + uniform * (upper - lower)

        def measure(points: Tensor) -> tuple[Tensor, Tensor]:
            gradient = _gradient_of_mean(place, points)
            return gradient, stationarity(lower, upper, points, gradient)

        for step in range(self.steps):
            gradient, off = measure(points)
            move = self.length * reach * ops.sign(gradient)
            if step > 0:
                going = ops.cast(off > threshold, points.dtype)
                move = move * ops.reshape(going, (-1,) + (1,) * (len(points.shape) - 1))
            points = ops.maximum(ops.minimum(points + move, upper), lower)
        points = ops.stop_gradient(points)
        return points, ops.stop_gradient(measure(points)[1])


def stationarity(lower: Tensor, upper: Tensor, points: Tensor, gradient: Tensor) -> Tensor:
    """``sum(r |g|) - <x - c, g>``: 0 exactly at a stationary point of a box, else above.

    Args:
        lower: Lower limits of the box, ``(batch, *shape)``; c and r are its centre and radius.
        upper: Upper limits.
        points: Points x of the box.
        gradient: The gradient g of the loss there.

    Returns:
        ``(batch,)``.

    Reference: Wang et al., On the convergence and robustness of adversarial training, ICML 2019,
    equation 6.
    """
    axes = tuple(range(1, len(points.shape)))
    off = ops.sum(0.5 * (upper - lower) * ops.abs(gradient), axis=axes)
    return off - ops.sum((points - 0.5 * (lower + upper)) * gradient, axis=axes)


def _gradient_of_mean(place: Place, points: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy of the whole batch, that of all devices."""

    def mean_loss(variables: list[Tensor]) -> tuple[Tensor, Tensor]:
        loss = ops.mean(cross_entropy(place.y, place.scores(variables[0]))) / backend.replicas()
        return loss, loss

    return backend.value_and_gradients(mean_loss, [points])[2][0]
