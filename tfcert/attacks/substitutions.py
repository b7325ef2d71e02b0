"""The attack on finite regions: one replacement after another."""

from __future__ import annotations

import keras
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.attack import Search, better, positive
from tfcert.attacks.inputs import Scores
from tfcert.entering import Regions
from tfcert.types import Tensor

__all__ = ["Substitutions"]


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class Substitutions(Search):
    """Replaces positions of a sequence one by one, each time by the worst alternative.

    A step tries all alternatives of all positions, and takes the worst one that keeps at most
    ``max_changes`` positions replaced. So the search is exhaustive for one replacement, and greedy
    for several. The first attempt starts at x, and later attempts start at random points.

    Args:
        region: ``tfcert.regions.WordSubstitutions`` for a model that begins with an ``Embedding``,
            or another finite region: ``tfcert.regions.Alternatives``.
        steps: How many replacements, or changes of them, an attempt makes.
        restarts: How many attempts.
        early_stop: Whether an attempt ends when all inputs are misclassified.

    Example:

    >>> attack = tfcert.attacks.Substitutions(tfcert.regions.WordSubstitutions({3: [7, 8]}))
    >>> other_words = attack(model, words, y)
    """

    for_finite = True

    def __init__(
        self, region: Regions, steps: int = 8, restarts: int = 1, *, early_stop: bool = True
    ):
        super().__init__(region, restarts, early_stop)
        self.steps = positive("steps", steps)

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
        somewhere = ops.squeeze(self.region.sample(x, 1, seed, corners=True), axis=1)
        points = ops.where(number == 0, x, somewhere)
        margin = losses.margin(y, scores(points))
        best, best_margin = better(points, margin, best, best_margin)

        def running(step: Tensor, points: Tensor, margin: Tensor, *best: Tensor) -> Tensor:
            return ops.logical_and(step < self.steps, self._goes_on(best[1]))

        def body(step: Tensor, points: Tensor, margin: Tensor, *best: Tensor) -> tuple:
            tried, found = self._step(scores, x, y, points)
            points, margin = better(tried, found, points, margin)
            return step + 1, points, margin, *better(points, margin, *best)

        state = (ops.convert_to_tensor(0, dtype="int32"), points, margin, best, best_margin)
        return backend.loop(running, body, state)[-2:]

    def _step(self, scores: Scores, x: Tensor, y: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """The worst point that differs in one position, and its margin."""
        near, allowed = self.region.neighbours(points, x)
        several = int(near.shape[1])
        margin = losses.margin(
            ops.repeat(y, several, axis=0), scores(ops.reshape(near, (-1, *x.shape[1:])))
        )
        margin = ops.where(allowed, ops.reshape(margin, (-1, several)), -float("inf"))
        first = ops.argmax(margin, axis=1)
        flat = ops.reshape(near, (ops.shape(near)[0], several, -1))
        picked = ops.take_along_axis(flat, ops.reshape(first, (-1, 1, 1)), axis=1)
        return ops.reshape(picked, ops.shape(points)), ops.max(margin, axis=1)
