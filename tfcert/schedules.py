"""Numbers that change while a network trains: radii, weights of loss terms, exponents.

A schedule is a function of the trainer's clock, so that a compiled step follows it, and a small
serialisable object, so that a saved trainer goes on with it. Times are in epochs unless
``unit="steps"``; a schedule says nothing about what its number is used for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcert.types import Tensor

__all__ = [
    "Clock",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "Piecewise",
    "Schedule",
    "Smoothed",
    "get",
]

_UNITS = ("epochs", "steps")


@dataclasses.dataclass(frozen=True)
class Clock:
    """The time of a training run, in steps and epochs.

    Args:
        step: Steps taken so far: a number or a scalar tensor.
        steps_per_epoch: Steps of one epoch: a number or a scalar tensor.
        final: Whether schedules return their last value at any step, as in validation.
    """

    step: int | Tensor = 0
    steps_per_epoch: int | Tensor = 1
    final: bool = False

    def time(self, unit: str) -> Tensor:
        """The time in epochs (with fractions) or steps, float32."""
        step = ops.cast(self.step, "float32")
        if unit == "steps":
            return step
        return step / ops.cast(self.steps_per_epoch, "float32")


class Schedule:
    """Base class of schedules: a number as a function of the clock.

    A subclass defines ``value_at(time)``, ``last``, the time ``end`` after which the value stays
    constant, and its arguments in ``get_config``.
    """

    unit: str = "epochs"
    end: float = 0.0

    def __call__(self, clock: Clock) -> Tensor:
        """The value, a float32 scalar."""
        if clock.final:
            return ops.convert_to_tensor(self.last, dtype="float32")
        return self.value_at(clock.time(self.unit))

    def value_at(self, time: Tensor) -> Tensor:
        """Returns the value at a time in the schedule's unit."""
        raise NotImplementedError

    @property
    def last(self) -> float:
        """The value after the end."""
        raise NotImplementedError

    @property
    def reached(self) -> list[float]:
        """The values between which all other values lie, by default the first and the last."""
        start = self.value_at(ops.zeros((), dtype="float32"))
        return [float(ops.convert_to_numpy(start)), self.last]

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.get_config())))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="tfcert")
class Constant(Schedule):
    """A schedule with the same value at all times.

    Args:
        value: The value.
    """

    def __init__(self, value: float):
        self.value = _number("value", value)

    def value_at(self, time: Tensor) -> Tensor:
        return ops.full_like(time, self.value)

    @property
    def last(self) -> float:
        return self.value

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


class _Ramp(Schedule):
    """From ``first`` to ``last`` between two times, constant before and after.

    Args:
        first: Value up to ``begin``.
        last: Value from ``end`` on.
        begin: The time when the change starts.
        end: The time when the change is complete.
        unit: "epochs" or "steps".
    """

    def __init__(self, first: float, last: float, begin: float, end: float, unit: str = "epochs"):
        self.first, self._last = _number("first", first), _number("last", last)
        self.begin, self.end = _number("begin", begin), _number("end", end)
        self.unit = _unit(unit)
        if not 0 <= self.begin <= self.end:
            raise ValueError(
                "`begin` must be at least 0 and not after `end`. "
                f"Received: begin={begin}, end={end}."
            )

    def value_at(self, time: Tensor) -> Tensor:
        span = self.end - self.begin
        if span == 0:  # A jump.
            progress = ops.cast(time >= self.end, "float32")
        else:
            progress = ops.clip((time - self.begin) / span, 0.0, 1.0)
        # The ends exactly: a schedule that has arrived is at its target, not an ulp beside it.
        value = self.between(progress)
        value = ops.where(progress >= 1.0, ops.full_like(value, self._last), value)
        return ops.where(progress <= 0.0, ops.full_like(value, self.first), value)

    def between(self, progress: Tensor) -> Tensor:
        """The value at a progress in [0, 1]."""
        raise NotImplementedError

    @property
    def last(self) -> float:
        return self._last

    def get_config(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "last": self.last,
            "begin": self.begin,
            "end": self.end,
            "unit": self.unit,
        }


@keras.saving.register_keras_serializable(package="tfcert")
class Linear(_Ramp):
    """A schedule along a straight line from ``first`` at ``begin`` to ``last`` at ``end``.

    Args:
        first: Value up to ``begin``.
        last: Value from ``end`` on.
        begin: The time when the change starts.
        end: The time when the change is complete.
        unit: "epochs" or "steps".

    Example:

    >>> from tfcert import schedules
    >>> ramp = schedules.Linear(0.0, 0.1, begin=1, end=11)
    >>> round(float(ramp(schedules.Clock(step=600, steps_per_epoch=100))), 6)
    0.05
    """

    def between(self, progress: Tensor) -> Tensor:
        return self.first + (self._last - self.first) * progress


