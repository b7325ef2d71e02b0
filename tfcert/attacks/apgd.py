"""Projected gradient ascent that controls its own step."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks.attack import better
from tfcert.attacks.directions import steepest
from tfcert.attacks.inputs import Scores
from tfcert.attacks.losses import Goal
from tfcert.attacks.pgd import PGD
from tfcert.entering import Regions
from tfcert.types import AttackLoss, Tensor

__all__ = ["APGD"]


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class APGD(PGD):
    """Gradient ascent with momentum and a step size that is halved automatically.

    The first steps are twice as long as the radius. Checkpoints, which grow denser, decide whether
    to halve a sample's step. The step is halved if fewer than three quarters of the steps since the
    last checkpoint raised the loss, or if since then neither the step was halved nor the highest
    loss grew. The search then continues from the point with the highest loss. In the paper the
    momentum continues as well; here it starts again at 0.

    Args:
        region: The region to search.
        steps: Gradient steps of each restart.
        restarts: Number of starts. A single start is random; with several starts, the last one is
            x.
        loss: "cross_entropy", "margin" or "logits_ratio".
        momentum: Share of a new step in the next move; the rest continues the last move.
        early_stop: Whether to stop once all inputs of the batch are misclassified.
        sparsity: Share of the coordinates that a step moves, for norm 1 only.
        targets: None: the loss lowers the right class. A number k: the loss raises one wrong class,
            in turn each of the k classes with the largest scores at x, with all restarts for each.
            9 with "logits_ratio" is the targeted attack of the paper.

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, algorithm 1.
    """

    def __init__(
        self,
        region: Regions,
        steps: int = 100,
        restarts: int = 1,
        *,
        loss: AttackLoss = "cross_entropy",
        momentum: float = 0.75,
        early_stop: bool = True,
        sparsity: float = 0.05,
        targets: int | None = None,
    ):
        super().__init__(
            region,
            steps,
            restarts=restarts,
            loss=loss,
            early_stop=early_stop,
            sparsity=sparsity,
            targets=targets,
        )
        # Unlike that of PGD it may be 1, which continues nothing, and not 0, which never moves.
        if not 0 < momentum <= 1:
            raise ValueError(f"`momentum` must lie in (0, 1]. Received: momentum={momentum}.")
        self.momentum = momentum

    def checkpoints(self) -> list[int]:
        """The steps after which the step size may be halved: ``ceil(p_j steps)``, p_1 = 0.22, ...
        <= 1."""
        time, width, marks = 0.0, 0.22, set()
        while time + width <= 1.0:
            time = round(time + width, 6)  # or ceil would see 41.000000000000004
            marks.add(int(np.ceil(round(time * self.steps, 6))))
            width = max(width - 0.03, 0.06)
        return sorted(marks)

    def last_point(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """Returns the point of each sample with the highest loss."""
        return ops.stop_gradient(self.search(scores, x, y, seed))

    def _ascend(
        self,
        scores: Scores,
        goal: Goal,
        x: Tensor,
        start: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        spread = (-1,) + (1,) * (len(x.shape) - 1)
        decide, needed = self._decisions()
        loss, margin, gradient = self._measure(scores, goal, start)
        best, best_margin = better(start, margin, best, best_margin)
        size = ops.cast(2.0 * ops.ones_like(loss), x.dtype)
        state = (
            ops.convert_to_tensor(0, dtype="int32"),
            *(start, start, gradient, loss),  # point, the one before, gradient and loss there
            *(start, gradient, loss),  # where this restart's loss was highest
            *(size, ops.zeros(ops.shape(loss), "int32")),  # step, rises since the checkpoint
            *(size, loss),  # step and highest loss at the last checkpoint
            *(best, best_margin),
        )

        def running(step: Tensor, *state: Tensor) -> Tensor:
            return ops.logical_and(step < self.steps, self._goes_on(state[-1]))

        def body(step: Tensor, *state: Tensor) -> tuple:
            (point, before, gradient, loss, top, top_gradient, top_loss) = state[:7]
            (size, rises, old_size, old_top, best, best_margin) = state[7:]
            before, point = point, self._step(x, point, before, gradient, size, step)
            loss_before = loss
            loss, margin, gradient = self._measure(scores, goal, point)
            best, best_margin = better(point, margin, best, best_margin)
            rises = rises + ops.cast(loss > loss_before, "int32")
            wins = loss > top_loss
            top = ops.where(ops.reshape(wins, spread), point, top)
            top_gradient = ops.where(ops.reshape(wins, spread), gradient, top_gradient)
            top_loss = ops.where(wins, loss, top_loss)

            here = ops.take(decide, step)
            stuck = ops.logical_and(size == old_size, top_loss <= old_top)
            few = ops.cast(rises, "float32") < ops.take(needed, step)
            halve = ops.logical_and(here, ops.logical_or(few, stuck))
            old_size, old_top = ops.where(here, size, old_size), ops.where(here, top_loss, old_top)
            rises = ops.where(here, ops.zeros_like(rises), rises)
            size = ops.where(halve, 0.5 * size, size)
            back = ops.reshape(halve, spread)
            point, before = ops.where(back, top, point), ops.where(back, top, before)
            gradient = ops.where(back, top_gradient, gradient)
            loss = ops.where(halve, top_loss, loss)
            return (
                step + 1,
                *(point, before, gradient, loss, top, top_gradient, top_loss),
                *(size, rises, old_size, old_top, best, best_margin),
            )

        result = backend.loop(running, body, state)
        return result[-2], result[-1]

    def _decisions(self) -> tuple[Tensor, Tensor]:
        """Whether a checkpoint follows each step, and how many rises since the last are enough."""
        decide, needed, last = np.zeros(self.steps, bool), np.zeros(self.steps, "float32"), 0
        for mark in self.checkpoints():
            decide[mark - 1], needed[mark - 1], last = True, 0.75 * (mark - last), mark
        return ops.convert_to_tensor(decide), ops.convert_to_tensor(needed)

    def _step(
        self, x: Tensor, point: Tensor, before: Tensor, gradient: Tensor, size: Tensor, step: Tensor
    ) -> Tensor:
        """A gradient step, and a part of the last move."""
        direction = steepest(self.region, gradient, point, x, self.sparsity, size)
        size = ops.reshape(size, (-1,) + (1,) * (len(x.shape) - 1))
        straight = self.region.project(point + size * direction, x)
        # The first step has no move to continue.
        share = ops.where(step == 0, ops.ones((), x.dtype), ops.cast(self.momentum, x.dtype))
        return self.region.project(
            point + share * (straight - point) + (1.0 - share) * (point - before), x
        )
