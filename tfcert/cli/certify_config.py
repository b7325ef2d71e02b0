"""The flags of the certifying program, and which of them go together."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from tfcert.cli import choices, program, values

if TYPE_CHECKING:
    from tfcert.types import Norm

__all__ = ["METHODS", "Config", "check", "value_of"]

METHODS = ("auto", *choices.METHODS, "complete", "smoothing")

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
    dataset: str
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


def check(config: Config) -> None:
    """Raises where flags do not go together, or name what is not there."""
    smooth = config.method == ["smoothing"]
    if "smoothing" in config.method and not smooth:
        raise ValueError(
            "--method=smoothing cannot be combined with other methods. Received: "
            f"--method={','.join(config.method)}."
        )
    kind, needed = ("smoothing", "sigma") if smooth else ("bounds", "eps")
    for name in _BOUNDS if smooth else _SMOOTHING:
        if getattr(config, name) is not None:
            raise ValueError(
                f"--{name} has no meaning for certification by {kind}. Received: "
                f"--{name}={getattr(config, name)} with --method={','.join(config.method)}."
            )
    if getattr(config, needed) is None:
        example = "--sigma=0.25" if smooth else "--eps=8/255"
        raise ValueError(f"--method={','.join(config.method)} needs --{needed}, such as {example}.")
    if config.eps_steps is not None and config.max_eps is None:
        raise ValueError(f"--eps_steps needs --max_eps. Received: --eps_steps={config.eps_steps}.")
    if config.attack not in ("pgd", "apgd"):
        for flag in ("attack_steps", "attack_restarts"):
            if getattr(config, flag) is not None:
                raise ValueError(
                    f"--{flag} needs --attack=pgd or apgd. "
                    f"Received: --attack={value_of(config, 'attack')}."
                )
    for name in ("eps", "max_eps"):
        values.check_size(name, getattr(config, name), str(value_of(config, "norm")))
    if config.sigma is not None and not 0.0 < config.sigma < math.inf:
        raise ValueError(f"--sigma must be positive. Received: --sigma={config.sigma}.")
    program.check_file("model_path", config.model_path)
    choices.check_dataset(config.dataset, config.data_dir)


def value_of(config: Config, name: str) -> Any:
    """The value of a flag, or its default where it is not given."""
    value = getattr(config, name)
    return {**_BOUNDS, **_SMOOTHING}[name] if value is None else value
