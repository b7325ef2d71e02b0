"""The work of the exporting program: load, compare with the training, write a SavedModel."""

from __future__ import annotations

import dataclasses
import pathlib

import keras

import tfcert
from tfcert import files, naming, smoothing
from tfcert.bounds import methods
from tfcert.cli.export_config import Config, check, clip
from tfcert.regions import LpBall
from tfcert.smoothing.noise import NOISES

__all__ = ["export_model"]


def export_model(config: Config) -> list[str]:
    """Writes the SavedModel; returns what the user should know."""
    check(config)
    smooths = config.method == "smoothing"
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
    region = LpBall(float(config.eps or 0.0), config.norm or "inf", clip(config))
    tfcert.export_certified(
        model,
        config.out,
        region,
        method,
        jit_compile=bool(config.jit_compile),
        overwrite=config.overwrite,
    )
    return notes


def _check_training(config: Config, model: keras.Model, smooths: bool) -> list[str]:
    """Holds the method against what is known about the model's training."""
    known = pathlib.Path(config.model_path).parent / "run.json"
    trained = files.read_json(known).get("flags") if known.is_file() else None
    if not isinstance(trained, dict) or "objective" not in trained:
        trained = {}  # Of another program.
    sigma = trained.get("sigma")
    if sigma is not None and not smooths:
        raise ValueError(
            f"The model was trained for smoothing (--objective={trained['objective']} in "
            f"{known}): bounds would certify hardly any input. Use --method=smoothing "
            f"--sigma={sigma}."
        )
    noise = trained.get("noise") or "gaussian"
    if sigma is not None and (sigma, noise) != (config.sigma, config.noise or "gaussian"):
        return [f"Note: the model was trained with --noise={noise} --sigma={sigma}."]
    bound = naming.trained_with(model)
    if bound is not None and bound != config.method:
        return [f"Note: the model was trained with the bounds of --method={bound}."]
    return []
