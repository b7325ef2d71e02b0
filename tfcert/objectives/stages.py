"""Layer-wise training: the trainer of the next stage."""

from __future__ import annotations

from typing import Any

from tfcert.objectives.advibp import AdvIBP
from tfcert.objectives.latent import freeze_before

__all__ = ["next_stage"]


def next_stage(trainer: Any, **changes: Any) -> Any:
    """Creates a trainer for the next layer-wise stage of AdvIBP, on the same model.

    The function freezes every layer up to the dense or convolutional layer of the finished stage,
    and the layers before the next one, such as batch normalisation. The new trainer keeps seed and
    verified_share, and starts with the full radius, conflict threshold 0 and new moments. Compile
    it with a new optimizer.

    Args:
        trainer: A ``CertifiedTrainer`` with an ``AdvIBP`` objective.
        **changes: New values of arguments of ``AdvIBP``.

    Example:

    >>> following = tfcert.objectives.next_stage(trainer)
    >>> following.compile(keras.optimizers.Adam(2.5e-4))
    """
    objective = trainer.objective
    if not isinstance(objective, AdvIBP):
        raise ValueError(f"`trainer` must train AdvIBP. Received: objective={objective!r}.")
    stage = objective.stage + 1
    freeze_before(trainer.model, stage)
    config = objective.get_config()
    config.update(stage=stage, ramp=1.0, attack_ramp=1.0, joint_begin=None, conflict_threshold=0.0)
    config.update(changes)
    return type(trainer)(
        trainer.model,
        AdvIBP.from_config(config),
        seed=trainer.seed,
        verified_share=trainer.verified_share,
    )
