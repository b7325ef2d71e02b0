"""What every training objective shares: its region, its ramp, and the terms it answers with."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from tfcert.bounds import lipschitz, methods
from tfcert.bounds.margins import Margins
from tfcert.bounds.statistics import clean_moments, node_values
from tfcert.network import network_of
from tfcert.regions import LpBall, Region
from tfcert.regions.seeds import Seeds
from tfcert.rules.primitives import Node
from tfcert.schedules import Clock, Constant, Linear, Schedule, get
from tfcert.types import Tensor

__all__ = [
    "Batch",
    "Objective",
    "RobustObjective",
    "Weight",
    "checked_method",
    "mean_of",
    "ramp_of",
]


@dataclasses.dataclass
class Batch:
    """What an objective sees of one step.

    Attributes:
        model: The user's model.
        x: Inputs.
        y: Integer labels, ``(batch,)``.
        logits: What the objective's ``first_pass`` gave: by default ``model(x)``, in training mode
            while training.
        clock: Where training stands; ``clock.final`` in validation.
        training: Whether this step trains.
        seed: Integer tensor of shape ``(2,)``, made of the trainer's seed and the step.
        sample_weight: Weights, ``(batch,)``, or None.
        known: Which labels exist, ``(batch,)``; ``y`` is 0 for the others.
        notes: What ``terms`` leaves for ``combine``, and either for the History.
    """

    model: keras.Model
    x: Tensor
    y: Tensor
    logits: Tensor
    clock: Clock
    training: bool
    seed: Tensor
    sample_weight: Tensor | None = None
    known: Tensor | bool = True
    notes: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the samples, with their weights as Keras's losses take them."""
        if len(values.shape) == 0:
            return values
        if self.sample_weight is not None:
            values = values * ops.cast(self.sample_weight, values.dtype)
        return mean_of(values)

    @functools.cached_property
    def moments(self) -> dict[Node, tuple[Tensor, Tensor]]:
        """Statistics of the clean batch, as all bounds and inner passes of a training step use."""
        return clean_moments(self.model, self.x) if self.training else {}

    def random(self, index: int = 0) -> keras.random.SeedGenerator:
        """Seeds for ``keras.random`` that depend on the trainer's seed and the step alone."""
        return Seeds(self.seed)[index]

    def forward(self, x: Tensor) -> Tensor:
        """The scores at other inputs than the clean ones, in inference mode.

        BatchNormalization is affine here, with the statistics of the clean batch while training.
        """
        if not self.moments:
            return self.model(x, training=False)
        network = network_of(self.model)
        return node_values(network, {network.input: x}, self.moments)[network.outputs]

    def attacked(self, attack: Any) -> Tensor:
        """Points where an attack ends, in inference mode; no gradient flows through them."""
        x = attack.last_point(lambda t: self.model(t, training=False), self.x, self.y, self.seed)
        return ops.stop_gradient(x)


def mean_of(values: Tensor) -> Tensor:
    """The mean, and 0 of nothing: of several devices some may have no part of a small batch."""
    size = ops.cast(ops.maximum(ops.size(values), 1), values.dtype)
    return ops.sum(values) / size


