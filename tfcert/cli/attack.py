"""Attacks a trained classifier and says how often it still answers right.

tfcert-attack --model_path=run/model.keras --dataset=digits --eps=0.05 --attack=apgd --out=a.json

Attacks the test images of a data set, with pixels from 0 to 1. Writes into --out, as JSON: accuracy
on clean images and under attack, the numbers of the images that the attack broke, flags, versions,
commit and time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging
from keras import ops

from tfcert import attacks, datasets, files, provenance
from tfcert.attacks import losses
from tfcert.cli import program
from tfcert.regions import LpBall
from tfcert.types import AttackLoss, DatasetName, Norm

__all__ = ["Config", "attack_model", "main", "run"]

_ATTACKS: dict[str, type[attacks.Attack]] = {
    "apgd": attacks.APGD,
    "ensemble": attacks.Ensemble,
    "fgsm": attacks.FGSM,
    "pgd": attacks.PGD,
    "square": attacks.Square,
}

# The flags that each attack takes, with what they are by default here.
_SETTINGS: dict[str, dict[str, Any]] = {
    "apgd": {
        **{"loss": "margin", "steps": 100, "restarts": 1, "targets": None, "momentum": 0.75},
        "early_stop": True,
    },
    "ensemble": {"rounds": 1, "time_limit": None},
    "fgsm": {"loss": "margin"},
    "pgd": {
        **{"loss": "margin", "steps": 100, "restarts": 1, "targets": None, "momentum": 0.0},
        **{"step_size": None, "early_stop": True},
    },
    "square": {"steps": 5000, "restarts": 1, "early_stop": True},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of ``tfcert-attack``, under their names."""

    model_path: str
    dataset: DatasetName
    data_dir: str | None
    eps: float
    norm: Norm
    attack: str
    steps: int | None
    restarts: int | None
    step_size: float | None
    momentum: float | None
    early_stop: bool
    loss: AttackLoss | None
    targets: int | None
    rounds: int | None
    time_limit: float | None
    limit: int | None
    seed: int
    batch_size: int
    out: str


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    flags.DEFINE_enum("dataset", "digits", datasets.NAMES, "Data set, whose test part is attacked.")
    flags.DEFINE_string("data_dir", None, "Folder of npz files; default: Keras's downloads.")
    flags.DEFINE_float("eps", None, "Radius, on the pixel scale 0 to 1.", 0.0)
    flags.DEFINE_string("norm", "inf", "Norm of the radius: inf, or a number from 1 on.")
    flags.DEFINE_enum("attack", "pgd", sorted(_ATTACKS), "How points are searched.")
    flags.DEFINE_integer(
        "steps", None, "Gradient steps of pgd and apgd (default: 100), tries of square (5000).", 1
    )
    flags.DEFINE_integer("restarts", None, "Starts of pgd, apgd and square. Default: 1.", 1)
    flags.DEFINE_float(
        "step_size", None, "Of pgd, as a fraction of --eps. Default: 2.5 / steps, at most 1.", 0.0
    )
    flags.DEFINE_float(
        "momentum", None, "Of pgd (default: 0) and apgd (default: 0.75), as in tfcert.attacks.", 0.0
    )
    flags.DEFINE_bool(
        "early_stop", True, "End on a batch as soon as all of its images are misclassified."
    )
    flags.DEFINE_enum(
        "loss",
        None,
        sorted(losses.LOSSES),
        "What pgd, apgd and fgsm maximise. Default: margin.",
    )
    flags.DEFINE_integer(
        "targets", None, "So many wrong classes pgd and apgd make win, each in turn.", 1
    )
    flags.DEFINE_integer(
        "rounds",
        None,
        "How many times ensemble runs its attacks. Default: 1, or with --time_limit until then.",
        1,
    )
    flags.DEFINE_float("time_limit", None, "Seconds after which ensemble begins no batch.", 0.0)
    flags.DEFINE_integer("limit", None, "Attack only so many images, the first ones.", 1)
    flags.DEFINE_integer("seed", 0, "Decides the random starts.")
    flags.DEFINE_integer("batch_size", 500, "Images that are attacked together.", 1)
    flags.DEFINE_string("out", None, "File for the results.")
    flags.mark_flags_as_required(["model_path", "eps", "out"])


