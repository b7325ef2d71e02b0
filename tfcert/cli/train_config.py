"""The flags of the training program, and which of them go together."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import warnings
from typing import Any

from tfcert.cli import choices, values

__all__ = [
    "EVALUATION",
    "SETTINGS",
    "Config",
    "check",
    "check_free_of_bounds",
    "check_same",
    "numbers",
    "warn",
]

# What is done with a run but does not decide what is trained.
_FREE = ("resume", "verbose", "data_dir", "out", "verify", "attack_steps", "attack_step_size")


# Defaults of flags that are refused beside others: of a given one, its value is all that is known.
_DROP_FACTOR = 0.1
EVALUATION: dict[str, Any] = {
    "verify": ["ibp", "crown-ibp", "crown"],
    "attack_steps": 100,
    "attack_step_size": None,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of ``tfcert-train``, under their names."""

    objective: str
    option: list[str]
    dataset: str
    data_dir: str | None
    model: str
    mean: list[str] | None
    std: list[str] | None
    init: str
    init_model: str | None
    precision: str
    eps: float | None
    sigma: float | None
    noise: str | None
    norm: str
    train_eps: float | None
    ramp: list[str] | None
    ramp_shape: str
    epochs: int
    batch_size: int
    optimizer: str
    momentum: float | None
    weight_decay: float | None
    learning_rate: float
    decay: str
    drops: list[str]
    drop_factor: float
    beta_2: float | None
    epsilon: float | None
    clipnorm: float | None
    global_clipnorm: float | None
    l1: float | None
    ema_momentum: float | None
    population_statistics: bool | None
    augment: str
    crop_pixels: int
    crop_fill: str
    limit: int | None
    verify: list[str]
    attack_steps: int
    attack_step_size: float | None
    seed: int
    jit_compile: bool | None
    resume: bool
    verbose: int
    out: str


SETTINGS = tuple(field.name for field in dataclasses.fields(Config))


def check_same(config: Config, known: dict[str, Any]) -> None:
    """Raises where a run that is resumed would train something else; it may train longer."""
    for name, value in dataclasses.asdict(config).items():
        longer = name == "epochs" and config.decay != "cosine" and value > known.get(name, value)
        if name not in _FREE and known.get(name) != value and not longer:
            hint = ""
            if name == "epochs":
                hint = " --epochs may grow only, and not with --decay=cosine, which depends on it."
            raise ValueError(
                "--resume continues with the flags of the run, which had "
                f"--{name}={known.get(name)}.{hint} Received: --{name}={value}."
            )


def check(config: Config) -> None:
    """Raises where flags have no effect beside others, or will fail after training."""
    check_out(config)
    choices.check_dataset(config.dataset, config.data_dir)
    choices.check_model(config.model)
    for name in ("eps", "train_eps"):
        values.check_size(name, getattr(config, name), config.norm)
    for name in ("mean", "std"):
        numbers(name, getattr(config, name))
    ramp = numbers("ramp", config.ramp)
    if ramp is not None and len(ramp) != 2:
        raise ValueError(
            f"--ramp must be begin,end. Received: --ramp={','.join(config.ramp or [])}."
        )
    if config.ramp is None and config.ramp_shape != "linear":
        raise ValueError(
            f"--ramp_shape needs --ramp. Received: --ramp_shape={config.ramp_shape} without it."
        )
    if config.augment == "none" and (config.crop_pixels, config.crop_fill) != (4, "black"):
        raise ValueError(
            "--crop_pixels and --crop_fill need --augment. Received: "
            f"--crop_pixels={config.crop_pixels}, --crop_fill={config.crop_fill} without it."
        )
    for name in ("learning_rate", "epsilon", "clipnorm", "global_clipnorm", "attack_step_size"):
        value = getattr(config, name)
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"--{name} must be > 0 and finite. Received: --{name}={value}.")
    if config.beta_2 is not None and not config.beta_2 < 1.0:
        raise ValueError(f"--beta_2 must lie in [0, 1). Received: --beta_2={config.beta_2}.")
    if config.clipnorm is not None and config.global_clipnorm is not None:
        raise ValueError(
            "--clipnorm limits each gradient, and --global_clipnorm limits all gradients "
            f"together: pass only one. Received: --clipnorm={config.clipnorm}, "
            f"--global_clipnorm={config.global_clipnorm}."
        )
    if config.ema_momentum is not None and not config.ema_momentum < 1.0:
        raise ValueError(
            f"--ema_momentum must lie in [0, 1). Received: --ema_momentum={config.ema_momentum}."
        )
    if config.sigma is not None and config.norm != "inf":
        raise ValueError(
            "--norm is the norm of --eps; --noise decides the norm of smoothing's radii. "
            f"Received: --sigma={config.sigma} --norm={config.norm}."
        )
    drops = numbers("drops", config.drops) or []
    if not drops and config.drop_factor != _DROP_FACTOR:
        raise ValueError(
            f"--drop_factor needs --drops. Received: --drop_factor={config.drop_factor} without it."
        )
    if drops and drops[0] <= 0:
        raise ValueError(f"--drops must be epochs > 0. Received: {','.join(config.drops)}.")
    if any(a >= b for a, b in zip(drops, drops[1:], strict=False)):
        raise ValueError(f"--drops must be increasing epochs. Received: {','.join(config.drops)}.")
    if config.init_model is not None and config.init != "keras":
        raise ValueError(
            "--init has no meaning with --init_model, which contains weights. Received: "
            f"--init={config.init}, --init_model={config.init_model}."
        )
    check_objective(config)