class Objective:
    """A training objective: named loss terms of a batch, and schedules that shape them.

    A subclass implements ``terms`` and ``term_names`` and lists its arguments in ``get_config``.
    The trainer reduces each term by ``batch.mean``, logs it under its name and minimises the sum.

    Attributes:
        region: The target region, of ``verified_accuracy`` in validation; None without one.
        separate: Whether the gradient of each term is wanted on its own, for ``combine``.
    """

    separate: ClassVar[bool] = False
    # What ``terms`` and ``combine`` leave in ``batch.notes`` for the History, while training.
    logged_notes: ClassVar[tuple[str, ...]] = ()
    # Under which name the accuracy of the first pass is logged.
    accuracy_name: ClassVar[str] = "accuracy"

    def __init__(self, region: Region | None = None):
        if region is not None and not isinstance(region, Region):
            raise ValueError(
                f"`region` must be a tfcert.LpBall or tfcert.Box. Received: region={region!r}."
            )
        self.region = region

    @property
    def bound(self) -> str | None:
        """The kind of bounds that the trained model has to be certified with; None for none."""
        return None

    def build(self, trainer: Any) -> None:
        """Called once by the trainer, before training; may add variables to it."""

    def check_inputs(self, x: Any) -> None:
        """Raises a ValueError where inputs, concrete arrays, cannot be trained on."""
        if self.region is not None:
            self.region.validate(x)
        elif not np.isfinite(x).all():
            raise ValueError("`x` must be finite. Received: NaN or infinite entries.")

    def first_pass(self, batch: Batch) -> Tensor:
        """The scores that a step begins with: the clean pass, in training mode while training."""
        return batch.model(batch.x, training=batch.training)

    def predictions(self, batch: Batch) -> Tensor:
        """What metrics of ``compile`` see, ``(batch, classes)``."""
        return batch.logits

    def correct(self, batch: Batch) -> Tensor:
        """Which samples the first pass classifies correctly, ``(batch,)``; for the accuracy."""
        classes = ops.cast(ops.argmax(batch.logits, axis=-1), "int32")
        return ops.cast(ops.equal(classes, batch.y), "float32")

    # The names of the loss terms, in their order; a property where they depend on arguments.
    term_names: Any = ()

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms by their names, each ``(batch,)`` or a scalar."""
        raise NotImplementedError

    def schedules(self) -> dict[str, Schedule]:
        """The schedules by the names under which their values are logged."""
        return {}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        """What the History shows of the schedules at this step."""
        return {name: schedule(clock) for name, schedule in self.schedules().items()}

    def combine(
        self, terms: dict[str, Tensor], gradients: list[list[Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Makes one gradient of those of the terms; only where ``separate`` is set.

        Returns:
            The terms as logged, which add up to the loss, and the gradient.
        """
        raise NotImplementedError

    def margins(self, model: keras.Model, x: Tensor, y: Tensor) -> Tensor | None:
        """Margin bounds at the target region, for ``verified_accuracy``; None without a region."""
        return None

    def get_config(self) -> dict[str, Any]:
        region = self.region
        if region is None:
            return {}
        return {"region": keras.saving.serialize_keras_object(region)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Objective:
        plain = {
            name: keras.saving.deserialize_keras_object(value) if _is_object(value) else value
            for name, value in config.items()
        }
        return cls(**plain)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self.region!r})"