def attack_model(config: Config, log: Callable[[str], None]) -> dict[str, Any]:
    """Attacks what the model gets right, writes the results and returns them."""
    attack, model, (x, y) = _prepare(config)
    begin = time.perf_counter()
    clean = _predicted(model, x, config.batch_size)
    if (clean < 0).any():
        raise ValueError(
            f"The model returns NaN for {int((clean < 0).sum())} of {len(x)} images, the first "
            f"with the number {np.argmax(clean < 0)}. Received: --model_path={config.model_path}."
        )
    right = np.flatnonzero(clean == y)
    log(f"clean accuracy {len(right) / len(x):.4f}")
    broken = np.zeros(0, int)
    if len(right):
        points = attack(model, x[right], y[right], config.seed, config.batch_size)
        points = np.asarray(ops.convert_to_numpy(points))
        _check_inside(attack, points, x[right], config.batch_size)
        broken = right[_predicted(model, points, config.batch_size) != y[right]]
    results = {
        "samples": len(x),
        "clean_accuracy": len(right) / len(x),
        "accuracy_under_attack": (len(right) - len(broken)) / len(x),
        "attack": repr(attack),
        "broken": broken.tolist(),
        "seconds": round(time.perf_counter() - begin, 2),
        "flags": dataclasses.asdict(config),
        "model_sha256": hashlib.sha256(pathlib.Path(config.model_path).read_bytes()).hexdigest(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    log(f"accuracy under attack {results['accuracy_under_attack']:.4f}")
    files.write_json(pathlib.Path(config.out), results)
    return results


def _prepare(config: Config) -> tuple[attacks.Attack, keras.Model, tuple[np.ndarray, np.ndarray]]:
    """All that is needed, after finding what would stop the program later."""
    if pathlib.Path(config.out).exists():
        raise ValueError(f"--out={config.out} is there already. Choose another file.")
    attack = _attack(config)
    model = files.load_model(config.model_path)
    _, (x, y) = datasets.load(config.dataset, config.data_dir)
    x, y = x[: config.limit], y[: config.limit]
    if tuple(model.input_shape[1:]) != x.shape[1:]:
        raise ValueError(
            f"--dataset={config.dataset} has images of shape {x.shape[1:]}. Received: a model for "
            f"inputs of shape {tuple(model.input_shape[1:])}."
        )
    files.check_writable(pathlib.Path(config.out))
    return attack, model, (x, y)


def _attack(config: Config) -> attacks.Attack:
    names = {name for settings in _SETTINGS.values() for name in settings}
    given = {name: getattr(config, name) for name in sorted(names)}
    given = {name: value for name, value in given.items() if value is not None}
    if config.early_stop:
        del given["early_stop"]  # the default of all
    settings = _SETTINGS[config.attack]
    foreign = {name: value for name, value in given.items() if name not in settings}
    if foreign:
        raise ValueError(
            f"--attack={config.attack} takes {_listed(settings)}, and no {_listed(foreign)}. "
            f"Received: {foreign}."
        )
    if config.time_limit is not None and config.rounds is None:
        given["rounds"] = None
    region = LpBall(config.eps, config.norm, (0.0, 1.0))
    return _ATTACKS[config.attack](region, **{**settings, **given})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))


def _predicted(model: keras.Model, x: np.ndarray, size: int) -> np.ndarray:
    """The model's classes; -1, which is no class, where it returns NaN."""
    parts = [model(x[start : start + size], training=False) for start in range(0, len(x), size)]
    scores = np.concatenate([ops.convert_to_numpy(part) for part in parts])
    return np.where(np.isnan(scores).any(axis=-1), -1, np.argmax(scores, axis=-1))


def _check_inside(attack: attacks.Attack, points: np.ndarray, x: np.ndarray, size: int) -> None:
    """Decides beyond float64 what the attack should have seen to."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        outside = int((~attack.region.contains(points[part], x[part])).sum())
        if outside:
            raise RuntimeError(
                f"{outside} points of {attack!r} lie outside of the region. Keep the model, and "
                "report this as a bug."
            )


def main(argv: Sequence[str]) -> None:
    """Attacks with the parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = [field.name for field in dataclasses.fields(Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = Config(**settings)
    try:
        results = attack_model(config, log=logging.info)
    except (ValueError, NotImplementedError, OSError) as error:
        raise app.UsageError(str(error)) from error
    print(
        f"{results['samples']} test images of {config.dataset}, eps={config.eps}, "
        f"norm {config.norm}:\n"
        f"  clean accuracy         {100 * results['clean_accuracy']:6.2f} %\n"
        f"  accuracy under attack  {100 * results['accuracy_under_attack']:6.2f} %\n"
        f"Details are in {config.out}."
    )


def run() -> None:
    """The console entry point ``tfcert-attack``."""
    program.start(main, _define_flags, __doc__)
