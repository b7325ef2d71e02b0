"""Training for randomized smoothing: the model has to be right, and to agree, under noise."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.objectives.arguments import as_choice, as_count, as_positive
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.noisy import NoisyObjective
from tfcert.regions import LpBall
from tfcert.schedules import Clock, Linear, Schedule
from tfcert.types import Tensor

__all__ = [
    "MACER",
    "ConsistencySmoothing",
    "GaussianSmoothing",
    "SmoothAdv",
    "StabilitySmoothing",
]

_TINY = 1e-20


@keras.saving.register_keras_serializable(package="tfcert")
class GaussianSmoothing(NoisyObjective):
    """Cross-entropy of noisy copies, with Gaussian or another noise.

    Args:
        sigma: Standard deviation of the noise, in the units of the input. None if you pass `noise`.
        copies: m, the number of noisy copies of each input. The papers cut a batch of 256 into m
            chunks of 256 / m inputs, one chunk per step: pass ``batch_size=256 // m`` to ``fit``.
        noise: Another noise of ``tfcert.smoothing``, in place of `sigma`.

    Reference: Cohen et al., 2019, https://arxiv.org/abs/1902.02918, section 3.3
    """

    term_names = ("noisy",)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"noisy": self.noisy_loss(batch)}


@keras.saving.register_keras_serializable(package="tfcert")
class StabilitySmoothing(NoisyObjective):
    """Cross-entropy of the clean input, plus the cross-entropy of noisy and clean outputs.

    ``CE(f(x), y) + lambda mean_i H(softmax f(x), softmax f(x + d_i))``, with H the cross-entropy of
    two distributions and gradients through both. If lambda is large and the noise hides the class,
    the second term wins, and the model gives all inputs one class.

    Args:
        sigma: Standard deviation of the noise, in the units of the input. None if you pass `noise`.
        weight: lambda, a number or a schedule.
        copies: m, the number of noisy copies of each input. The papers cut a batch of 256 into m
            chunks of 256 / m inputs, one chunk per step: pass ``batch_size=256 // m`` to ``fit``.
        noise: Another noise of ``tfcert.smoothing``, in place of `sigma`.

    Reference: Li et al., 2019, https://arxiv.org/abs/1809.03113, in the form that Jeong and Shin,
    2020, https://arxiv.org/abs/2006.04062, compare with.
    """

    term_names = ("natural", "stability")

    def __init__(self, sigma: float | None, weight: Any = 2.0, copies: int = 1, noise: Any = None):
        super().__init__(sigma, copies, noise)
        self.add_weights(weight=weight)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        clean = batch.model(batch.x, training=batch.training)
        p = ops.softmax(clean)[:, None]
        stability = -ops.sum(p * ops.log_softmax(batch.logits), axis=-1)
        return {
            "natural": cross_entropy(batch.y, clean),
            "stability": self.weight_of("weight", batch) * ops.mean(stability, axis=1),
        }


@keras.saving.register_keras_serializable(package="tfcert")
class SmoothAdv(NoisyObjective):
    """Cross-entropy of noisy copies of an input that an attack on the smoothed model found.

    The attack ascends ``-log`` of the copies' mean softmax within the l2 ball, with the same noise
    as the loss. Its steps of ``2 r / T`` follow the normalised gradient, and are clipped to valid
    pixels. During the attack the model is in inference mode, with moving statistics. Any layer is
    allowed.

    Args:
        sigma: Standard deviation of the noise, in the units of the input. None if you pass `noise`.
        radius: r, the radius of the l2 ball.
        steps: T, the steps of the attack.
        copies: m, the number of noisy copies of each input. The papers cut a batch of 256 into m
            chunks of 256 / m inputs, one chunk per step: pass ``batch_size=256 // m`` to ``fit``.
        warmup: Epochs over which the radius grows: ``min(r, (epoch + 1) r / warmup)``.
        clip: Limits of valid inputs, (low, high), each one number or one number per channel. None:
            no limits. An input outside the limits raises an error.
        noise: Another noise of ``tfcert.smoothing``, in place of `sigma`.

    Reference: Salman et al., 2019, https://arxiv.org/abs/1906.04584, section 2.2.
    """

    term_names: tuple[str, ...] = ("noisy",)

    def __init__(
        self,
        sigma: float | None,
        radius: float = 255 / 256,
        steps: int = 10,
        copies: int = 4,
        warmup: int = 10,
        clip: Any = (0.0, 1.0),
        noise: Any = None,
    ):
        super().__init__(sigma, copies, noise)
        self.radius, self.steps = as_positive("radius", radius), as_count("steps", steps)
        self.ball = LpBall(1.0, norm=2, clip=clip)
        self.warmup = float(warmup)
        if not 0.0 <= self.warmup < math.inf:
            raise ValueError(f"`warmup` must be at least 0. Received: warmup={warmup!r}.")

    def first_pass(self, batch: Batch) -> Tensor:
        noise = self._noise(batch)
        return self._scores(batch, self._attacked(batch, noise), batch.training, noise)

    def check_inputs(self, x: Any) -> None:
        self.ball.validate(x)

    def _radius_at(self, clock: Clock) -> Tensor:
        full = ops.convert_to_tensor(self.radius, dtype="float32")
        if clock.final or self.warmup == 0:
            return full
        epoch = ops.floor(clock.time("epochs"))
        return ops.minimum(full, (epoch + 1.0) * self.radius / self.warmup)

    def _attacked(self, batch: Batch, noise: Tensor) -> Tensor:
        radius = self._radius_at(batch.clock)
        region = self.ball.scaled(radius)
        axes = tuple(range(1, len(batch.x.shape)))

        def loss(variables: list[Tensor]) -> tuple[Tensor, Tensor]:
            scores = self._scores(batch, variables[0], False, noise)
            mean = ops.mean(ops.softmax(scores), axis=1)
            right = ops.take_along_axis(mean, batch.y[:, None], axis=1)
            total = -ops.sum(ops.log(ops.maximum(right, _TINY)))
            return total, total

        points = batch.x
        for _ in range(self.steps):
            _, _, (gradient,) = backend.value_and_gradients(loss, [points])
            length = ops.sqrt(ops.sum(gradient**2, axis=axes, keepdims=True))
            move = (2.0 * radius / self.steps) * gradient / (length + 1e-8)
            points = region.project(points + move, batch.x)
        return ops.stop_gradient(points)

    def schedules(self) -> dict[str, Schedule]:
        warmup = {"warmup": Linear(0.0, 1.0, 0.0, self.warmup)} if self.warmup else {}
        return {**super().schedules(), **warmup}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        values = {name: weight(clock) for name, weight in NoisyObjective.schedules(self).items()}
        return {**values, "attack_radius": self._radius_at(clock)}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"noisy": self.noisy_loss(batch)}

    def get_config(self) -> dict[str, Any]:
        names = ("radius", "steps", "warmup")
        clip = self.ball.get_config()["clip"]
        values = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **values, "clip": clip}


@keras.saving.register_keras_serializable(package="tfcert")
class MACER(NoisyObjective):
    """Adds the smoothed model's cross-entropy and a hinge on its certified radius.

    With p the mean softmax of the copies and q that of ``beta`` times their scores:
    ``-log p_y + lambda sigma/2 max(0, gamma - xi)`` with
    ``xi = Phi^-1(q_y) - Phi^-1(max of q_j, j != y)``; the second term counts only if y has the
    largest q and ``|xi| <= gamma``.

    Args:
        sigma: Standard deviation of the noise, in the units of the input.
        weight: lambda: a number or a schedule; the paper applies it after the first drop of the
            learning rate on MNIST.
        gamma: The largest difference xi that the hinge still raises.
        beta: The inverse temperature of q.
        copies: m, the number of noisy copies of each input. The papers cut a batch of 256 into m
            chunks of 256 / m inputs, one chunk per step: pass ``batch_size=256 // m`` to ``fit``.

    Reference: Zhai et al., 2020, https://arxiv.org/abs/2001.02378, algorithm 1.
    """

    term_names = ("noisy", "radius")

    def __init__(
        self,
        sigma: float,
        weight: Any = 16.0,
        gamma: float = 8.0,
        beta: float = 16.0,
        copies: int = 16,
    ):
        super().__init__(sigma, copies)
        self.add_weights(weight=weight)
        self.gamma, self.beta = as_positive("gamma", gamma), as_positive("beta", beta)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        hot = ops.one_hot(batch.y, batch.logits.shape[-1], dtype=batch.logits.dtype)
        mean = ops.mean(ops.softmax(batch.logits), axis=1)
        noisy = -ops.log(ops.maximum(ops.sum(mean * hot, axis=-1), _TINY))
        sharp = ops.mean(ops.softmax(self.beta * batch.logits), axis=1)
        right = ops.sum(sharp * hot, axis=-1)
        other = ops.max(sharp - 2.0 * hot, axis=-1)
        known = (right > other) & (right < 1.0) & (other > 0.0)
        # Away from 0 and 1 also where the term is left out, whose gradient would be NaN.
        margin = _quantile(ops.where(known, right, 0.75)) - _quantile(ops.where(known, other, 0.25))
        active = ops.logical_and(known, ops.abs(margin) <= self.gamma)
        hinge = ops.where(active, self.gamma - margin, ops.zeros_like(margin))
        factor = self.weight_of("weight", batch) * (self.noise.scale / 2.0)
        return {"noisy": noisy, "radius": factor * hinge}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "beta": self.beta}


def _quantile(p: Tensor) -> Tensor:
    """The quantile function of the standard normal distribution."""
    return math.sqrt(2.0) * ops.erfinv(2.0 * p - 1.0)


_FORMS = ("default", "cross_entropy", "kl", "squared")


@keras.saving.register_keras_serializable(package="tfcert")
class ConsistencySmoothing(SmoothAdv):
    """Cross-entropy of noisy copies, plus a term that makes the copies agree.

    With F_i the softmax of copy i and F their mean:
    ``mean_i CE(f(x + d_i), y) + lambda mean_i KL(F || F_i) + eta H(F)``; gradients flow through
    every term. With a radius, the copies surround an attacked input, as in ``SmoothAdv``.

    Args:
        sigma: Standard deviation of the noise, in the units of the input. None if you pass `noise`.
        weight: lambda, a number or a schedule.
        eta: Weight of the entropy, a number or a schedule.
        copies: m, the number of noisy copies of each input. The papers cut a batch of 256 into m
            chunks of 256 / m inputs, one chunk per step: pass ``batch_size=256 // m`` to ``fit``.
        form: "default"; "cross_entropy" for ``lambda mean_i H(F, F_i)`` (both weights lambda);
            "kl" without the entropy; "squared" for ``lambda |F_1 - F_2|^2`` of the first two.
        radius: Radius of the attack's l2 ball; 0 for no attack.
        steps: Steps of the attack.
        warmup: Epochs over which the attack's radius grows.
        clip: Limits of attacked inputs, (low, high), each one number or one number per channel.
            None: no limits. An input outside the limits raises an error.
        noise: Another noise of ``tfcert.smoothing``, in place of `sigma`.

    Example:

    >>> objective = tfcert.objectives.ConsistencySmoothing(sigma=0.5, weight=5.0)
    >>> trainer = tfcert.CertifiedTrainer(model, objective)
    >>> trainer.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-3))
    >>> trainer.fit(x, y, batch_size=256 // objective.copies, epochs=90)

    Reference: Jeong and Shin, 2020, https://arxiv.org/abs/2006.04062, equations 7 to 9.
    """

    term_names = ("noisy", "consistency")

    def __init__(
        self,
        sigma: float | None,
        weight: Any = 10.0,
        eta: Any = 0.5,
        copies: int = 2,
        form: str = "default",
        radius: float = 0.0,
        steps: int = 10,
        warmup: int = 10,
        clip: Any = (0.0, 1.0),
        noise: Any = None,
    ):
        if not 0.0 <= radius < math.inf:
            raise ValueError(f"`radius` must be at least 0 and finite. Received: radius={radius}.")
        super().__init__(sigma, radius or 1.0, steps, copies, warmup, clip, noise)
        self.add_weights(weight=weight, eta=eta)
        self.radius, self.form = float(radius), form
        as_choice("form", form, _FORMS)
        if self.copies < 2:
            raise ValueError(
                "`copies` must be at least 2, so that copies can be compared. Received: "
                f"copies={copies}."
            )

    @property
    def _base(self) -> Any:
        """What does the first pass: with an attack, or without."""
        return super() if self.radius else super(SmoothAdv, self)

    def first_pass(self, batch: Batch) -> Tensor:
        return self._base.first_pass(batch)

    def check_inputs(self, x: Any) -> None:
        self._base.check_inputs(x)

    def schedules(self) -> dict[str, Schedule]:
        return self._base.schedules()

    def current(self, clock: Clock) -> dict[str, Tensor]:
        return self._base.current(clock)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"noisy": self.noisy_loss(batch), "consistency": self._consistency(batch)}

    def _consistency(self, batch: Batch) -> Tensor:
        log_f, f = ops.log_softmax(batch.logits), ops.softmax(batch.logits)
        weight = self.weight_of("weight", batch)
        mean = ops.mean(f, axis=1, keepdims=True)
        log_mean = ops.log(ops.maximum(mean, _TINY))
        if self.form == "squared":
            return weight * ops.sum((f[:, 0] - f[:, 1]) ** 2, axis=-1)
        entropy = -ops.sum(mean * log_mean, axis=-1)[:, 0]
        kl = ops.mean(ops.sum(mean * (log_mean - log_f), axis=-1), axis=1)
        eta = {"default": self.weight_of("eta", batch), "cross_entropy": weight, "kl": 0.0}[
            self.form
        ]
        return weight * kl + eta * entropy

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "radius": self.radius, "form": self.form}
