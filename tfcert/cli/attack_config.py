"""The flags of the attacking program, and which of them go together."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfcert.cli import choices, program, values

if TYPE_CHECKING:
    from tfcert.types import AttackLoss, Norm

__all__ = ["SETTINGS", "Config", "check", "settings"]

# The flags that each attack takes, with what they are by default here.
SETTINGS: dict[str, dict[str, Any]] = {
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
    dataset: str
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


def check(config: Config) -> None:
    """Raises where flags do not go together, or name what is not there."""
    program.check_file("model_path", config.model_path)
    choices.check_dataset(config.dataset, config.data_dir)
    values.check_size("eps", config.eps, str(config.norm))
    if pathlib.Path(config.out).exists():
        raise ValueError(f"--out={config.out} exists. Choose another file.")
    settings(config)


def settings(config: Config) -> dict[str, Any]:
    """The arguments of the attack; raises where a flag is another attack's."""
    names = {name for own in SETTINGS.values() for name in own}
    given = {name: getattr(config, name) for name in sorted(names)}
    given = {name: value for name, value in given.items() if value is not None}
    if config.early_stop:
        del given["early_stop"]  # the default of all
    own = SETTINGS[config.attack]
    foreign = {name: value for name, value in given.items() if name not in own}
    if foreign:
        raise ValueError(
            f"--attack={config.attack} takes {_listed(own)}, and no {_listed(foreign)}. "
            f"Received: {foreign}."
        )
    if config.time_limit is not None and config.rounds is None:
        given["rounds"] = None
    return {**own, **given}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))
