"""Trains a small network with every objective and keeps what came out of it.

tests/fixed_weights_test.py trains again and compares. To write the file anew, where a change of the
numbers is wanted:

    python -m tests.fixed_weights
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable

import keras
import numpy as np

from tests import training_support as ts
from tfcert import Box, CertifiedTrainer, LpBall, layers, objectives, schedules
from tfcert.objectives.latent import freeze_before

PATH = pathlib.Path(__file__).parent / "data" / "weights_after_25_steps.npz"
EPOCHS, STEPS, BATCH = 5, 5, 8  # 25 steps
REGION = LpBall(0.04, clip=(0.0, 1.0))
_RAMP = {"train_eps": 0.06, "ramp": (1, 3)}
_DETACHED = {"detach": ("weight", "clean")}
_JOINT = {"attack_ramp": (0, 1), "ramp": (1, 3), "train_eps": 0.06}


def _mlp() -> keras.Model:
    return ts.mlp(units=(6, 5))


def _frozen() -> keras.Model:
    model = _mlp()
    freeze_before(model, 2)
    return model


def _distances() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((5,)), layers.MeanShift(), layers.LInfDistance(3), layers.MeanShift()]
    )


Make = Callable[[], objectives.Objective]

# Name -> the objective and, where it is not the usual one, the model. No model normalises by the
# batch: which statistics an attack uses may be decided anew without a change here.
CASES: dict[str, tuple[Make, Callable[[], keras.Model]]] = {
    "standard": (lambda: objectives.Standard(), _mlp),
    "adversarial": (lambda: objectives.AdversarialTraining(REGION, 3, **_RAMP), _mlp),
    "adversarial_l2": (
        lambda: objectives.AdversarialTraining(LpBall(0.1, norm=2), 2, 0.7, ramp=(1, 3)),
        _mlp,
    ),
    "ibp": (lambda: objectives.IBP(REGION, regularizer=0.5, **_RAMP), _mlp),
    "ibp_box": (lambda: objectives.IBP(Box(-0.1, 1.05), 0.3, ramp=(1, 3)), _mlp),
    "crown_ibp": (lambda: objectives.CrownIBP(REGION, **_RAMP), _mlp),
    "crown_ibp_kept": (
        lambda: objectives.CrownIBP(
            REGION, schedules.Linear(1.0, 0.2, 0, 4), 1.0, slope="same", **_RAMP
        ),
        _mlp,
    ),
    "fused": (lambda: objectives.FusedCrownIBP(REGION, **_RAMP), _mlp),
    "maar_on_ibp": (lambda: objectives.MAAR(REGION, backward_weight=0.0, **_RAMP), _mlp),
    "maar_on_ibp_detached": (
        lambda: objectives.MAAR(REGION, backward_weight=0.0, **_DETACHED, **_RAMP),
        _mlp,
    ),
    "maar": (lambda: objectives.MAAR(REGION, **_RAMP), _mlp),
    "maar_detached": (lambda: objectives.MAAR(REGION, **_DETACHED, **_RAMP), _mlp),
    "maar_switches": (
        lambda: objectives.MAAR(
            REGION,
            (0.0, 3.0),
            backward_weight=0.0,
            classification="boosted",
            divergence="upper_bound",
            selection="hard",
            consistency_bound="ibp",
            **_RAMP,
        ),
        _mlp,
    ),
    "tight": (lambda: objectives.TightRelaxation(REGION, **_RAMP), _mlp),
    "tight_fast_lin": (
        lambda: objectives.TightRelaxation(
            REGION, 0.2, 0.3, base="fast-lin", specifications="random", distance="face", **_RAMP
        ),
        _mlp,
    ),
    "sabr": (lambda: objectives.SABR(REGION, relu_shrink=0.8, attack_steps=3, **_RAMP), _mlp),
    "sabr_restarts": (
        lambda: objectives.SABR(REGION, 0.7, 0.3, attack_steps=2, attack_restarts=2, **_RAMP),
        _mlp,
    ),
    "mtl_ibp": (
        lambda: objectives.MTLIBP(REGION, 0.2, attack_steps=3, attack_scale=2.0, **_RAMP),
        _mlp,
    ),
    "cc_ibp": (lambda: objectives.CCIBP(REGION, (1.0, 0.2), attack_steps=2, **_RAMP), _mlp),
    "exp_ibp": (lambda: objectives.ExpIBP(REGION, 0.2, attack_steps=2, **_RAMP), _mlp),
    "taps": (lambda: objectives.TAPS(REGION, 2, search_steps=3, **_RAMP), _mlp),
    "staps": (
        lambda: objectives.STAPS(REGION, 0.4, 2, search_steps=2, attack_steps=2, **_RAMP),
        _mlp,
    ),
    "advibp": (lambda: objectives.AdvIBP(REGION, **_JOINT), _mlp),
    "advibp_all": (
        lambda: objectives.AdvIBP(
            REGION,
            conflict_threshold=1e-3,
            attack_steps=2,
            gradients="all",
            rescale=False,
            clean_warmup=True,
            joint_begin=3.4,
            **_JOINT,
        ),
        _mlp,
    ),
    "advibp_sweep": (
        lambda: objectives.AdvIBP(REGION, backward_weight=(1.0, 0.5), **_JOINT),
        _mlp,
    ),
    "advibp_stage_2": (lambda: objectives.AdvIBP(REGION, stage=2), _frozen),
    "linf": (
        lambda: objectives.LInfDistance(
            LpBall(0.1), (1, 3), (0.5, 0.01), (8.0, 100.0), train_eps=0.15
        ),
        _distances,
    ),
    "gaussian": (lambda: objectives.GaussianSmoothing(0.2, copies=2), _mlp),
    "stability": (lambda: objectives.StabilitySmoothing(0.2, 0.5, copies=2), _mlp),
    "smooth_adv": (lambda: objectives.SmoothAdv(0.2, 0.5, 3, copies=2, warmup=4), _mlp),
    "macer": (
        lambda: objectives.MACER(0.2, schedules.Piecewise([1], [0.0, 4.0]), copies=3),
        _mlp,
    ),
    "consistency": (lambda: objectives.ConsistencySmoothing(0.2, 5.0), _mlp),
    "consistency_attacked": (
        lambda: objectives.ConsistencySmoothing(
            0.2, 2.0, schedules.Linear(0.5, 0.0, 0, 4), radius=0.5, steps=2
        ),
        _mlp,
    ),
}


# Tracing a step of these takes longer than 25 steps that are not traced. The results are the same.
_EAGERLY = {
    *("crown_ibp_kept", "fused", "maar", "maar_detached", "tight", "tight_fast_lin"),
    "advibp_sweep",
}


def trained(name: str) -> dict[str, np.ndarray]:
    """The weights after 25 steps, all in one vector, and the History, a value for each epoch."""
    make, model_of = CASES[name]
    model = model_of()
    trainer = CertifiedTrainer(model, make(), seed=7, verified_share=0.0)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.5)
    trainer.compile(optimizer, jit_compile=False, run_eagerly=name in _EAGERLY)
    x, y = ts.data(STEPS * BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = trainer.fit(x, y, epochs=EPOCHS, batch_size=BATCH, verbose=0).history
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return {"weights": weights, **{k: np.array(v, "float32") for k, v in history.items()}}


def main() -> None:
    results = {f"{name}/{k}": v for name in CASES for k, v in trained(name).items()}
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, **results)


if __name__ == "__main__":
    main()
