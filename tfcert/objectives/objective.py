"""The base classes of training objectives: settings and loss terms."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import keras
import numpy as np
from keras import ops

from tfcert.bounds import methods
from tfcert.bounds.margins import Margins
from tfcert.network import network_of
from tfcert.objectives.aims import Aim
from tfcert.objectives.arguments import in_full, settings_shown
from tfcert.objectives.batch import Batch
from tfcert.objectives.parts import part_of_region
from tfcert.objectives.settings import Ramped, Settings, Weight
from tfcert.regions import Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.schedules import Clock, Schedule
from tfcert.types import Tensor

__all__ = ["Objective", "RobustObjective"]


class Objective:
    """Base class of objectives: named loss terms of a batch, and their schedules.

    A subclass defines ``terms`` and ``term_names``, and returns its arguments from ``get_config``.
    The trainer reduces each term by ``batch.mean``, logs the mean under the term's name and
    minimises the sum.

    Args:
        region: The target region of ``verified_accuracy`` in validation, or None.
        train_eps: The radius for training. Default: the region's radius. For several inputs a
            dictionary or a list of radii, see ``Product.with_eps``.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line.
        validation_method: How ``verified_accuracy`` is bounded; default: as the objective trains.
        property: What has to hold for the outputs on the region, of ``tfcert.properties``. Its
            margins take the place of those between classes, in bounds, attacks and losses. The
            targets of a ``Near`` come with each batch. Default: the class of an input is its label.
        natural_loss: With a property: the loss of the model's own outputs against the targets, a
            name or an object of ``keras.losses``. Default: the property's loss at the clean input.
        property_scale: What the property's margins are divided by in losses: about the size of a
            margin that matters, such as the tolerance.

    Attributes:
        settings: These arguments and the weights of terms, in one object.
        region: The target region.
        separate: Whether ``combine`` needs the gradient of each term separately.
        needs_moments: Whether a training step needs ``batch.moments``, because it evaluates the
            model at other inputs than the clean ones. By default true with a region.
    """

    separate: ClassVar[bool] = False
    # What ``terms`` and ``combine`` leave in ``batch.notes`` for the History, while training.
    logged_notes: ClassVar[tuple[str, ...]] = ()
    # Under which name the accuracy of the first pass is logged.
    accuracy_name: ClassVar[str] = "accuracy"
    # How ``verified_accuracy`` is bounded where `validation_method` is None.
    default_method: ClassVar[Any] = "ibp"

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__.__signature__ = in_full(cls)  # type: ignore[attr-defined]

    def __init__(
        self,
        region: Region | None = None,
        *,
        train_eps: Any = None,
        ramp: Any = 1.0,
        validation_method: Any = None,
        property: Any = None,
        natural_loss: Any = None,
        property_scale: float = 1.0,
    ):
        self.settings = Settings(
            *(region, train_eps, ramp, validation_method),
            *(property, natural_loss, property_scale),
        )

    @property
    def aim(self) -> Aim:
        """The subject of margins: labels, or a property."""
        return self.settings.aim

    @property
    def region(self) -> Region | None:
        """The target region, or None."""
        return self.settings.region

    @property
    def needs_moments(self) -> bool:
        """True if a training step needs the statistics of the clean batch."""
        return self.region is not None

    @property
    def bound(self) -> str | None:
        """The kind of bounds for certifying the trained model, or None."""
        return None

    def build(self, trainer: Any) -> None:
        """Prepares the objective before training; may add variables to the trainer."""
        if self.region is not None:
            method = methods.get(self.settings.validation_method or self.default_method)
            method.check_layers(network_of(trainer.scores))
        if self.needs_all_margins and self.aim.allows_some(trainer.plain.output_shape[1]):
            raise NotImplementedError(
                f"{type(self).__name__} trains properties whose margins must all be positive. Use "
                "another objective, such as IBP, CrownIBP or MTLIBP. "
                f"Received: property={self.settings.aim.asked!r}."
            )
        self.aim.check_terms(self.term_names, self.settings.weights.get("natural_weight"))

    def check_inputs(self, x: Any) -> None:
        """Raises a ValueError if training cannot use these inputs, which are concrete arrays."""
        if self.region is not None:
            self.region.validate(x)
        elif not np.isfinite(x).all():
            raise ValueError("`x` must be finite. Received: NaN or infinite entries.")

    @property
    def needs_all_margins(self) -> bool:
        """True if the loss has no meaning for a property that needs some of its margins."""
        return False

    def first_pass(self, batch: Batch) -> Tensor:
        """The scores that a step begins with: the clean pass, in training mode while training."""
        return self.aim.first_pass(batch)

    def predictions(self, batch: Batch) -> Tensor:
        """Returns what metrics of ``compile`` see, ``(batch, outputs)``."""
        return self.aim.predictions(batch)

    def correct(self, batch: Batch) -> Tensor:
        """Returns which samples the first pass answers rightly, ``(batch,)``; for the accuracy."""
        return ops.cast(self.aim.correct(batch), "float32")

    # The names of the loss terms, in their order; a property where they depend on arguments.
    term_names: Any = ()

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss terms by their names, each ``(batch,)`` or a scalar."""
        raise NotImplementedError

    def add_weights(self, most: float = math.inf, **values: Any) -> None:
        """Declares arguments that are weights of terms, from 0 to ``most``.

        Each is a number, a schedule or, with a region, a pair (at radius 0, at full radius).
        """
        self.settings.add_weights(most, **values)

    def weight(self, name: str, clock: Clock) -> Tensor:
        """Returns a weight at this step, a float32 scalar."""
        return self.settings.weight(name, clock)

    def region_at(self, clock: Clock) -> Region:
        """Returns the region of this step; in validation the target region."""
        return self.settings.region_at(clock)

    def schedules(self) -> dict[str, Schedule]:
        """Returns the schedules by the names of their logged values."""
        return {}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        """Returns the values of the schedules at this step, for the History."""
        return {name: schedule(clock) for name, schedule in self.schedules().items()}

    def combine(
        self, terms: dict[str, Tensor], gradients: list[list[Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Combines the gradients of the terms into one; called only if ``separate`` is set.

        Returns:
            The terms as logged, which add up to the loss, and the gradient.
        """
        raise NotImplementedError

    def margins(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        shift: Tensor | None = None,
        allowed: int = 0,
    ) -> Tensor | None:
        """Margin bounds at the target region, for ``verified_accuracy``; None without a region.

        Args:
            model: Gives the scores.
            x: Inputs.
            y: Labels of the scores.
            shift: As in ``Batch``.
            allowed: As in ``Batch``.
        """
        if self.region is None:
            return None
        method = methods.get(self.settings.validation_method or self.default_method)
        return Margins(model, x, y, self.region, method, shift=shift, allowed=allowed).best()

    def get_config(self) -> dict[str, Any]:
        region = self.region
        if region is None:
            return {}
        return {"region": keras.saving.serialize_keras_object(region)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Objective:
        return cls(**_plain(config))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({settings_shown(type(self), _plain(self.get_config()))})"


class RobustObjective(Objective):
    """Base class of objectives that train at a radius which grows from 0.

    Args:
        region: The target region.
        train_eps: The radius for training. Default: the region's radius. The literature trains at a
            larger radius than it tests: on MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        ramp: A schedule from 0 to 1, the fraction of the training radius, with a warning where it
            ends below 1; default: at full size at once. A pair ``(begin, end)`` of epochs stands
            for a straight line.
        validation_method: How ``verified_accuracy`` is bounded; default: as in training.
        property: What has to hold on the region, in place of labels, see ``Objective``.
        natural_loss: The loss of the model's own outputs, with a property.
        property_scale: What the property's margins are divided by in losses.
    """

    def __init__(self, region: Region, **shared: Unpack[Ramped]):
        if region is None:
            raise ValueError("`region` must be a tfcert.LpBall or tfcert.Box. Received: None.")
        super().__init__(region, **shared)

    @property
    def bound(self) -> str | None:
        return methods.name_of(methods.get(self.default_method))

    @property
    def target(self) -> Region:
        """The target region of the objective."""
        assert self.region is not None
        return self.region

    @property
    def train_region(self) -> Region:
        """The region at the training radius."""
        assert self.settings.train_region is not None
        return self.settings.train_region

    @property
    def train_eps(self) -> Any:
        """The radius for training. Default: the region's radius."""
        return self.settings.train_eps

    @property
    def ramp(self) -> Schedule:
        """The fraction of the training radius."""
        return self.settings.ramp

    @property
    def validation_method(self) -> Any:
        """The bound method behind ``verified_accuracy``; None: the method of training."""
        return self.settings.validation_method

    @property
    def weights(self) -> dict[str, Weight]:
        """The weights of terms, by the names of their arguments."""
        return self.settings.weights

    def schedules(self) -> dict[str, Schedule]:
        return {"ramp": self.ramp, **self.settings.weight_schedules()}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        ramp, eps = self.ramp(clock), self.settings.largest_eps
        # A box has no radius: the History shows the fraction of its size.
        values = {"ramp": ramp} if eps is None else {"eps": ramp * eps}
        return values | {name: self.weight(name, clock) for name in self.weights}

    def bounds(
        self,
        batch: Batch,
        method: Any,
        *,
        around: Tensor | None = None,
        region: Region | None = None,
        known: dict[Node, Interval] | None = None,
    ) -> Margins:
        """Returns margin bounds of a batch at the region of the step, or at a part of it.

        Args:
            batch: The batch.
            method: The method that bounds hidden layers: a name or an object of ``tfcert.methods``.
            around: Points of the region of the step, such as attacked points, which become the
                centres. Default: the inputs.
            region: The region around these points, in place of the region of the step. With either
                argument the result covers the intersection of both regions, which must be boxes
                (norm inf).
            known: Intervals of inner nodes to start from, for bounds over a latent region: the
                result covers all values of these nodes within their intervals. See ``Margins``.
        """
        whole, x = self.region_at(batch.clock), batch.x
        if around is not None or region is not None:
            whole, x = part_of_region(whole, x, region or whole, x if around is None else around)
        return Margins(
            *(batch.model, x, batch.y, whole, method, batch.moments, known),
            *(batch.shift, batch.allowed),
        )

    def get_config(self) -> dict[str, Any]:
        return self.settings.get_config()


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a configuration holds."""
    return {
        name: keras.saving.deserialize_keras_object(value) if _is_object(value) else value
        for name, value in config.items()
    }


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value
