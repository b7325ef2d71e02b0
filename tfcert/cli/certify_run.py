"""What the certification program does: load, certify by bounds or by smoothing, tell."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcert import attacks, backend, certification, datasets, files, logs, smoothing
from tfcert.certification import identity, progress, recording
from tfcert.regions import LpBall
from tfcert.smoothing import precision
from tfcert.smoothing.noise import NOISES

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
# Samples of images that are certified together, where one image needs fewer.
_TOGETHER = 10_000


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
    method: list[str] = dataclasses.field(default_factory=lambda: ["auto"])
    seed: int = 0
    batch_size: int | None = None
    progress: bool = True
    eps: float | None = None
    norm: str | None = None
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
    smoothing.Adaptive.of(_value(config, "adaptive"), config.adaptive_precision)
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
    region = LpBall(config.eps, _value(config, "norm"), clip=(0.0, 1.0))
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
    config, y = subject.config, subject.y
    settings = {name: _value(config, name) for name in _SMOOTHING} | {"seed": config.seed}
    rule = smoothing.Adaptive.of(settings["adaptive"], settings.pop("adaptive_precision"))
    # All of the rule, so that a log goes on by the rule that it began with.
    settings["adaptive"] = dataclasses.asdict(rule) if rule else False
    noise = NOISES[settings["noise"]](settings["sigma"])
    lowered = settings["precision"] == "bfloat16"
    model = smoothing.in_bfloat16(subject.model) if lowered else subject.model
    settings["precision"] = precision.computes_in(model)
    settings["backend"] = backend.name()  # Each has noise of its own.
    smoothed = smoothing.SmoothedClassifier(model, noise=noise, batch_size=config.batch_size)
    known = {
        **subject.facts,
        "hashes": {
            "model": identity.of_model(subject.model),
            "data": identity.of_arrays(subject.x, y, subject.index),
            "settings": identity.of_settings(settings),
        },
        "inputs": len(y),
        "settings": settings,
    }
    sampling = {name: settings[name] for name in ("n0", "n", "alpha", "seed")}
    sampling["adaptive"] = rule or False
    with logs.Writer(config.out, "smoothing", known, recording.session()) as writer:
        entries = list(writer.entries)
        left = [i for i in range(len(y)) if int(subject.index[i]) not in writer.done]

        def counts() -> dict[str, object]:
            right = [entry["correct"] for entry in entries]
            return {"right": sum(right), "mean radius": f"{_mean_radius(entries):.3f}"}

        bar = progress.Progress(len(y), len(entries), counts, int(config.progress))
        together = max(1, _TOGETHER // settings["n"])
        for start in range(0, len(left), together):
            places = np.array(left[start : start + together])
            begin = time.perf_counter()
            found = smoothed.certify(subject.x[places], index=subject.index[places], **sampling)
            seconds = (time.perf_counter() - begin) / len(places)
            new = [
                {
                    "idx": int(subject.index[place]),
                    "label": int(y[place]),
                    "predict": int(found.prediction[i]),
                    "radius": float(found.radius[i]),
                    "correct": bool(found.prediction[i] == y[place]),
                    "time": seconds,
                }
                for i, place in enumerate(places)
            ]
            writer.write(new)
            entries += new
            bar.add(len(new))
        bar.close()
    return _summary(entries, settings)


def _mean_radius(entries: list[dict[str, Any]]) -> float:
    """The average certified radius, where a wrong class counts as 0."""
    return float(np.mean([entry["radius"] * entry["correct"] for entry in entries] or [0.0]))


def _summary(entries: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    radius = np.array([entry["radius"] for entry in entries])
    right = np.array([entry["correct"] for entry in entries])
    gave_up = np.mean([entry["predict"] == -1 for entry in entries])
    lines = [
        f"{len(entries)} images, {settings['noise']} noise of width {settings['sigma']:g}, "
        f"at most {settings['n']} samples, alpha {settings['alpha']:g}",
        f"  abstained                 {gave_up:8.2%}",
        f"  average certified radius  {_mean_radius(entries):8.4f}",
    ]
    # Multiples of the width that a radius can reach.
    for r in settings["sigma"] * np.arange(0.0, radius.max(initial=0.0) / settings["sigma"], 0.5):
        lines.append(f"  certified beyond {r:<8.4g} {np.mean(right & (radius > r)):8.2%}")
    return "\n".join(lines)
