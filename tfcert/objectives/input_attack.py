"""The attack on the inputs that a loss holds: its strength, and how far it reaches."""

from __future__ import annotations

from typing import Any

from tfcert.attacks import PGD
from tfcert.objectives.arguments import as_positive
from tfcert.objectives.attacking import Place
from tfcert.objectives.batch import Batch
from tfcert.objectives.settings import Settings
from tfcert.regions import LpBall
from tfcert.types import Tensor

__all__ = ["InputAttack"]


class InputAttack:
    """Projected gradient ascent around the inputs of a step.

    Args:
        settings: The settings of the objective, whose radius the attack follows.
        steps: Gradient steps.
        step_size: Length of a step, as a fraction of the attack's radius. None: 1/4, or as much as
            lets the steps cross the region, ``max(1/4, 2 / steps)``.
        restarts: Number of starts. One: the loss is taken where its last step ends; several: at the
            worst point that was met.
        scale: The attack's radius while training, as a multiple of the training radius. Validation
            attacks at the target radius.
    """

    def __init__(
        self,
        settings: Settings,
        steps: int,
        step_size: float | None,
        restarts: int,
        scale: float = 1.0,
    ):
        self.settings, self.step_size = settings, step_size
        self.scale = as_positive("attack_scale", scale)
        assert settings.train_region is not None
        if self.scale > 1 and not isinstance(settings.train_region, LpBall):
            raise ValueError(
                "`attack_scale` above 1 needs a region with an eps, tfcert.LpBall. "
                f"Received: attack_scale={scale!r} and region={settings.region!r}."
            )
        self.region = settings.train_region
        if self.scale != 1.0:
            self.region = self.region.scaled(self.scale)
        if step_size is None and steps >= 1:
            step_size = max(0.25, 2.0 / steps)
        self.pgd = PGD(self.region, steps, step_size, restarts, early_stop=False)

    def place(self, batch: Batch) -> Place:
        """Returns the place of this step's attack."""
        if batch.clock.final:
            return batch.at_input(self.settings.region_at(batch.clock))
        return batch.at_input(self.region.scaled(self.settings.ramp(batch.clock)))

    def points(self, place: Place) -> Tensor:
        """The attacked inputs, without gradients."""
        return place.worst(self.pgd) if self.pgd.restarts == 1 else place.strongest(self.pgd)

    def scores(self, batch: Batch) -> Tensor:
        """The scores at the attacked inputs, ``(batch, classes)``."""
        place = self.place(batch)
        return place.scores(self.points(place))

    def get_config(self) -> dict[str, Any]:
        """The arguments but for the scale, under the names that objectives give them."""
        return {
            "attack_steps": self.pgd.steps,
            "attack_step_size": self.step_size,
            "attack_restarts": self.pgd.restarts,
        }
