"""Writes a trained classifier and its certificates as one SavedModel, for TensorFlow Serving.

tfcert-export --model_path=run/model.keras --eps=0.05 --method=crown-ibp --out=serving/digits/1
tfcert-export --model_path=run/model.keras --method=smoothing --sigma=0.25 --out=serving/digits/1

The SavedModel needs TensorFlow alone. Its signatures and facts are described in docs/serving.md.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
from absl import app, flags

import tfcert
from tfcert import files, naming, smoothing
from tfcert.bounds import methods
from tfcert.cli import program
from tfcert.regions import LpBall
from tfcert.smoothing.noise import NOISES
from tfcert.types import Norm

__all__ = ["Config", "export_model", "main", "run"]

_METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz", "smoothing")
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


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    flags.DEFINE_string("out", None, "Folder to write; TensorFlow Serving wants <name>/<number>.")
    flags.DEFINE_enum("method", "crown-ibp", _METHODS, "How inputs are certified.")
    flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is at --out.")
    flags.DEFINE_float("eps", None, "Radius of the region, in units of the model's input.", 0.0)
    flags.DEFINE_string("norm", None, "Norm of the radius: inf (default), or a number from 1 on.")
    flags.DEFINE_list(
        "clip", None, "Range of valid inputs: low,high; empty for none. Default: 0,1."
    )
    flags.DEFINE_bool("float_safe", None, "Certify the network as executed in float32.")
    flags.DEFINE_bool("jit_compile", None, "Compile with XLA, once for each batch size.")
    flags.DEFINE_enum("noise", None, sorted(NOISES), "Smoothing: its noise. Default: gaussian.")
    flags.DEFINE_float("sigma", None, "Width of the noise: of the Gaussian its deviation.", 0.0)
    flags.DEFINE_integer("n0", None, "Smoothing: samples that choose the class. Default: 100.", 1)
    flags.DEFINE_integer("n", None, "Smoothing: samples for the radius. Default: 100,000.", 1)
    flags.DEFINE_float("alpha", None, "Smoothing: the probability of an error. Default: 0.001.")
    flags.DEFINE_bool("adaptive", None, "Smoothing: stop early where more samples change little.")
    flags.DEFINE_float(
        "adaptive_precision",
        None,
        "With --adaptive: the share of a radius that may be given up for it. Default: 0.05.",
    )
    flags.mark_flags_as_required(["model_path", "out"])


def export_model(config: Config) -> list[str]:
    """Writes the SavedModel; returns what the user should know."""
    smooths = config.method == "smoothing"
    _check_flags(config, smooths)
    model = files.load_model(config.model_path)
    notes = _check_training(config, model, smooths)
    if smooths:
        given = {name: getattr(config, name) for name in ("n0", "n", "alpha")}
        given = {name: value for name, value in given.items() if value is not None}
        rule = smoothing.Adaptive.of(bool(config.adaptive), config.adaptive_precision)
        given["adaptive"] = rule or False
        noise = NOISES[config.noise or "gaussian"](float(config.sigma or 0.0))
        smoothed = smoothing.SmoothedClassifier(model, noise=noise)
        smoothed.export(config.out, overwrite=config.overwrite, **given)
        return notes
    method = dataclasses.replace(methods.get(config.method), float_safe=bool(config.float_safe))
    limits = ["0", "1"] if config.clip is None else config.clip
    region = LpBall(float(config.eps or 0.0), config.norm or "inf", _clip(limits))
    tfcert.export_certified(
        model,
        config.out,
        region,
        method,
        jit_compile=bool(config.jit_compile),
        overwrite=config.overwrite,
    )
    return notes


def _check_flags(config: Config, smooths: bool) -> None:
    for name in _BOUNDS if smooths else _SMOOTHING:
        if getattr(config, name) is not None:
            raise ValueError(
                f"--{name} has no meaning for --method={config.method}. "
                f"Received: --{name}={getattr(config, name)}."
            )
    needed = "sigma" if smooths else "eps"
    if getattr(config, needed) is None:
        raise ValueError(f"--method={config.method} needs --{needed}.")


def _check_training(config: Config, model: keras.Model, smooths: bool) -> list[str]:
    """Holds the method against what is known about the model's training."""
    known = pathlib.Path(config.model_path).parent / "run.json"
    trained = files.read_json(known).get("flags") if known.is_file() else None
    if not isinstance(trained, dict) or "objective" not in trained:
        trained = {}  # Of another program.
    sigma = trained.get("sigma")
    if sigma is not None and not smooths:
        raise ValueError(
            f"The model was trained for smoothing (--objective={trained['objective']} in {known}): "
            f"bounds certify next to nothing. Use --method=smoothing --sigma={sigma}."
        )
    noise = trained.get("noise") or "gaussian"
    if sigma is not None and (sigma, noise) != (config.sigma, config.noise or "gaussian"):
        return [f"Note: the model was trained with --noise={noise} --sigma={sigma}."]
    bound = naming.trained_with(model)
    if bound is not None and bound != config.method:
        return [f"Note: the model was trained with the bounds of --method={bound}."]
    return []


def _clip(limits: list[str]) -> tuple[float, float] | None:
    try:
        numbers = [float(limit) for limit in limits if limit]
    except ValueError:
        numbers = [0.0]
    if len(numbers) not in (0, 2):
        raise ValueError(f"--clip must be low,high, or empty. Received: --clip={','.join(limits)}.")
    return (numbers[0], numbers[1]) if numbers else None


def main(argv: Sequence[str]) -> None:
    """Exports with the parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = [field.name for field in dataclasses.fields(Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = Config(**settings)
    try:
        notes = export_model(config)
    except (ValueError, NotImplementedError, OSError) as error:
        raise app.UsageError(str(error)) from error
    print("\n".join([*notes, f"The SavedModel is in {config.out}."]))


def run() -> None:
    """The console entry point ``tfcert-export``."""
    program.start(main, _define_flags, __doc__)
