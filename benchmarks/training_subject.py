"""The training benchmark of tfcert: one step of an objective, as ``fit`` runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import subject

__all__ = ["OBJECTIVES", "device_peak_bytes", "facts", "prepare"]

device_peak_bytes = subject.device_peak_bytes

# Name in the table -> how the objective is made; all at the full radius, where they cost most.
OBJECTIVES: dict[str, Any] = {
    "plain": None,  # Keras's own compile and fit.
    "standard": lambda o, region: o.Standard(),
    "adversarial": lambda o, region: o.AdversarialTraining(region, 7),
    "ibp": lambda o, region: o.IBP(region),
    "crown-ibp": lambda o, region: o.CrownIBP(region, backward_weight=1.0),
    "crown-ibp-fused": lambda o, region: o.FusedCrownIBP(region, backward_weight=1.0),
    "maar-ibp": lambda o, region: o.MAAR(region, backward_weight=0.0),
    "maar": lambda o, region: o.MAAR(region, backward_weight=1.0),
    "tight": lambda o, region: o.TightRelaxation(region),
    "advibp": lambda o, region: o.AdvIBP(region),
    "sabr": lambda o, region: o.SABR(region),
    "taps": lambda o, region: o.TAPS(region),
    "staps": lambda o, region: o.STAPS(region),
    "mtl-ibp": lambda o, region: o.MTLIBP(region),
    "cc-ibp": lambda o, region: o.CCIBP(region),
    "exp-ibp": lambda o, region: o.ExpIBP(region),
}


def facts() -> dict[str, str]:
    """Versions and device of this side."""
    return subject.facts()


def prepare(case: Any) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that takes one step on a batch that is there already."""
    if case.onednn is not None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(case.onednn))
    import keras

    import tfcert

    generator = np.random.default_rng(0)
    x = generator.uniform(size=(case.batch, 28, 28, 1)).astype("float32")
    y = generator.integers(0, 10, size=case.batch)
    keras.utils.set_random_seed(0)
    model = tfcert.models.get(case.model, (28, 28, 1), 10)
    tfcert.models.ibp_initialization(model)  # Radii at which a trained network is not blind.
    region = tfcert.LpBall(case.eps, clip=(0.0, 1.0))
    optimizer = keras.optimizers.Adam(5e-4)
    if OBJECTIVES[case.objective] is None:
        trainer: keras.Model = model
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainer.compile(optimizer, loss, metrics=["accuracy"], jit_compile=bool(case.jit))
    else:
        objective = OBJECTIVES[case.objective](tfcert.objectives, region)
        trainer = tfcert.CertifiedTrainer(model, objective, verified_share=0.0)
        trainer.compile(optimizer, jit_compile="auto" if case.jit is None else case.jit)
    optimizer.build(trainer.trainable_variables)
    steps = 0

    def step() -> tuple[np.ndarray, np.ndarray]:
        nonlocal steps
        steps += 1
        loss = np.asarray(trainer.train_on_batch(x, y, return_dict=True)["loss"])
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss became {loss} after {steps} steps.")
        return loss, loss

    return step
