"""The work of the certifying program: load, certify by bounds or by smoothing, print."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcert import attacks, certification, datasets, files, smoothing
from tfcert.cli.certify_config import Config, check, value_of
from tfcert.regions import LpBall
from tfcert.smoothing import precision
from tfcert.smoothing.noise import NOISES

__all__ = ["Config", "Run", "prepare", "run"]


@dataclasses.dataclass
class Run:
    """A run that is ready to start."""

    config: Config
    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    facts: dict[str, Any]


def prepare(config: Config) -> Run:
    """Loads the model and the images, after finding what would stop the program later."""
    check(config)
    smooth = config.method == ["smoothing"]
    path = pathlib.Path(config.model_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = files.load_model(path)
    train, test = datasets.load(config.dataset, config.data_dir)
    x, y = test if config.split == "test" else train
    index = np.arange(len(x))[: config.max][:: config.skip]
    if smooth:
        _check_sampling(config, model)
    if tuple(model.input_shape[1:]) != x.shape[1:]:
        raise ValueError(
            f"--dataset={config.dataset} has images of shape {x.shape[1:]}. Received: a model for "
            f"inputs of shape {tuple(model.input_shape[1:])}."
        )
    flags = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    facts = {"program": "tfcert-certify", "flags": flags, "model_sha256": digest}
    return Run(config, model, x[index], y[index], index, facts)


def _check_sampling(config: Config, model: keras.Model) -> None:
    """Raises for flags of smoothing that do not fit, under their own names."""
    _adaptive(config)
    saved = precision.computes_in(model)
    if config.precision == "float32" and saved != "float32":
        raise ValueError(
            f"The layers of {config.model_path} compute in {saved}, and certificates describe the "
            "saved model. Leave out --precision. Received: --precision=float32."
        )


def run(subject: Run, log: Callable[[str], None]) -> str:
    """Certifies, and returns what there is to say in the end."""
    log(f"{len(subject.x)} images, log {subject.config.out}")
    smooth = subject.config.method == ["smoothing"]
    return _smoothing(subject) if smooth else _bounds(subject)


def _bounds(subject: Run) -> str:
    config = subject.config
    region = LpBall(float(config.eps or 0.0), value_of(config, "norm"), clip=(0.0, 1.0))
    result = certification.certify(
        subject.model,
        subject.x,
        subject.y,
        region,
        config.method,
        log=config.out,
        attack=_attack(config, region),
        index=subject.index,
        seed=config.seed,
        batch_size=config.batch_size,
        facts=subject.facts,
        verbose=int(config.progress),
        **{
            name: value_of(config, name)
            for name in (
                *("float_safe", "max_eps", "eps_steps"),
                *("time_limit", "time_limit_per_input", "self_check"),
            )
        },
    )
    return f"{result.summary()}\n\n{_table(result.per_class())}"


def _attack(config: Config, region: LpBall) -> Any:
    name = value_of(config, "attack")
    if name not in ("pgd", "apgd"):
        return None if name == "none" else name
    kind = attacks.PGD if name == "pgd" else attacks.APGD
    steps, restarts = value_of(config, "attack_steps"), value_of(config, "attack_restarts")
    return kind(region, steps, restarts=restarts, loss="margin")


def _table(rows: list[dict[str, Any]]) -> str:
    """Dictionaries with the same keys as a table of plain text."""
    names = list(rows[0])
    cells = [
        names,
        *(
            [f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names]
            for row in rows
        ),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)


def _smoothing(subject: Run) -> str:
    config = subject.config
    noise = NOISES[value_of(config, "noise")](float(config.sigma or 0.0))
    lowered = config.precision == "bfloat16"
    model = smoothing.in_bfloat16(subject.model) if lowered else subject.model
    result = smoothing.certify_set(
        smoothing.SmoothedClassifier(model, noise=noise, batch_size=config.batch_size),
        subject.x,
        subject.y,
        log=config.out,
        adaptive=_adaptive(config) or False,
        seed=config.seed,
        index=subject.index,
        facts=subject.facts,
        verbose=int(config.progress),
        **{name: value_of(config, name) for name in ("n0", "n", "alpha")},
    )
    return result.summary()


def _adaptive(config: Config) -> smoothing.Adaptive | None:
    return smoothing.Adaptive.of(value_of(config, "adaptive"), config.adaptive_precision)
