"""The flags of the exporting program, and which of them go together."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tfcert.cli import program, values

if TYPE_CHECKING:
    from tfcert.types import Norm

__all__ = ["Config", "check", "clip"]

# What only one of the two kinds of certificates takes.
_BOUNDS = ("eps", "norm", "clip", "float_safe", "jit_compile")
_SMOOTHING = ("noise", "sigma", "n0", "n", "alpha", "adaptive", "adaptive_precision")


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of ``tfcert-export``, under their names; None where they are not given."""

    model_path: str
    out: str
    method: str
    overwrite: bool
    eps: float | None
    norm: Norm | None
    clip: list[str] | None
    float_safe: bool | None
    jit_compile: bool | None
    noise: str | None
    sigma: float | None
    n0: int | None
    n: int | None
    alpha: float | None
    adaptive: bool | None
    adaptive_precision: float | None


def check(config: Config) -> None:
    """Raises where flags do not go together, or name what is not there."""
    program.check_file("model_path", config.model_path)
    smooths = config.method == "smoothing"
    for name in _BOUNDS if smooths else _SMOOTHING:
        if getattr(config, name) is not None:
            raise ValueError(
                f"--{name} has no meaning for --method={config.method}. "
                f"Received: --{name}={getattr(config, name)}."
            )
    needed = "sigma" if smooths else "eps"
    if getattr(config, needed) is None:
        example = "--sigma=0.25" if smooths else "--eps=8/255"
        raise ValueError(f"--method={config.method} needs --{needed}, such as {example}.")
    if clip(config) == (0.0, 1.0):
        values.check_size("eps", config.eps, str(config.norm or "inf"))
    if pathlib.Path(config.out).exists() and not config.overwrite:
        raise ValueError(f"--out={config.out} exists. Choose another folder, or pass --overwrite.")


def clip(config: Config) -> tuple[float, float] | None:
    """The range of valid inputs."""
    limits = ["0", "1"] if config.clip is None else config.clip
    try:
        numbers = [float(limit) for limit in limits if limit]
    except ValueError:
        numbers = [0.0]
    if len(numbers) not in (0, 2):
        raise ValueError(f"--clip must be low,high, or empty. Received: --clip={','.join(limits)}.")
    return (numbers[0], numbers[1]) if numbers else None
