"""Projected gradient ascent that controls its own step."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.directions import steepest
from tfcert.attacks.pgd import PGD, Scores, better
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["APGD"]


class APGD(PGD):
    """Gradient ascent with momentum whose step halves where it no longer pays.

    At checkpoints that grow denser, a sample's step is halved, and the search goes on from its best
    point, if fewer than three quarters of the steps since the last checkpoint raised the loss, or
    if neither step nor best value changed in that time.

    Args:
        region: Where to search.
        steps: Gradient steps of each restart.
        restarts: Number of starts.
        loss: "cross_entropy", "margin" or "logits_ratio".
        momentum: Share of the new direction; the rest continues the last move.
        early_stop: As in ``PGD``.
        sparsity: As in ``PGD``.

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, algorithm 1.
    """

    def __init__(
        self,
        region: Region,
        steps: int = 100,
        restarts: int = 1,
        *,
        loss: str = "cross_entropy",
        momentum: float = 0.75,
        early_stop: bool = True,
        sparsity: float = 0.05,
    ):
        super().__init__(
            region,
            steps,
            restarts=restarts,
            loss=loss,
            momentum=momentum,
            early_stop=early_stop,
            sparsity=sparsity,
        )

    def _checkpoints(self) -> tuple[np.ndarray, np.ndarray]:
        """At which steps to decide, and how many steps lie behind each since the last."""
        times, last, width = [0.0], 0.0, 0.22
        while times[-1] + width <= 1.0:
            last = times[-1] + width
            times.append(last)
            width = max(width - 0.03, 0.06)
        marks = sorted({int(np.ceil(time * self.steps)) for time in times[1:]} | {0})
        decide, since = np.zeros(self.steps + 1, bool), np.ones(self.steps + 1, "float32")
        for before, mark in zip(marks, marks[1:], strict=False):
            if mark <= self.steps:
                decide[mark], since[mark] = True, mark - before
        return decide, since

    def last_point(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """The worst point: every sample ends at its best one."""
        return ops.stop_gradient(self.search(scores, x, y, seed))

    def _ascend(
        self,
        scores: Scores,
        x: Tensor,
        y: Tensor,
        start: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        decide, since = (ops.convert_to_tensor(table) for table in self._checkpoints())
        spread = (-1,) + (1,) * (len(x.shape) - 1)

        def per_sample(value: Tensor) -> Tensor:
            return ops.reshape(value, spread)

        def measure(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            def total(variables: list[Tensor]) -> tuple[Tensor, Any]:
                logits = scores(variables[0])
                loss = losses.LOSSES[self.loss](y, logits)
                return ops.sum(loss), (loss, losses.margin(y, logits))

            _, (loss, margin), (gradient,) = backend.value_and_gradients(total, [points])
            return loss, margin, gradient

        loss, margin, gradient = measure(start)
        best, best_margin = better(start, margin, best, best_margin)
        ones, zeros = ops.ones_like(loss), ops.zeros_like(loss)
        state = (
            ops.convert_to_tensor(0, dtype="int32"),
            *(start, start, gradient, loss),  # point, the one before, gradient and loss there
            *(start, gradient, loss),  # where this restart's loss was highest
            *(2.0 * ones, zeros),  # step, rises since the checkpoint
            *(2.0 * ones, loss),  # step and highest loss at the last checkpoint
            *(best, best_margin),
        )

        def running(step: Tensor, *state: Tensor) -> Tensor:
            open_ = ops.any(state[-1] <= 0) if self.early_stop else True
            return ops.logical_and(step < self.steps, open_)

        def body(step: Tensor, *state: Tensor) -> tuple:
            (point, before, gradient, loss, top, top_gradient, top_loss) = state[:7]
            (size, rises, old_size, old_top, best, best_margin) = state[7:]
            direction = steepest(self.region, gradient, x, self.sparsity)
            straight = self.region.project(point + per_sample(size) * direction, x)
            # The first step has no move to continue.
            share = ops.where(step == 0, 1.0, self.momentum)
            moved = point + share * (straight - point) + (1.0 - share) * (point - before)
            moved = self.region.project(moved, x)
            new_loss, new_margin, new_gradient = measure(moved)
            best, best_margin = better(moved, new_margin, best, best_margin)
            rises = rises + ops.cast(new_loss > loss, rises.dtype)
            wins = new_loss > top_loss
            top = ops.where(per_sample(wins), moved, top)
            top_gradient = ops.where(per_sample(wins), new_gradient, top_gradient)
            top_loss = ops.where(wins, new_loss, top_loss)
            point, before, gradient, loss = moved, point, new_gradient, new_loss

            here = ops.take(decide, step + 1)
            few = rises < 0.75 * ops.take(since, step + 1)
            stuck = ops.logical_and(size == old_size, top_loss <= old_top)
            halve = ops.logical_and(here, ops.logical_or(few, stuck))
            old_size = ops.where(here, size, old_size)
            old_top = ops.where(here, top_loss, old_top)
            rises = ops.where(here, ops.zeros_like(rises), rises)
            size = ops.where(halve, 0.5 * size, size)
            back = per_sample(halve)
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
