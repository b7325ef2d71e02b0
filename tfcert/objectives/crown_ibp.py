"""CROWN-IBP: intervals inside, one backward sweep from the margins."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.bounds import methods
from tfcert.bounds.margins import Margins
from tfcert.objectives.ibp import IBP
from tfcert.objectives.objective import Batch
from tfcert.regions import Region
from tfcert.types import Tensor

__all__ = ["CrownIBP"]


@keras.saving.register_keras_serializable(package="tfcert")
class CrownIBP(IBP):
    """IBP whose margins are mixed with those of a backward sweep, at first entirely.

    ``m = beta m_backward + (1 - beta) m_interval``. With the default, beta falls from 1 to 0 as the
    radius grows, so that training ends as pure IBP, and no sweep is computed from there on.

    Args:
        region: The target region.
        natural_weight: kappa, as in ``IBP``.
        backward_weight: beta: a number, a schedule, or a pair as in ``IBP``. ``(1.0, 1.0)`` keeps
            the backward bound to the end.
        slope: The lower line of an unstable ReLU, see ``tfcert.methods.CrownIBP``.
        train_eps: See ``RobustObjective``.
        ramp: See ``RobustObjective``.
        regularizer: As in ``IBP``.
        tolerance: As in ``IBP``.
        validation_method: Default: "ibp" where beta ends at 0, else "crown-ibp".

    Reference: Zhang et al., 2019, https://arxiv.org/abs/1906.06316, equations 13 to 15.
    """

    def __init__(
        self,
        region: Region,
        natural_weight: Any = (1.0, 0.5),
        backward_weight: Any = (1.0, 0.0),
        *,
        slope: str = "adaptive",
        train_eps: float | None = None,
        ramp: Any = 1.0,
        regularizer: float = 0.0,
        tolerance: float = 0.5,
        validation_method: Any = None,
    ):
        super().__init__(
            region,
            natural_weight,
            train_eps=train_eps,
            ramp=ramp,
            regularizer=regularizer,
            tolerance=tolerance,
            validation_method=validation_method,
        )
        self.add_weights(most=1.0, backward_weight=backward_weight)
        self.slope = slope
        self._method: methods.Method = methods.CrownIBP(slope)

    def training_method(self) -> Any:
        return "ibp" if self.weights["backward_weight"].is_zero else self._method

    @property
    def default_method(self) -> Any:  # type: ignore[override]
        """How ``verified_accuracy`` is bounded: as at the end of training."""
        return "ibp" if self.weights["backward_weight"].last == 0 else self._method

    def margin_bounds(self, batch: Batch, known: Margins) -> Tensor:
        interval = known.interval()
        if self.weights["backward_weight"].is_zero:
            return interval
        beta = self.weight("backward_weight", batch.clock)
        known.prepare()  # Outside of the branch: others may read it too.

        def mixed() -> Tensor:
            return beta * known.backward() + (1.0 - beta) * interval

        # The sweep costs several times what all else does: not where its weight is 0.
        return ops.cond(beta > 0, mixed, lambda: interval)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}