class Weight:
    """The weight of a term: a number, a schedule, or a pair that follows the radius.

    Args:
        name: For messages.
        value: What the user gave, at least 0; a pair is (at radius 0, at full radius).
        most: The largest value that makes sense: 1 for a share.
    """

    def __init__(self, name: str, value: Any, most: float = math.inf):
        self.schedule: Schedule | None = None
        if isinstance(value, (tuple, list)):
            if len(value) != 2:
                raise ValueError(
                    f"`{name}` must be a number, a schedule or a pair (at radius 0, at full "
                    f"radius). Received: {name}={value!r}."
                )
            self.first, self.last = float(value[0]), float(value[1])
        else:
            self.schedule = get(value)
            self.first = self.last = self.schedule.last
        reached = [self.first, self.last] if self.schedule is None else self.schedule.reached
        if not all(0.0 <= number <= most for number in reached):
            wanted = "be at least 0" if most == math.inf else f"lie in [0, {most:g}]"
            raise ValueError(f"`{name}` must {wanted} all the time. Received: {name}={value!r}.")

    def at(self, ramp: Tensor, clock: Clock) -> Tensor:
        """The weight at a fraction of the radius, a float32 scalar."""
        if self.schedule is not None:
            return self.schedule(clock)
        return ops.cast(self.first + (self.last - self.first) * ramp, "float32")

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 all the time, so that the term need not be computed."""
        if self.schedule is not None:
            return self.schedule == Constant(0.0)
        return self.first == self.last == 0.0

    @property
    def config(self) -> Any:
        """The weight as a configuration holds it."""
        if self.schedule is None:
            return [self.first, self.last]
        return keras.saving.serialize_keras_object(self.schedule)


class RobustObjective(Objective):
    """An objective that trains at a radius which grows from 0.

    Args:
        region: The target region.
        train_eps: The radius to train at, where it differs from the region's. The literature
            trains at a larger radius than it tests at: MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        ramp: A schedule from 0 to 1, the fraction of the training radius, with a warning where it
            ends below 1; default: at full size at once. A pair ``(begin, end)`` of epochs stands
            for a straight line.
        validation_method: How ``verified_accuracy`` is bounded; default: as in training.
    """

    default_method: ClassVar[str] = "ibp"

    def __init__(
        self,
        region: Region,
        *,
        train_eps: float | None = None,
        ramp: Any = 1.0,
        validation_method: Any = None,
    ):
        super().__init__(region)
        if region is None:
            raise ValueError("`region` must be a tfcert.LpBall or tfcert.Box. Received: None.")
        if train_eps is not None and not isinstance(region, LpBall):
            raise ValueError(
                "`train_eps` needs a region with an eps, tfcert.LpBall. "
                f"Received: region={region!r}."
            )
        self.train_eps = train_eps
        self.ramp = ramp_of("ramp", ramp)
        self.validation_method = checked_method(validation_method)
        self.train_region = region if train_eps is None else region.with_eps(train_eps)
        # By the names of the arguments that they come from, which the History shows too.
        self.weights: dict[str, Weight] = {}

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        method = methods.get(self.validation_method or self.default_method)
        if self.region is not None and isinstance(method, methods.Lipschitz):
            lipschitz.factor(trainer.model)  # Raises where a layer declares none.

    @property
    def bound(self) -> str | None:
        return methods.name_of(methods.get(self.default_method))

    def add_weights(self, most: float = math.inf, **values: Any) -> None:
        """Takes arguments that are weights of terms, from 0 to ``most``."""
        for name, value in values.items():
            self.weights[name] = Weight(name, value, most)

    def weight(self, name: str, clock: Clock) -> Tensor:
        """A weight at this step."""
        return self.weights[name].at(self.ramp(clock), clock)

    def schedules(self) -> dict[str, Schedule]:
        known = {name: weight.schedule for name, weight in self.weights.items()}
        return {"ramp": self.ramp, **{k: v for k, v in known.items() if v is not None}}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        ramp, eps = self.ramp(clock), self._largest_eps()
        # A box has no radius: the History shows the fraction of its size.
        values = {"ramp": ramp} if eps is None else {"eps": ramp * eps}
        return values | {name: self.weight(name, clock) for name in self.weights}

    @property
    def target(self) -> Region:
        """The target region, of objectives that have one."""
        assert self.region is not None
        return self.region

    def _largest_eps(self) -> float | None:
        if not isinstance(self.train_region, LpBall):
            return None
        return float(np.max(self.train_region.eps))

    def region_at(self, clock: Clock) -> Region:
        """The region of this step: in validation the target."""
        if clock.final:
            return self.target
        return self.train_region.scaled(self.ramp(clock))

    def bounds(self, batch: Batch, method: Any) -> Margins:
        """Margin bounds of a batch at the region of the step."""
        region = self.region_at(batch.clock)
        return Margins(batch.model, batch.x, batch.y, region, method, batch.moments)

    def margins(self, model: keras.Model, x: Tensor, y: Tensor) -> Tensor:
        method = methods.get(self.validation_method or self.default_method)
        known = Margins(model, x, y, self.target, method)
        margins = known.interval()
        if isinstance(method, methods.Backward):
            margins = ops.maximum(margins, known.backward())
        return margins

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "train_eps": self.train_eps,
            "ramp": keras.saving.serialize_keras_object(self.ramp),
            "validation_method": keras.saving.serialize_keras_object(self.validation_method),
            **{name: weight.config for name, weight in self.weights.items()},
        }


def checked_method(method: Any) -> Any:
    """A name, an object of ``tfcert.methods`` or None, that validation can run."""
    if method is not None and methods.get(method).float_safe:
        raise ValueError(
            "`validation_method` is for training, whose bounds are in float32; certify with "
            f"float_safe afterwards. Received: validation_method={method!r}."
        )
    return method


def ramp_of(name: str, value: Any) -> Schedule:
    """A fraction of a radius that grows to 1: a schedule, a number, or a pair of epochs."""
    ramp = get(Linear(0.0, 1.0, *value) if isinstance(value, (tuple, list)) else value)
    if not all(0.0 <= number <= 1.0 for number in ramp.reached) or ramp.last == 0.0:
        raise ValueError(
            f"`{name}` is a fraction of the training radius: it must lie in [0, 1] and end above "
            f"0. Received: {name}={value!r}."
        )
    if ramp.last < 1.0:
        warnings.warn(
            f"`{name}` ends at {ramp.last:g}: the training radius is never reached. To train at a "
            "smaller one set `train_eps`, which leaves the ramp to end at 1.",
            stacklevel=4,
        )
    return ramp


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value
