"""What has to hold between the outputs at two inputs."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

__all__ = ["Monotone"]


@keras.saving.register_keras_serializable(package="tfcert.properties")
class Monotone:
    """Outputs rise with a feature: ``f(x + t e) > f(x) - slack * t`` for t > 0, all else equal.

    It holds for all pairs of inputs of a region that differ in the feature alone, where the
    derivative of the outputs by the feature is above ``-slack`` on the whole region, which has to
    be convex. That is what bounds are asked for: ``tfcert.derivative`` gives the model of the
    derivative, by the chain rule. A point where the derivative is not above ``-slack`` breaks the
    property: near it the outputs rise too little, or fall. (Of a ReLU network the point may lie on
    a kink, where the derivative is that of one side.)

    Args:
        feature: The place of the feature in the input, ``(batch, features)``.
        increasing: Whether outputs rise; False: they fall, ``f(x + t e) < f(x) + slack * t``.
        output: Which output; None for all of them.
        slack: By how much an output may fall for each unit of the feature, at least 0. With 0 the
            outputs rise strictly, which no network does where all units that read the feature
            rest: a small slack, such as 1e-6, allows that they stay the same.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[3.0], [-1.0]]), np.zeros(1)])
    >>> region = tfcert.Box([0.0, 0.0], [1.0, 1.0])
    >>> x = np.full((1, 2), 0.5, "float32")
    >>> tfcert.verify(model, tfcert.properties.Monotone(0), x, region).verdict
    'holds'
    >>> tfcert.verify(model, tfcert.properties.Monotone(1), x, region).verdict
    'violated'
    """

    def __init__(
        self,
        feature: int,
        increasing: bool = True,
        output: int | None = None,
        slack: float = 0.0,
    ):
        for name, place in (("feature", feature), ("output", 0 if output is None else output)):
            whole = isinstance(place, (int, np.integer)) and not isinstance(place, bool)
            if not whole or place < 0:
                raise ValueError(f"`{name}` must be an integer >= 0. Received: {name}={place!r}.")
        if not isinstance(increasing, (bool, np.bool_)):
            raise ValueError(
                f"`increasing` must be True or False. Received: increasing={increasing!r}."
            )
        if not 0 <= slack < math.inf:
            raise ValueError(f"`slack` must be a finite number >= 0. Received: slack={slack!r}.")
        self.feature, self.increasing = int(feature), bool(increasing)
        self.output, self.slack = None if output is None else int(output), float(slack)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras's saving."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Monotone:
        return cls(**config)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"Monotone({given})"