def warn(config: Config) -> None:
    """Warns of flags that are allowed, but hardly meant."""
    drops = numbers("drops", config.drops) or []
    if drops and drops[-1] >= config.epochs:
        warnings.warn(
            f"--drops={','.join(config.drops)}: training ends after epoch {config.epochs}, before "
            "the last drop.",
            stacklevel=2,
        )
    if config.eps is not None and config.train_eps is not None and config.train_eps < config.eps:
        warnings.warn(
            f"--train_eps={config.train_eps} is less than --eps={config.eps}: the model is tested "
            "at a larger radius than it was trained at.",
            stacklevel=2,
        )


def check_out(config: Config) -> None:
    """Raises where --out holds something else than the run to resume."""
    out = pathlib.Path(config.out)
    if config.resume and not (out / "run.json").exists():
        raise ValueError(f"--resume needs a run in --out={config.out}; there is no run.json.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={config.out} is a file. Choose a folder.")
    if out.exists() and any(out.iterdir()) and not config.resume:
        raise ValueError(
            f"--out={config.out} is not empty. Choose another folder, or pass --resume."
        )


def check_objective(config: Config) -> None:
    """Raises where flags and options do not belong to the objective."""
    name = config.objective
    known = choices.OBJECTIVES[name]
    flags = {"sigma", "noise"} | {
        flag for flag in ("train_eps", "ramp") if getattr(config, flag) is not None
    }
    given = [option.partition("=")[0] for option in config.option]
    for option, text in zip(given, config.option, strict=True):
        if option in flags:
            raise ValueError(f"{option} is a flag: --{option}. Received: --option={text}.")
    for option in [flag for flag in ("train_eps", "ramp") if flag in flags] + given:
        if option not in known:
            raise ValueError(
                f"--objective={name} does not take {option}."
                f"{choices.suggestion(option, known)} It takes: {', '.join(sorted(known))}."
            )
    if "sigma" not in known:
        if config.noise is not None:
            raise ValueError(
                "--noise is for the objectives of smoothing, with --sigma. "
                f"Received: --noise={config.noise} --objective={name}."
            )
        _only(config, "eps", "sigma")
    else:
        _only(config, "sigma", "eps")
        if config.noise not in (None, "gaussian") and "noise" not in known:
            raise ValueError(
                f"--objective={name} is for Gaussian noise. Received: --noise={config.noise}."
            )


def _only(config: Config, wanted: str, other: str) -> None:
    """Checks the radius or the noise of the objective; the other flag must not be given."""
    value = getattr(config, wanted)
    if value is None:
        example = "--eps=8/255" if wanted == "eps" else "--sigma=0.25"
        what = "the radius to test at" if wanted == "eps" else "the width of the noise"
        raise ValueError(
            f"--objective={config.objective} needs --{wanted}, {what}, such as {example}."
        )
    if getattr(config, other) is not None:
        raise ValueError(
            f"--objective={config.objective} needs --{wanted} and takes no --{other}. "
            f"Received: --{wanted}={value} --{other}={getattr(config, other)}."
        )


def check_free_of_bounds(config: Config) -> None:
    """Raises where flags say how to verify or attack what has no radius to be tested at."""
    for name, default in EVALUATION.items():
        value = getattr(config, name)
        if value != default:
            given = ",".join(value) if isinstance(value, list) else value
            raise ValueError(
                f"--{name} is for runs with --eps. Without --eps the program bounds and attacks "
                "nothing after training; `tfcert-certify --method=smoothing` certifies networks "
                f"for smoothing. Received: --objective={config.objective} --{name}={given}."
            )


def numbers(name: str, values: list[str] | None) -> list[float] | None:
    """A flag that lists numbers."""
    try:
        found = None if values is None else [float(value) for value in values]
        if not all(map(math.isfinite, found or [])):
            raise ValueError("infinite or no number")
    except ValueError:
        raise ValueError(f"--{name} must be numbers. Received: {','.join(values or [])}.") from None
    return found
