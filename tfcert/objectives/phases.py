"""The phases of AdvIBP: clean, attacked, certified, and both losses together."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.objectives.settings import ramp_of
from tfcert.schedules import Clock, Piecewise, Schedule
from tfcert.types import Tensor

__all__ = ["Phases"]


class Phases:
    """The phases of training: the losses that take part in a step.

    While the certified radius is 0 that is the adversarial loss, on clean inputs until the attack's
    radius grows; while the certified radius grows, the certified loss; then both.

    Args:
        ramp: The certified radius, a schedule that ends at 1.
        attack_ramp: The attack's radius, as objectives take ramps.
        joint_begin: When both losses are joined, not before the ramp ends; None: when it ends.
    """

    def __init__(self, ramp: Schedule, attack_ramp: Any, joint_begin: float | None):
        self.ramp, self.attack_ramp = ramp, ramp_of("attack_ramp", attack_ramp)
        self.joint_begin = None if joint_begin is None else float(joint_begin)
        self._check_order()

    def _check_order(self) -> None:
        attack, ramp, begin = self.attack_ramp, self.ramp, self.joint_begin

        def grown_at(time: float) -> float:
            return float(ramp.value_at(ops.convert_to_tensor(time, "float32")))

        if ramp.last < 1.0:
            raise ValueError(
                "`ramp` must end at 1, where the joint phase begins; to train at a smaller radius "
                f"set `train_eps`. Received: ramp={ramp!r}."
            )
        if begin is not None and not grown_at(begin) >= 1.0:  # NaN, too.
            raise ValueError(
                "`joint_begin` must not be earlier than the end of `ramp`, because the ramp "
                f"trains the certified loss alone. Received: joint_begin={begin} and "
                f"ramp={ramp!r}."
            )
        if not attack.end or attack.unit != ramp.unit:
            return  # Epochs and steps compare only once the length of an epoch is known.
        if grown_at(attack.end) > 0.0:
            raise ValueError(
                "`attack_ramp` must end before `ramp` leaves 0, because the attack pauses while "
                f"`ramp` grows. Received: attack_ramp={attack!r} and ramp={ramp!r}."
            )

    def parts(self, clock: Clock) -> tuple[Tensor, Tensor]:
        """Whether the adversarial and the certified loss take part (both: the joint phase)."""
        ramp = self.ramp(clock)
        joint = ramp >= 1.0
        if self.joint_begin is not None:
            joint = ops.logical_and(joint, self._joined(clock) >= 1.0)
        certified = ramp > 0.0
        return ops.logical_or(joint, ops.logical_not(certified)), certified

    @property
    def _joined(self) -> Schedule:
        return Piecewise([self.joint_begin or 0.0], [0.0, 1.0], self.ramp.unit)

    def schedules(self) -> dict[str, Schedule]:
        """The schedules beside the ramp, by their names."""
        known = {"attack_ramp": self.attack_ramp}
        return known if self.joint_begin is None else {**known, "joint_begin": self._joined}

    def get_config(self) -> dict[str, Any]:
        """The arguments beside the ramp, as a configuration holds them."""
        attack_ramp = keras.saving.serialize_keras_object(self.attack_ramp)
        return {"attack_ramp": attack_ramp, "joint_begin": self.joint_begin}
