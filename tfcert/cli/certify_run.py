"""What the certification program does: load, certify by bounds or by smoothing, tell."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcert import attacks, certification, datasets, files, smoothing
from tfcert.regions import LpBall
from tfcert.smoothing import precision
from tfcert.smoothing.noise import NOISES
from tfcert.types import DatasetName, Norm

__all__ = ["Config", "Run", "prepare", "run"]

# Flags that one kind of certification knows alone, with what None stands for.
_BOUNDS: dict[str, Any] = {
    "eps": None,
    "norm": "inf",
    "float_safe": False,
    "attack": "auto",
    "attack_steps": 100,
    "attack_restarts": 1,
    "max_eps": None,
    "eps_steps": 10,
    "time_limit": None,
    "time_limit_per_input": None,
    "self_check": 0.05,
}
_SMOOTHING: dict[str, Any] = {
    "noise": "gaussian",
    "sigma": None,
    "n0": 100,
    "n": 100_000,
    "alpha": 0.001,
    "adaptive": False,
    "adaptive_precision": None,
    "precision": None,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of ``tfcert-certify``, under their names."""

    model_path: str
    dataset: DatasetName
    out: str
    data_dir: str | None = None
    split: str = "test"
    skip: int = 1
    max: int | None = None
    method: list[Any] = dataclasses.field(default_factory=lambda: ["auto"])
    seed: int = 0
    batch_size: int | None = None
    progress: bool = True
    eps: float | None = None
    norm: Norm | None = None
    float_safe: bool | None = None
    attack: str | None = None
    attack_steps: int | None = None
    attack_restarts: int | None = None
    max_eps: float | None = None
    eps_steps: int | None = None
    time_limit: float | None = None
    time_limit_per_input: float | None = None
    self_check: float | None = None
    noise: str | None = None
    sigma: float | None = None
    n0: int | None = None
    n: int | None = None
    alpha: float | None = None
    adaptive: bool | None = None
    adaptive_precision: float | None = None
    precision: str | None = None


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
    smooth = config.method == ["smoothing"]
    if "smoothing" in config.method and not smooth:
        raise ValueError(
            f"--method=smoothing stands alone. Received: --method={','.join(config.method)}."
        )
    kind, needed = ("smoothing", "sigma") if smooth else ("bounds", "eps")
    for name in _BOUNDS if smooth else _SMOOTHING:
        if getattr(config, name) is not None:
            raise ValueError(
                f"--{name} does not belong to certification by {kind}. "
                f"Received: --{name}={getattr(config, name)} with "
                f"--method={','.join(config.method)}."
            )
    if getattr(config, needed) is None:
        raise ValueError(f"--method={','.join(config.method)} needs --{needed}.")
    if config.eps_steps is not None and config.max_eps is None:
        raise ValueError(
            f"--eps_steps goes with --max_eps. Received: --eps_steps={config.eps_steps}."
        )
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
    if config.sigma is not None and not 0.0 < config.sigma < np.inf:
        raise ValueError(f"--sigma must be positive. Received: --sigma={config.sigma}.")
    _adaptive(config)
    saved = precision.computes_in(model)
    if config.precision == "float32" and saved != "float32":
        raise ValueError(
            f"The layers of {config.model_path} compute in {saved}, and certificates are about the "
            "model as it was saved. Leave out --precision. Received: --precision=float32."
        )


def run(subject: Run, log: Callable[[str], None]) -> str:
    """Certifies, and returns what there is to say in the end."""
    log(f"{len(subject.x)} images, log {subject.config.out}")
    smooth = subject.config.method == ["smoothing"]
    return _smoothing(subject) if smooth else _bounds(subject)


def _value(config: Config, name: str) -> Any:
    value = getattr(config, name)
    return {**_BOUNDS, **_SMOOTHING}[name] if value is None else value


def _bounds(subject: Run) -> str:
    config = subject.config
    region = LpBall(float(config.eps or 0.0), _value(config, "norm"), clip=(0.0, 1.0))
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
            name: _value(config, name)
            for name in (
                *("float_safe", "max_eps", "eps_steps"),
                *("time_limit", "time_limit_per_input", "self_check"),
            )
        },
    )
    return f"{result.summary()}\n\n{_table(result.per_class())}"


def _attack(config: Config, region: LpBall) -> Any:
    name = _value(config, "attack")
    if name not in ("pgd", "apgd"):
        for flag in ("attack_steps", "attack_restarts"):
            if getattr(config, flag) is not None:
                raise ValueError(f"--{flag} needs --attack=pgd or apgd. Received: --attack={name}.")
        return None if name == "none" else name
    kind = attacks.PGD if name == "pgd" else attacks.APGD
    steps, restarts = _value(config, "attack_steps"), _value(config, "attack_restarts")
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
    noise = NOISES[_value(config, "noise")](float(config.sigma or 0.0))
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
        **{name: _value(config, name) for name in ("n0", "n", "alpha")},
    )
    return result.summary()


def _adaptive(config: Config) -> smoothing.Adaptive | None:
    return smoothing.Adaptive.of(_value(config, "adaptive"), config.adaptive_precision)
