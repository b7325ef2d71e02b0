"""A small box around attacked inputs, in place of the whole region."""

from __future__ import annotations

import math
from typing import Any

from tfcert.bounds.margins import Margins
from tfcert.objectives.batch import Batch
from tfcert.objectives.input_attack import InputAttack
from tfcert.objectives.objective import RobustObjective
from tfcert.objectives.parts import box_inside

__all__ = ["SmallBox"]


class SmallBox:
    """Bounds of a box that is a fraction of the region wide, around points that an attack found.

    Args:
        ratio: The fraction, from 0 to 1. 1: the box is the region, and no attack runs.
        attack: The attack on the inputs.
    """

    def __init__(self, ratio: float, attack: InputAttack):
        self.ratio, self.attack = float(ratio), attack
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"`ratio` must lie in [0, 1]. Received: ratio={ratio!r}.")
        if attack.region.norm != math.inf:
            raise ValueError(
                "A small box needs a region that is a box, norm inf. "
                f"Received: region={attack.region!r}."
            )

    def bounds(self, objective: RobustObjective, batch: Batch, method: Any) -> Margins:
        """Margin bounds over the small box of a step.

        Args:
            objective: The objective whose step it is.
            batch: The batch.
            method: Returns the method that bounds hidden layers.
        """
        if self.ratio == 1.0:
            return objective.bounds(batch, method)
        place = self.attack.place(batch)
        points = self.attack.points(place)
        box, middle = box_inside(place.region, batch.x, points, self.ratio)
        return objective.bounds(batch, method, around=middle, region=box)
