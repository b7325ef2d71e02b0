"""The settings of objectives: the region and its growth, weights of terms, and validation."""

from __future__ import annotations

import math
import warnings
from typing import Any, TypedDict

import keras
import numpy as np
from keras import ops

from tfcert.bounds import methods
from tfcert.objectives.aims import Aim, aim_of
from tfcert.objectives.arguments import user_stacklevel
from tfcert.regions import LpBall, Region
from tfcert.regions.checking import check_region
from tfcert.regions.product import Product, as_region
from tfcert.schedules import Clock, Constant, Linear, Schedule, get
from tfcert.types import Tensor

__all__ = ["Radius", "Ramped", "Settings", "Weight", "checked_method", "ramp_of"]


class Radius(TypedDict, total=False):
    """Keyword arguments of objectives that name their ramp themselves."""

    train_eps: Any
    validation_method: Any
    property: Any
    natural_loss: Any
    property_scale: float


class Ramped(Radius, total=False):
    """Keyword arguments of every objective with a growing radius."""

    ramp: Any


class Settings:
    """The settings that every objective has; an objective holds one such object.

    Args:
        region: The target region: ``verified_accuracy`` is measured there. None for none. A
            dictionary or a list with a region, or "fixed", for each of several inputs.
        train_eps: The radius to train at; default: that of the region. For several inputs a
            dictionary or a list of radii, as ``Product.with_eps`` takes them.
        ramp: The fraction of the training radius: a schedule from 0 to 1, a number, or a pair
            ``(begin, end)`` of epochs for a straight line from 0 to 1.
        validation_method: How ``verified_accuracy`` is bounded; None: as the objective says.
        property: What has to hold for the outputs, of ``tfcert.properties``; None: that the class
            of each input is its label.
        natural_loss: With a property: the loss of the model's own outputs against the targets.
        property_scale: What the margins of the property are divided by in losses.

    Attributes:
        aim: What the margins are about.
        train_region: The region at the training radius.
        weights: The weights of terms, by the names of their arguments.
    """

    def __init__(
        self,
        region: Any = None,
        train_eps: Any = None,
        ramp: Any = 1.0,
        validation_method: Any = None,
        property: Any = None,
        natural_loss: Any = None,
        property_scale: float = 1.0,
    ):
        region = as_region(region)
        if region is not None:
            check_region(region)
        if train_eps is not None and not isinstance(region, LpBall | Product):
            raise ValueError(
                "`train_eps` needs a region with an eps, tfcert.LpBall. "
                f"Received: region={region!r}."
            )
        if region is None and property is not None:
            raise ValueError(
                f"`property` is asked on a region: pass one. Received: property={property!r}."
            )
        self.region: Region | None = region
        self.train_eps = train_eps
        self.aim: Aim = aim_of(property, natural_loss, property_scale)
        self.ramp = ramp_of("ramp", ramp)
        self.validation_method = checked_method(validation_method)
        self.train_region: Region | None = region
        if region is not None and train_eps is not None:
            self.train_region = region.with_eps(train_eps)
        self.weights: dict[str, Weight] = {}

    @property
    def largest_eps(self) -> float | None:
        """The training radius, the largest of several; None for a region without a radius."""
        if not isinstance(self.train_region, LpBall):
            return None
        return float(np.max(self.train_region.eps))

    def region_at(self, clock: Clock) -> Region:
        """The region of a step: in validation the target."""
        assert self.region is not None and self.train_region is not None
        return self.region if clock.final else self.train_region.scaled(self.ramp(clock))

    def add_weights(self, most: float = math.inf, **values: Any) -> None:
        """Adds arguments that are weights of terms, from 0 to ``most``."""
        for name, value in values.items():
            if isinstance(value, (tuple, list)) and self.region is None:
                raise ValueError(
                    f"`{name}` must be a number or a schedule. A pair follows a radius, and this "
                    f"objective has no radius. Received: {name}={value!r}."
                )
            self.weights[name] = Weight(name, value, most)

    def weight(self, name: str, clock: Clock) -> Tensor:
        """Returns a weight at this step, a float32 scalar."""
        return self.weights[name].at(self.ramp(clock), clock)

    def weight_schedules(self) -> dict[str, Schedule]:
        """The weights that are schedules of their own, numbers among them."""
        known = {name: weight.schedule for name, weight in self.weights.items()}
        return {name: schedule for name, schedule in known.items() if schedule is not None}

    def get_config(self) -> dict[str, Any]:
        """The settings and the weights, as a configuration holds them."""
        serialize = keras.saving.serialize_keras_object
        return {
            "region": serialize(self.region),
            "train_eps": self.train_eps,
            "ramp": serialize(self.ramp),
            "validation_method": serialize(self.validation_method),
            **self.aim.get_config(),
            **self.weights_config(),
        }

    def weights_config(self) -> dict[str, Any]:
        """The weights alone, as a configuration holds them."""
        return {name: weight.config for name, weight in self.weights.items()}


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
            raise ValueError(f"`{name}` must {wanted} at all times. Received: {name}={value!r}.")

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


def checked_method(method: Any) -> Any:
    """A name, an object of ``tfcert.methods`` or None, that validation can run."""
    if method is not None and methods.get(method).float_safe:
        raise ValueError(
            "`validation_method` must not be float-safe, because training bounds are in float32. "
            f"Certify with float_safe after training. Received: validation_method={method!r}."
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
            f"`{name}` ends at {ramp.last:g}: training never reaches the full radius. To train at "
            "a smaller radius, set `train_eps` and let the ramp end at 1.",
            stacklevel=user_stacklevel(),
        )
    return ramp
