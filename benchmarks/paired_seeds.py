"""Certified training against its bases over many seeds, on a small data set.

    python benchmarks/paired_seeds.py --out=benchmarks/results/paired_seeds

One seed of a method differs from the next by as much as methods do. So each method is trained with
several seeds, on images small enough for that, and compared with its base seed by seed: a pair
starts from the same weights and sees the same images in the same order. The schedule is one for
all. Errors are of the test set, verified by CROWN.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import machine
import numpy as np
from absl import app, flags

_SEEDS = flags.DEFINE_integer("seeds", 8, "How many.", lower_bound=2)
_METHODS = flags.DEFINE_list("methods", None, "Only these, and the bases among them.")
_DATA = flags.DEFINE_string("data", "digits", "Data set, by its name in tfcert.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where its file lies.")
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many training images.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", "mlp_2x100", "The network, by its name in tfcert.")
_EPS = flags.DEFINE_float("eps", 0.05, "Test radius.", lower_bound=0.0)
_TRAIN_EPS = flags.DEFINE_float("train_eps", 0.075, "Training radius.", lower_bound=0.0)
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Passes over the training set.", lower_bound=4)
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")


class Method(NamedTuple):
    """An objective by its class, with its arguments, and the methods that it is compared with."""

    objective: str
    arguments: dict[str, Any]
    bases: tuple[str, ...] = ()


_SWEEP = {"backward_weight": 1.0}
_TIGHT = ("CROWN-IBP kept",)
METHODS = {
    "IBP": Method("IBP", {}),
    "CROWN-IBP": Method("CrownIBP", {}, ("IBP",)),
    "CROWN-IBP fused": Method("FusedCrownIBP", {}, ("CROWN-IBP",)),
    "CROWN-IBP kept": Method("CrownIBP", _SWEEP, ("CROWN-IBP",)),
    "MAAR 1 on IBP": Method("MAAR", {"weight": 1.0, "backward_weight": 0.0}, ("IBP",)),
    "MAAR 5 on IBP": Method("MAAR", {"weight": 5.0, "backward_weight": 0.0}, ("IBP",)),
    "MAAR 5 on IBP detached": Method(
        "MAAR",
        {"weight": 5.0, "backward_weight": 0.0, "detach": ("clean", "weight")},
        ("IBP",),
    ),
    "MAAR 1 on CROWN-IBP": Method("MAAR", {"weight": 1.0}, ("CROWN-IBP",)),
    "MAAR 5 on CROWN-IBP detached": Method(
        "MAAR", {"weight": 5.0, "detach": ("clean", "weight")}, ("CROWN-IBP",)
    ),
    "tight gap": Method("TightRelaxation", {"feasibility_weight": 0.0}, _TIGHT),
    "tight infeasibility": Method("TightRelaxation", {"gap_weight": 0.0}, _TIGHT),
    "tight both": Method("TightRelaxation", {}, _TIGHT),
    "tight both 0.01": Method(
        "TightRelaxation",
        {"gap_weight": (0.0, 0.01), "feasibility_weight": (0.0, 0.01)},
        _TIGHT,
    ),
    "tight all margins": Method("TightRelaxation", {"specifications": "all"}, _TIGHT),
    "tight random margin": Method("TightRelaxation", {"specifications": "random"}, _TIGHT),
    "tight infeasibility 1": Method(
        "TightRelaxation", {"gap_weight": 0.0, "feasibility_weight": (0.0, 1.0)}, _TIGHT
    ),
    "tight infeasibility face": Method(
        "TightRelaxation", {"gap_weight": 0.0, "distance": "face"}, _TIGHT
    ),
    "tight infeasibility sum 0.01": Method(
        "TightRelaxation",
        {"gap_weight": 0.0, "feasibility_weight": (0.0, 0.01), "reduction": "sum"},
        _TIGHT,
    ),
    "Wong-Kolter": Method(
        "TightRelaxation", {"base": "fast-lin", "gap_weight": 0.0, "feasibility_weight": 0.0}
    ),
    "Wong-Kolter tight both": Method("TightRelaxation", {"base": "fast-lin"}, ("Wong-Kolter",)),
    "AdvIBP": Method("AdvIBP", {}, ("IBP", "CROWN-IBP")),
}


def _objective(method: Method, region: Any, epochs: int) -> Any:
    from tfcert import objectives

    # Of the epochs the radius grows from the 10th to the 50th percent.
    ramp = (0.1 * epochs, 0.5 * epochs)
    arguments = {"train_eps": _TRAIN_EPS.value, "ramp": ramp, **method.arguments}
    if method.objective == "AdvIBP":
        arguments["attack_ramp"] = (0.025 * epochs, ramp[0])
    else:
        arguments["natural_weight"] = (1.0, 0.5)
    return getattr(objectives, method.objective)(region, **arguments)


def _errors(method: Method, data: Any, seed: int) -> dict[str, float]:
    """Clean and verified error of one run."""
    import keras

    import tfcert

    (x, y), test = data
    region = tfcert.LpBall(_EPS.value, clip=(0.0, 1.0))
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = tfcert.models.get(_MODEL.value, x.shape[1:], 10)
    tfcert.models.ibp_initialization(model, seed)
    objective = _objective(method, region, _EPOCHS.value)
    trainer = tfcert.CertifiedTrainer(model, objective, seed=seed, verified_share=0.0)
    batch = 64
    steps = _EPOCHS.value * -(-len(x) // batch)
    trainer.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps), clipnorm=10.0)
    )
    trainer.fit(x, y, batch_size=batch, epochs=_EPOCHS.value, verbose=0)
    wrong = np.argmax(model.predict(test[0], verbose=0), axis=-1) != test[1]
    margins = np.asarray(tfcert.bound_margins(model, *test, region, "crown"))
    unverified = np.sum(margins > 0.0, axis=-1) < margins.shape[-1] - 1
    return {"clean": float(wrong.mean()), "verified": float((wrong | unverified).mean())}


def _summary(values: Sequence[float]) -> dict[str, float]:
    found = np.asarray(values)
    return {"mean": found.mean(), "error": found.std(ddof=1) / np.sqrt(len(found))}


def _row(name: str, errors: dict[str, list[dict[str, float]]], seconds: float) -> dict[str, Any]:
    """Means over the seeds, and the paired differences from the bases."""

    def of(method: str, kind: str) -> np.ndarray:
        return np.array([run[kind] for run in errors[method]])

    row: dict[str, Any] = {"method": name, "seconds_a_run": round(seconds, 1)}
    row |= {kind: _summary(of(name, kind)) for kind in ("clean", "verified")}
    row["runs"] = errors[name]
    row["less"] = {
        base: _summary(of(name, "verified") - of(base, "verified"))
        for base in METHODS[name].bases
        if base in errors
    }
    return row


def main(argv: Sequence[str]) -> None:
    """Trains method by method and prints each row."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = list(METHODS) if _METHODS.value is None else _METHODS.value
    if not set(names) <= set(METHODS):
        raise app.UsageError(f"--methods is a list of: {', '.join(METHODS)}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from tfcert import datasets

    (x, y), test = datasets.load(_DATA.value, _DATA_DIR.value)
    data = (x[: _LIMIT.value], y[: _LIMIT.value]), test
    facts = {"command": "python benchmarks/paired_seeds.py " + shlex.join(sys.argv[1:])}
    facts |= {**machine.facts(os.cpu_count() or 1), "backend": f"tensorflow {tf.__version__}"}
    facts |= {name: str(flags.FLAGS[name].value) for name in ("data", "model", "epochs", "seeds")}
    facts |= {"eps": str(_EPS.value), "train_eps": str(_TRAIN_EPS.value)}
    facts |= {"images": f"{len(data[0][0])} to train on, {len(test[0])} to test on"}
    rows: list[dict[str, Any]] = []
    errors: dict[str, list[dict[str, float]]] = {}
    for name in names:
        begin = time.perf_counter()
        errors[name] = [_errors(METHODS[name], data, seed) for seed in range(_SEEDS.value)]
        rows.append(_row(name, errors, (time.perf_counter() - begin) / _SEEDS.value))
        less = ", ".join(
            f"less {base} {100 * found['mean']:+.2f} ± {100 * found['error']:.2f}"
            for base, found in rows[-1]["less"].items()
        )
        clean, verified = (100 * rows[-1][kind]["mean"] for kind in ("clean", "verified"))
        print(f"{name:<32}clean {clean:5.2f}  verified {verified:5.2f}  {less}", flush=True)
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