@keras.saving.register_keras_serializable(package="tfcert")
class Smoothed(_Ramp):
    """A schedule that grows with the fourth power of time at first, and then linearly.

    With ``tm = begin + middle (end - begin)`` the value is ``first + a (t - begin)^4`` up to tm and
    a straight line from there, with ``a`` such that value and slope are continuous:
    ``a = (last - first) / (4 (end - tm) (tm - begin)^3 + (tm - begin)^4)``.

    Args:
        first: Value up to ``begin``.
        last: Value from ``end`` on.
        begin: The time when the change starts.
        end: The time when the change is complete.
        unit: "epochs" or "steps".
        middle: The share of the time from ``begin`` to ``end`` after which the growth is linear.

    Reference: the ramp of the CROWN-IBP and AdvIBP releases, https://arxiv.org/abs/1906.06316
    """

    def __init__(
        self,
        first: float,
        last: float,
        begin: float,
        end: float,
        unit: str = "epochs",
        middle: float = 0.25,
    ):
        super().__init__(first, last, begin, end, unit)
        self.middle = _number("middle", middle)
        if not 0 < self.middle <= 1:
            raise ValueError(f"`middle` must lie in (0, 1]. Received: middle={middle}.")

    def between(self, progress: Tensor) -> Tensor:
        m = self.middle
        a = 1.0 / (4.0 * (1.0 - m) * m**3 + m**4)
        early = a * progress**4
        late = a * m**4 + 4.0 * a * m**3 * (progress - m)
        return self.first + (self._last - self.first) * ops.where(progress < m, early, late)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "middle": self.middle}


@keras.saving.register_keras_serializable(package="tfcert")
class Exponential(_Ramp):
    """A schedule with equal factors in equal times: ``first * (last / first) ^ progress``.

    Args:
        first: Value up to ``begin``.
        last: Value from ``end`` on.
        begin: The time when the change starts.
        end: The time when the change is complete.
        unit: "epochs" or "steps".
    """

    def __init__(self, first: float, last: float, begin: float, end: float, unit: str = "epochs"):
        super().__init__(first, last, begin, end, unit)
        if not (self.first > 0 and self._last > 0):
            raise ValueError(
                f"`first` and `last` must be > 0. Received: first={first}, last={last}."
            )

    def between(self, progress: Tensor) -> Tensor:
        return self.first * ops.exp(math.log(self._last / self.first) * progress)


@keras.saving.register_keras_serializable(package="tfcert")
class Cosine(_Ramp):
    """A schedule along half a cosine from ``first`` to ``last``, flat at both ends.

    Args:
        first: Value up to ``begin``.
        last: Value from ``end`` on.
        begin: The time when the change starts.
        end: The time when the change is complete.
        unit: "epochs" or "steps".
    """

    def between(self, progress: Tensor) -> Tensor:
        return self._last + 0.5 * (self.first - self._last) * (1.0 + ops.cos(math.pi * progress))


@keras.saving.register_keras_serializable(package="tfcert")
class Piecewise(Schedule):
    """A schedule of constant pieces: ``values[i]`` before ``boundaries[i]``, the last value after.

    Args:
        boundaries: Increasing times.
        values: The values, one more than the number of boundaries.
        unit: "epochs" or "steps".
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], unit: str = "epochs"):
        self.boundaries = [_number("boundaries", value) for value in boundaries]
        self.values = [_number("values", value) for value in values]
        self.unit = _unit(unit)
        rising = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        if len(self.values) != len(self.boundaries) + 1 or not rising:
            raise ValueError(
                "`boundaries` must increase, and `values` have one entry more. Received: "
                f"boundaries={list(boundaries)}, values={list(values)}."
            )
        self.end = self.boundaries[-1] if self.boundaries else 0.0

    def value_at(self, time: Tensor) -> Tensor:
        value = ops.full_like(time, self.values[0])
        for boundary, following in zip(self.boundaries, self.values[1:], strict=True):
            value = ops.where(time >= boundary, ops.full_like(time, following), value)
        return value

    @property
    def last(self) -> float:
        return self.values[-1]

    @property
    def reached(self) -> list[float]:
        return list(self.values)

    def get_config(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries, "values": self.values, "unit": self.unit}


def get(value: Schedule | float | dict[str, Any]) -> Schedule:
    """Returns a schedule unchanged, and a number as a constant schedule."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):  # From a configuration.
        value = keras.saving.deserialize_keras_object(value)
        if isinstance(value, Schedule):
            return value
    try:
        return Constant(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(
            f"A number or a schedule of tfcert.schedules is needed. Received: {value!r}."
        ) from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}.") from None
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value!r}.")
    return number


def _unit(unit: str) -> str:
    if unit not in _UNITS:
        raise ValueError(f"`unit` must be one of {_UNITS}. Received: unit={unit!r}.")
    return unit
