"""Projected gradient ascent in a region."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks import inputs, losses
from tfcert.attacks.directions import steepest
from tfcert.attacks.inputs import Scores
from tfcert.programs import programs_of
from tfcert.regions import Numbers, Region
from tfcert.schedules import Clock, Schedule, get
from tfcert.types import AttackLoss, Tensor

__all__ = ["FGSM", "PGD"]


class PGD:
    """Projected gradient ascent on a loss, from one or several starts.

    Calling it gives, for every input, the worst point that was met, x among them: the one with the
    largest margin of a wrong class over the right one, which is misclassified where this margin is
    positive. Every point lies in the region, inside of its float limits.

    Args:
        region: Where to search.
        steps: Gradient steps of each restart.
        step_size: Length of a step, as a fraction of the region's radius (of its half width, for a
            ``Box``): a number or a schedule over steps. Default: ``min(1, 2.5 / steps)``.
        restarts: Number of starts. Of several, the last is at x: it often finds what others miss.
        loss: "cross_entropy", "margin" or "logits_ratio".
        momentum: What the directions of earlier steps are multiplied with before the new one is
            added; gradients are first normalised to mean absolute value 1, as in MI-FGSM.
        random_start: Whether (other) starts are random points of the region, instead of x.
        early_stop: Whether to end once all inputs that are attacked together are misclassified.
        sparsity: For norm 1, the share of coordinates that a step moves.

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
        region: Region,
        steps: int = 40,
        step_size: float | Schedule | None = None,
        restarts: int = 1,
        *,
        loss: AttackLoss = "cross_entropy",
        momentum: float = 0.0,
        random_start: bool = True,
        early_stop: bool = True,
        sparsity: float = 0.05,
    ):
        if not isinstance(region, Region):
            raise ValueError(
                f"`region` must be a tfcert.LpBall or tfcert.Box. Received: region={region!r}."
            )
        if loss not in losses.LOSSES:
            raise ValueError(f"`loss` must be one of {tuple(losses.LOSSES)}. Received: {loss!r}.")
        steps, restarts = _positive("steps", steps), _positive("restarts", restarts)
        if restarts > 1 and not random_start:
            raise ValueError(
                "`restarts` above 1 need random starts; all others would be the same. "
                f"Received: restarts={restarts}, random_start={random_start}."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        if not 0 < sparsity <= 1:
            raise ValueError(f"`sparsity` must lie in (0, 1]. Received: sparsity={sparsity}.")
        self.region, self.steps, self.restarts = region, steps, restarts
        self.step_size = get(min(1.0, 2.5 / steps) if step_size is None else step_size)
        reached = self.step_size.reached
        if min(reached) < 0 or not max(reached) > 0:
            raise ValueError(
                "`step_size` must be > 0, a schedule nowhere below 0 and somewhere above. "
                f"Received: step_size={step_size!r}."
            )
        self.loss, self.momentum, self.random_start = loss, momentum, random_start
        self.early_stop, self.sparsity = early_stop, sparsity

    def __call__(
        self, model: keras.Model, x: Tensor, y: Tensor, seed: int = 0, batch_size: int = 1024
    ) -> Tensor:
        """The worst points found.

        Args:
            model: A model with one output, ``(batch, classes)``; runs in inference mode.
            x: Inputs, ``(batch, *input_shape)``.
            y: Integer labels, ``(batch,)``.
            seed: Decides the random starts, together with `batch_size`.
            batch_size: Inputs that are attacked together.

        Returns:
            A tensor of the shape of x.
        """
        if not isinstance(seed, (int, np.integer)):
            raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}.")
        x, y = inputs.check(model, x, y, losses.CLASSES[self.loss])
        self.region.validate(x)
        size = x.shape[0]
        piece = min(size, _positive("batch_size", batch_size))
        numbers = self.region.numbers(x, outward=False)
        found = []
        for index, start in enumerate(range(0, size, piece)):
            # The last batch is filled up, so that all of them run the same program.
            chosen = np.minimum(np.arange(start, start + piece), size - 1)
            key = ops.convert_to_tensor(np.array([int(seed) & 0x7FFFFFFF, index], "int32"))
            cut = [ops.take(tensor, chosen, axis=0) for tensor in (x, y)]
            arguments = (key, numbers.cut(chosen), *cut)
            points = self._program(model, arguments)(*arguments)
            found.append(points[: min(piece, size - start)])
        return found[0] if len(found) == 1 else ops.concatenate(found, axis=0)

    def _program(self, model: keras.Model, arguments: tuple) -> Callable:
        """The search as one program for all sizes of the region."""
        # The numbers of the region are an argument of the program and no part of its key.
        rest = tuple(value for name, value in vars(self).items() if name != "region")

        def make() -> Callable:
            attack = self.with_region(self.region.template())  # whose attributes nobody changes

            def run(seed: Tensor, numbers: Numbers, x: Tensor, y: Tensor) -> Tensor:
                found = attack.with_region(attack.region.with_numbers(numbers))
                return found.search(inputs.scores_of(model), x, y, seed)

            return run

        key = (type(self), self.region.signature(), rest)
        return programs_of(model).get(model, "attack", key, make, arguments)

    def with_region(self, region: Region) -> PGD:
        """The same attack elsewhere."""
        other = copy.copy(self)
        other.region = region
        return other

    def search(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """The worst points found, for a function that may be a part of a graph in construction.

        Args:
            scores: Gives the scores of points, ``(batch, classes)``.
            x: Inputs.
            y: Integer labels.
            seed: Integer tensor of shape ``(2,)``.
        """
        best_margin = losses.margin(y, scores(x))
        state = (ops.convert_to_tensor(0, dtype="int32"), x, best_margin)

        def running(restart: Tensor, best: Tensor, best_margin: Tensor) -> Tensor:
            return ops.logical_and(restart < self.restarts, self._goes_on(best_margin))

        def body(restart: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
            start = x
            if self.random_start:
                own = ops.cast(seed, "int32") + ops.stack([0 * restart, 7919 * restart])
                start = self.region.sample(x, 1, own)[:, 0]
            if self.restarts > 1:
                start = ops.where(restart == self.restarts - 1, x, start)
            best, best_margin = self._ascend(scores, x, y, start, best, best_margin)
            return restart + 1, best, best_margin

        _, best, _ = backend.loop(running, body, state)
        return best

    def last_point(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """Where one restart ends, the better or the worse: what adversarial training trains on."""
        points = self.region.sample(x, 1, seed)[:, 0] if self.random_start else x
        moves = ops.zeros_like(x)

        def body(step: Tensor, points: Tensor, moves: Tensor) -> tuple:
            _, _, gradient = self._measure(scores, y, points)
            points, moves = self._move(x, points, moves, gradient, step)
            return step + 1, points, moves

        start = ops.convert_to_tensor(0, dtype="int32")
        _, points, _ = backend.loop(
            lambda step, *_: step < self.steps, body, (start, points, moves)
        )
        return points

    def _goes_on(self, best_margin: Tensor) -> Tensor:
        """Whether some input is still classified correctly, where that decides."""
        return ops.any(best_margin <= 0) if self.early_stop else ops.convert_to_tensor(True)

    def _ascend(
        self,
        scores: Scores,
        x: Tensor,
        y: Tensor,
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
            _, margin, gradient = self._measure(scores, y, points)
            best, best_margin = better(points, margin, best, best_margin)
            points, moves = self._move(x, points, moves, gradient, step)
            return step + 1, points, moves, best, best_margin

        state = (
            ops.convert_to_tensor(0, dtype="int32"),
            *(start, ops.zeros_like(x)),
            *(best, best_margin),
        )
        _, points, _, best, best_margin = backend.loop(running, body, state)
        return better(points, losses.margin(y, scores(points)), best, best_margin)

    def _measure(self, scores: Scores, y: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of every sample, its margin, and the gradient of the loss.

        Where the model gives no number there is no direction: 0, since a NaN would be a point
        outside of the region.
        """

        def total(variables: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            logits = scores(variables[0])
            loss = losses.LOSSES[self.loss](y, logits)
            return ops.sum(loss), (loss, losses.margin(y, logits))

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
        direction = steepest(self.region, gradient, points, x, self.sparsity)
        return self.region.project(points + length * direction, x), gradient

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"


class FGSM(PGD):
    """One step along the sign of the gradient (norm inf; else its steepest direction), from x.

    Gives where that step ends, ``project(x + eps sign(gradient))``, even if the model does better
    there than at x.

    Args:
        region: Where to step.
        loss: As in ``PGD``.

    Reference: Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572, section 4
    """

    def __init__(self, region: Region, *, loss: AttackLoss = "cross_entropy"):
        super().__init__(region, steps=1, step_size=1.0, loss=loss, random_start=False)

    def search(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        return self.last_point(scores, x, y, seed)


def better(points: Tensor, margin: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
    """The worse point for the model of two, sample by sample; NaN never wins."""
    wins = margin > best_margin
    shape = (-1,) + (1,) * (len(points.shape) - 1)
    return (
        ops.where(ops.reshape(wins, shape), points, best),
        ops.where(wins, margin, best_margin),
    )


def _positive(name: str, value: int) -> int:
    if not (isinstance(value, (int, np.integer)) and value >= 1):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)
