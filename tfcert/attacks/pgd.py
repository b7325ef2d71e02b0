"""Projected gradient ascent in a region."""

from __future__ import annotations

import keras
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.attack import Search, better, positive
from tfcert.attacks.directions import steepest
from tfcert.attacks.inputs import Scores
from tfcert.attacks.losses import Goal
from tfcert.entering import Regions
from tfcert.schedules import Clock, Schedule, get
from tfcert.types import AttackLoss, Tensor

__all__ = ["FGSM", "PGD"]


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class PGD(Search):
    """Projected gradient ascent on a loss, from one or several starts.

    A call returns the worst point of the search for every input, x included: the point with the
    largest margin of a wrong class over the right class. The point is misclassified if this margin
    is positive. Every point lies in the region, inside its float limits.

    Args:
        region: The region to search.
        steps: Gradient steps of each restart.
        step_size: Length of a step, as a fraction of the region's radius (of its half width, for a
            ``Box``): a number or a schedule over steps. Default: ``min(1, 2.5 / steps)``.
        restarts: Number of starts. With several starts, the last one is x, which often finds points
            that others miss.
        loss: "cross_entropy", "margin" or "logits_ratio".
        momentum: Factor on the sum of earlier directions before the new direction is added.
            Gradients are first normalised to mean absolute value 1, as in MI-FGSM.
        random_start: Whether a start is a random point of the region, in place of x.
        early_stop: Whether to stop once all inputs of the batch are misclassified.
        sparsity: Share of the coordinates that a step moves, for norm 1 only.
        targets: None: the loss lowers the right class. A number k: the loss raises one wrong class,
            in turn each of the k classes with the largest scores at x (or all wrong classes, if
            there are fewer), with all restarts for each.

    Example:

    >>> import keras, numpy as np, tfcert
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(2), np.zeros(2)])
    >>> x, y = np.array([[0.5, 0.25]], "float32"), np.array([0])
    >>> attack = tfcert.attacks.PGD(tfcert.LpBall(0.25), steps=10, restarts=2)
    >>> np.asarray(model(attack(model, x, y))).argmax(axis=1).tolist()
    [1]

    Reference: Madry et al., 2018, https://arxiv.org/abs/1706.06083; momentum: Dong et al., 2018,
    https://arxiv.org/abs/1710.06081, algorithm 1.
    """

    def __init__(
        self,
        region: Regions,
        steps: int = 40,
        step_size: float | Schedule | None = None,
        restarts: int = 1,
        *,
        loss: AttackLoss = "cross_entropy",
        momentum: float = 0.0,
        random_start: bool = True,
        early_stop: bool = True,
        sparsity: float = 0.05,
        targets: int | None = None,
    ):
        super().__init__(region, restarts, early_stop)
        if loss not in losses.LOSSES:
            raise ValueError(f"`loss` must be one of {tuple(losses.LOSSES)}. Received: {loss!r}.")
        steps = positive("steps", steps)
        if restarts > 1 and not random_start:
            raise ValueError(
                "`restarts` above 1 need random starts, because other restarts would all be the "
                f"same. Received: restarts={restarts}, random_start={random_start}."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        if not 0 < sparsity <= 1:
            raise ValueError(f"`sparsity` must lie in (0, 1]. Received: sparsity={sparsity}.")
        self.steps, self.targets = steps, None if targets is None else positive("targets", targets)
        self.step_size = get(min(1.0, 2.5 / steps) if step_size is None else step_size)
        reached = self.step_size.reached
        if min(reached) < 0 or not max(reached) > 0:
            raise ValueError(
                "`step_size` must be > 0. A schedule must be at least 0 everywhere and above 0 "
                f"somewhere. Received: step_size={step_size!r}."
            )
        self.loss, self.momentum, self.random_start = loss, momentum, random_start
        self.sparsity = sparsity

    def _needs(self) -> tuple[int, str]:
        if self.targets is None:
            return losses.CLASSES[self.loss], f"The attack with loss={self.loss!r}"
        why = f"The attack with loss={self.loss!r} and targets={self.targets}"
        return losses.TARGETED_CLASSES[self.loss], why

    def _attempts(self, classes: int) -> int:
        return self.restarts * min(self.targets or 1, classes - 1)

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
        start = self.region.sample(x, 1, seed)[:, 0] if self.random_start else x
        if self.restarts > 1:
            start = ops.where(number % self.restarts == self.restarts - 1, x, start)
        goal = self._goal(y, logits, number // self.restarts)
        return self._ascend(scores, goal, x, start, best, best_margin)

    def _goal(self, y: Tensor, logits: Tensor, rank: Tensor) -> Goal:
        """The loss, with the target of this rank among the wrong classes where there are any."""
        if self.targets is None:
            return Goal(self.loss, y)
        ranked = losses.rivals(y, logits, min(self.targets, logits.shape[-1] - 1))
        return Goal(self.loss, y, ops.take(ranked, rank, axis=1))

    def last_point(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """Returns the end of one restart, on which adversarial training trains.

        With several targets, the restart aims at the first target.
        """
        points = self.region.sample(x, 1, seed)[:, 0] if self.random_start else x
        moves = ops.zeros_like(x)
        goal = Goal(self.loss, y) if self.targets is None else self._goal(y, scores(x), 0)

        def body(step: Tensor, points: Tensor, moves: Tensor) -> tuple:
            _, _, gradient = self._measure(scores, goal, points)
            points, moves = self._move(x, points, moves, gradient, step)
            return step + 1, points, moves

        start = ops.convert_to_tensor(0, dtype="int32")
        _, points, _ = backend.loop(
            lambda step, *_: step < self.steps, body, (start, points, moves)
        )
        return points

    def _ascend(
        self,
        scores: Scores,
        goal: Goal,
        x: Tensor,
        start: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One restart: the best points so far, with those met on the way."""

        def running(
            step: Tensor, points: Tensor, moves: Tensor, best: Tensor, best_margin: Tensor
        ) -> Tensor:
            return ops.logical_and(step < self.steps, self._goes_on(best_margin))

        def body(
            step: Tensor, points: Tensor, moves: Tensor, best: Tensor, best_margin: Tensor
        ) -> tuple:
            _, margin, gradient = self._measure(scores, goal, points)
            best, best_margin = better(points, margin, best, best_margin)
            points, moves = self._move(x, points, moves, gradient, step)
            return step + 1, points, moves, best, best_margin

        state = (
            ops.convert_to_tensor(0, dtype="int32"),
            *(start, ops.zeros_like(x)),
            *(best, best_margin),
        )
        _, points, _, best, best_margin = backend.loop(running, body, state)
        return better(points, goal.margin(scores(points)), best, best_margin)

    def _measure(self, scores: Scores, goal: Goal, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of every sample, its margin, and the gradient of the loss.

        Where the model gives no number there is no direction: 0, since a NaN would be a point
        outside of the region.
        """

        def total(variables: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            logits = scores(variables[0])
            loss = goal.value(logits)
            return ops.sum(loss), (loss, goal.margin(logits))

        _, (loss, margin), (gradient,) = backend.value_and_gradients(total, [points])
        return loss, margin, ops.where(ops.isnan(gradient), ops.zeros_like(gradient), gradient)

    def _move(
        self, x: Tensor, points: Tensor, moves: Tensor, gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.momentum:
            axes = tuple(range(1, len(x.shape)))
            size = ops.mean(ops.abs(gradient), axis=axes, keepdims=True)
            gradient = self.momentum * moves + gradient / ops.maximum(size, 1e-30)
        length = ops.cast(self.step_size(Clock(step, 1)), x.dtype)
        direction = steepest(self.region, gradient, points, x, self.sparsity, length)
        return self.region.project(points + length * direction, x), gradient


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class FGSM(PGD):
    """One step from x along the sign of the gradient (the steepest direction for other norms).

    The attack returns the end of the step, ``project(x + eps sign(gradient))``, even if the model
    does better there than at x.

    Args:
        region: The region of the step.
        loss: "cross_entropy", "margin" or "logits_ratio".

    Reference: Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572, section 4
    """

    def __init__(self, region: Regions, *, loss: AttackLoss = "cross_entropy"):
        super().__init__(region, steps=1, step_size=1.0, loss=loss, random_start=False)

    def worst(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        points = self.last_point(scores, x, y, seed)
        return points, losses.margin(y, scores(points))
