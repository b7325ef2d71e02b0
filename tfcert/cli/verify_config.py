"""The flags of the verifying program, and which of them go together."""

from __future__ import annotations

import dataclasses
import math
import pathlib

__all__ = ["METHODS", "Config", "check"]

METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown")


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of ``tfcert-verify``, under their names, and its two arguments."""

    network: str
    property: str
    out: str | None = None
    time_limit: float | None = None
    method: str = "crown"
    float_safe: bool = False
    dtype: str | None = None
    seed: int = 0
    max_memory: float = 2.0
    batch_size: int | None = None
    progress: bool = True
    certificate: str | None = None


def check(config: Config) -> None:
    """Raises where flags do not go together, or name what is not there."""
    for path in (config.network, config.property):
        if not pathlib.Path(path).is_file():
            what = "This is a folder." if pathlib.Path(path).is_dir() else "There is no such file."
            raise FileNotFoundError(f"{path}: {what}")
    if not (math.isfinite(config.max_memory) and config.max_memory > 0):
        raise ValueError(
            f"--max_memory must be GiB > 0. Received: --max_memory={config.max_memory}."
        )
    if config.certificate is not None and config.method == "ibp":
        raise ValueError(
            "--certificate needs a method that sweeps backward, as the checker does. "
            "Received: --method=ibp."
        )
    if config.dtype is not None and pathlib.Path(config.network).suffix == ".keras":
        raise ValueError(
            "--dtype is for ONNX networks; a .keras file contains its types. Received: "
            f"--dtype={config.dtype}."
        )
