"""Projected gradient ascent in a region."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.directions import steepest
from tfcert.network import cache_of
from tfcert.regions import Region
from tfcert.schedules import Clock, Schedule, get
from tfcert.types import Tensor

__all__ = ["FGSM", "PGD"]

# function(points) -> scores, (batch, classes)
Scores = Callable[[Tensor], Tensor]


class PGD:
    """Projected gradient ascent on a loss, from several random starts.

    Calling it gives, for every input, the worst point that was met: one that the model
    misclassifies if there was any, else the one with the smallest margin. Every point lies in the
    region, inside of its float limits.

    Args:
        region: Where to search.
        steps: Gradient steps of each restart.
        step_size: Length of a step, as a fraction of the region's radius (of its half width, for a
            ``Box``): a number or a schedule over steps. Default: ``min(1, 2.5 / steps)``.
        restarts: Number of starts.
        loss: "cross_entropy", "margin" or "logits_ratio".
        momentum: Share of the last direction that is kept; gradients are normalised to mean
            absolute value 1 before they are added up, as in MI-FGSM.
        random_start: Whether to start at random points of the region, instead of at x.
        early_stop: Whether a sample rests once it is misclassified, and all stop when all are.
        sparsity: For norm 1, the share of coordinates that a step moves.

    Example:

    >>> attack = tfcert.attacks.PGD(tfcert.LpBall(0.1, clip=(0.0, 1.0)), steps=40, restarts=3)
    >>> worst = attack(model, x, y)

    Reference: Madry et al., 2018, https://arxiv.org/abs/1706.06083; momentum: Dong et al., 2018,
    https://arxiv.org/abs/1710.06081; norm 1: Tramer and Boneh, 2019,
    https://arxiv.org/abs/1904.13000, section 4.
    """

    def __init__(
        self,
        region: Region,
        steps: int = 40,
        step_size: float | Schedule | None = None,
        restarts: int = 1,
        *,
        loss: str = "cross_entropy",
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
        for name, value in (("steps", steps), ("restarts", restarts)):
            if not (isinstance(value, (int, np.integer)) and value >= 1):
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        if not 0 < sparsity <= 1:
            raise ValueError(f"`sparsity` must lie in (0, 1]. Received: sparsity={sparsity}.")
        self.region, self.steps, self.restarts = region, int(steps), int(restarts)
        self.step_size = get(min(1.0, 2.5 / steps) if step_size is None else step_size)
        self.loss, self.momentum, self.random_start = loss, momentum, random_start
        self.early_stop, self.sparsity = early_stop, sparsity

    def __call__(
        self, model: keras.Model, x: Tensor, y: Tensor, seed: int = 0, batch_size: int = 1024
    ) -> Tensor:
        """The worst points found.

        Args:
            model: A built model with one output, ``(batch, classes)``; runs in inference mode.
            x: Inputs, ``(batch, *input_shape)``.
            y: Integer labels, ``(batch,)``.
            seed: Decides the random starts.
            batch_size: Samples that are attacked together.

        Returns:
            A tensor of the shape of x.
        """
        x, y = _checked(model, x, y)
        self.region.validate(x)
        if not keras.backend.is_float_dtype(x.dtype):
            x = ops.cast(x, keras.config.floatx())
        size = x.shape[0]
        piece = min(size, batch_size)
        own = self.region.per_sample(x)
        compiled = self._compiled(model, tuple(own))
        found = []
        for index, start in enumerate(range(0, size, piece)):
            chosen = np.minimum(np.arange(start, start + piece), size - 1)
            key = ops.convert_to_tensor(np.array([seed, index], "int32"))
            cut = [ops.take(tensor, chosen, axis=0) for tensor in (x, y, *own.values())]
            found.append(compiled(key, *cut)[: min(piece, size - start)])
        return found[0] if len(found) == 1 else ops.concatenate(found, axis=0)

    def _compiled(self, model: keras.Model, names: tuple[str, ...]) -> Callable:
        """The search as one program, kept with the model."""
        functions = cache_of(model).setdefault("attacks", {})
        key = (type(self), *self.__dict__.values())
        if key not in functions:

            def run(seed: Tensor, x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
                region = self.region.with_per_sample(dict(zip(names, values, strict=True)))
                search = self.with_region(region).search
                return search(lambda points: model(points, training=False), x, y, seed)

            functions[key] = backend.compile_function(run, model)
        return functions[key]

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
            open_ = ops.any(best_margin <= 0) if self.early_stop else True
            return ops.logical_and(restart < self.restarts, open_)

        def body(restart: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
            start = x
            if self.random_start:
                own = ops.cast(seed, "int32") + ops.stack([0 * restart, 7919 * restart])
                start = self.region.sample(x, 1, own)[:, 0]
            best, best_margin = self._ascend(scores, x, y, start, best, best_margin)
            return restart + 1, best, best_margin

        _, best, _ = backend.loop(running, body, state)
        return best

    def last_point(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """Where one restart ends, the better or the worse: what adversarial training trains on."""
        points = self.region.sample(x, 1, seed)[:, 0] if self.random_start else x
        moves = ops.zeros_like(x)

        def body(step: Tensor, points: Tensor, moves: Tensor) -> tuple:
            gradient, _ = self._gradient(scores, y, points)
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
        x: Tensor,
        y: Tensor,
        start: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One restart: the best points so far, with those met on the way."""

        def running(
            step: Tensor, points: Tensor, moves: Tensor, best: Tensor, margin: Tensor
        ) -> Tensor:
            open_ = ops.any(margin <= 0) if self.early_stop else True
            return ops.logical_and(step < self.steps, open_)

        def body(
            step: Tensor, points: Tensor, moves: Tensor, best: Tensor, margin: Tensor
        ) -> tuple:
            gradient, here = self._gradient(scores, y, points)
            best, margin = better(points, here, best, margin)
            points, moves = self._move(x, points, moves, gradient, step)
            return step + 1, points, moves, best, margin

        state = (
            ops.convert_to_tensor(0, dtype="int32"),
            start,
            ops.zeros_like(x),
            best,
            best_margin,
        )
        _, points, _, best, best_margin = backend.loop(running, body, state)
        return better(points, losses.margin(y, scores(points)), best, best_margin)

    def _gradient(self, scores: Scores, y: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the loss, and the margin."""

        def total(variables: list[Tensor]) -> tuple[Tensor, Tensor]:
            logits = scores(variables[0])
            return ops.sum(losses.LOSSES[self.loss](y, logits)), losses.margin(y, logits)

        _, margin, (gradient,) = backend.value_and_gradients(total, [points])
        return gradient, margin

    def _move(
        self, x: Tensor, points: Tensor, moves: Tensor, gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.momentum:
            axes = tuple(range(1, len(x.shape)))
            size = ops.mean(ops.abs(gradient), axis=axes, keepdims=True)
            gradient = self.momentum * moves + gradient / ops.maximum(size, 1e-30)
        length = ops.cast(self.step_size(Clock(step, 1)), x.dtype)
        direction = steepest(self.region, gradient, x, self.sparsity)
        return self.region.project(points + length * direction, x), gradient

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.region!r}, steps={self.steps}, "
            f"step_size={self.step_size!r}, restarts={self.restarts}, loss={self.loss!r})"
        )


class FGSM(PGD):
    """One step along the sign of the gradient (norm inf; else its steepest direction), from x.

    Reference: Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572
    """

    def __init__(self, region: Region, *, loss: str = "cross_entropy"):
        super().__init__(region, steps=1, step_size=1.0, loss=loss, random_start=False)


def better(points: Tensor, margin: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
    """The worse point for the model of two, sample by sample; NaN never wins."""
    wins = margin > best_margin
    shape = (-1,) + (1,) * (len(points.shape) - 1)
    return (
        ops.where(ops.reshape(wins, shape), points, best),
        ops.where(wins, margin, best_margin),
    )


def _checked(model: keras.Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    shape = getattr(model, "output_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 2):
        raise ValueError(
            "Attacks need a model with one output of shape (batch, classes). "
            f"Received: output shape {shape}."
        )
    if x.shape[0] == 0:
        raise ValueError(f"`x` is empty. Received: x of shape {tuple(x.shape)}.")
    if len(y.shape) != 1 or y.shape[0] != x.shape[0] or not keras.backend.is_int_dtype(y.dtype):
        kind = keras.backend.standardize_dtype(y.dtype)
        raise ValueError(
            f"`y` must hold one integer label per input, shape ({x.shape[0]},). "
            f"Received: {kind} of shape {tuple(y.shape)}."
        )
    labels = ops.convert_to_numpy(y)
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(
            f"`y` must lie in [0, {shape[1]}), the model's classes. "
            f"Received: labels from {labels.min()} to {labels.max()}."
        )
    return x, ops.cast(y, "int32")
