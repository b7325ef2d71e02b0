"""The work of the training program: build, train with checkpoints, evaluate, write."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcert import (
    assessment,
    attacks,
    backend,
    datasets,
    files,
    models,
    objectives,
    provenance,
    schedules,
    smoothing,
)
from tfcert.bounds import lipschitz
from tfcert.callbacks import PopulationStatistics
from tfcert.cli.backup import Backup
from tfcert.cli.train_config import (
    SETTINGS,
    Config,
    check,
    check_free_of_bounds,
    check_same,
    numbers,
    warn,
)
from tfcert.objectives import latent
from tfcert.regions import LpBall
from tfcert.smoothing.noise import NOISES
from tfcert.trainer import CertifiedTrainer

__all__ = ["OBJECTIVES", "SETTINGS", "Config", "prepare", "run", "summary"]

OBJECTIVES: dict[str, type[objectives.Objective]] = {
    "standard": objectives.Standard,
    "adversarial": objectives.AdversarialTraining,
    "ibp": objectives.IBP,
    "crown-ibp": objectives.CrownIBP,
    "crown-ibp-fused": objectives.FusedCrownIBP,
    "maar": objectives.MAAR,
    "tight": objectives.TightRelaxation,
    "advibp": objectives.AdvIBP,
    "sabr": objectives.SABR,
    "taps": objectives.TAPS,
    "staps": objectives.STAPS,
    "mtl-ibp": objectives.MTLIBP,
    "cc-ibp": objectives.CCIBP,
    "exp-ibp": objectives.ExpIBP,
    "linf": objectives.LInfDistance,
    "gaussian": objectives.GaussianSmoothing,
    "stability": objectives.StabilitySmoothing,
    "smoothadv": objectives.SmoothAdv,
    "macer": objectives.MACER,
    "consistency": objectives.ConsistencySmoothing,
}


@dataclasses.dataclass
class Training:
    """A run that is ready to start."""

    config: Config
    trainer: CertifiedTrainer
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    out: pathlib.Path
    attack: attacks.PGD | None


def prepare(config: Config) -> Training:
    """Builds all that a run needs, and finds everything that would stop it later."""
    check(config)
    warn(config)
    out = pathlib.Path(config.out)
    if config.resume:
        check_same(config, files.read_json(out / "run.json").get("flags", {}))
        if (out / "history.json").exists():
            files.read_json(out / "history.json")
    train, test = datasets.load(config.dataset, config.data_dir)
    classes = 1 + max(int(y.max()) for _, y in (train, test))
    if config.limit is not None:
        train = (train[0][: config.limit], train[1][: config.limit])
        test = (test[0][: config.limit], test[1][: config.limit])
    keras.utils.set_random_seed(config.seed)
    mean, std = numbers("mean", config.mean), numbers("std", config.std)
    model = models.get(config.model, train[0].shape[1:], classes, mean, std)
    if config.init == "ibp":
        models.ibp_initialization(model, config.seed)
    if config.init_model is not None:
        _take_weights(model, config.init_model)
    if config.l1:
        models.l1_penalty(model, config.l1)
    objective = _objective(config)
    if objective.region is None:
        check_free_of_bounds(config)
    elif "lipschitz" in config.verify:
        _check_lipschitz(model, config.norm)
    _freeze(config, model, objective)
    attack = None
    if objective.region is not None:
        steps, size = config.attack_steps, config.attack_step_size
        attack = attacks.PGD(objective.region, steps, size, loss="margin")
    if config.precision == "bfloat16":
        if objective.region is not None:
            raise ValueError(
                "--precision=bfloat16 is for the objectives of smoothing: bounds are computed in "
                f"float32. Received: --objective={config.objective}."
            )
        model = smoothing.in_bfloat16(model)
    trainer = CertifiedTrainer(model, objective, seed=config.seed)
    steps = -(-len(train[0]) // config.batch_size)
    trainer.compile(
        _optimizer(config, steps),
        jit_compile="auto" if config.jit_compile is None else config.jit_compile,
    )
    out.mkdir(parents=True, exist_ok=True)
    return Training(config, trainer, train, test, out, attack)


def _check_lipschitz(model: keras.Model, norm: str) -> None:
    """Raises unless every layer declares a factor, as those of networks of distances do."""
    if norm != "inf":
        raise ValueError(f"--verify=lipschitz is for --norm=inf. Received: --norm={norm}.")
    try:
        lipschitz.factor(model)
    except NotImplementedError as error:
        raise ValueError(f"--verify=lipschitz: {error}") from error


def _take_weights(model: keras.Model, path: str) -> None:
    """Starts from the weights of another run's model of the same kind."""
    weights = files.load_model(path).get_weights()
    given, wanted = ([w.shape for w in known] for known in (weights, model.get_weights()))
    if given != wanted:
        raise ValueError(
            f"--init_model must hold a model like --model, whose weights have the shapes {wanted}. "
            f"Received: {path} with {given}."
        )
    model.set_weights(weights)


def _freeze(config: Config, model: keras.Model, objective: objectives.Objective) -> None:
    """Freezes what AdvIBP's later stages do not train."""
    stage = getattr(objective, "stage", 1)
    if stage == 1:
        return
    if config.init_model is None:
        raise ValueError(
            f"Stage {stage} continues from the model of stage {stage - 1}, so it needs "
            "--init_model. Received: --init_model=None."
        )
    latent.freeze_before(model, stage)


def _objective(config: Config) -> objectives.Objective:
    kind = OBJECTIVES[config.objective]
    known = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {}
    if config.train_eps is not None:
        arguments["train_eps"] = config.train_eps
    ramp = numbers("ramp", config.ramp)
    if ramp is not None:
        begin, end = ramp
        shape = {"linear": schedules.Linear, "smoothed": schedules.Smoothed}[config.ramp_shape]
        arguments["ramp"] = shape(0.0, 1.0, begin, end)
    for option in config.option:
        name, _, text = option.partition("=")
        arguments[name] = _value(name, text)
    if "sigma" in known:
        sigma = float(config.sigma or 0.0)
        arguments["sigma"] = sigma
        if config.noise not in (None, "gaussian"):
            arguments |= {"sigma": None, "noise": NOISES[config.noise](sigma)}
    else:
        norm: Any = "inf" if config.norm == "inf" else int(config.norm)
        arguments["region"] = LpBall(float(config.eps or 0.0), norm=norm, clip=(0.0, 1.0))
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:  # A value of another kind, or out of its range.
        options = " ".join(f"--option={option}" for option in config.option)
        raise ValueError(f"--objective={config.objective} {options}: {error}") from error


_SCHEDULE = re.compile(r"(constant|linear|smoothed|exponential|cosine|piecewise)\((.*)\)")


def _value(name: str, text: str) -> Any:
    """What the text of an option stands for: a schedule, a Python literal, or itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    schedule = _SCHEDULE.fullmatch(text)
    try:
        if schedule:
            kind = getattr(schedules, schedule[1].title())
            return kind(*ast.literal_eval(f"({schedule[2]},)"))
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        if schedule:
            reason = re.sub(r"\S*__init__\(\)", schedule[1], str(error))
            raise ValueError(f"--option={name}={text}: {reason}") from error
        return text


def _optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    if config.optimizer == "adam" and config.momentum is not None:
        raise ValueError(f"--momentum is for sgd. Received: --momentum={config.momentum}.")
    adams = {"beta_2": config.beta_2, "epsilon": config.epsilon}
    adams = {name: value for name, value in adams.items() if value is not None}
    if config.optimizer != "adam" and adams:
        name, value = next(iter(adams.items()))
        raise ValueError(f"--{name} is for adam. Received: --{name}={value}.")
    arguments: dict[str, Any] = {
        "clipnorm": config.clipnorm,
        "global_clipnorm": config.global_clipnorm,
        "weight_decay": config.weight_decay,
    }
    if config.ema_momentum is not None:
        arguments |= {"use_ema": True, "ema_momentum": config.ema_momentum}
    rate = _learning_rate(config, steps)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, **adams, **arguments)
    return keras.optimizers.SGD(rate, momentum=config.momentum or 0.0, **arguments)


def _learning_rate(config: Config, steps: int) -> Any:
    if config.decay == "cosine":
        if config.drops:
            raise ValueError(
                f"--drops needs --decay=drops. Received: --drops={','.join(config.drops)} and "
                "--decay=cosine."
            )
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps)
    if not config.drops:
        return config.learning_rate
    factors = [config.drop_factor**i for i in range(len(config.drops) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(epoch * steps) for epoch in numbers("drops", config.drops) or []],
        [config.learning_rate * factor for factor in factors],
    )


class EpochLog(keras.callbacks.Callback):
    """Writes the History after every epoch, and goes on with that of a resumed run."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.path, self.history = path, {}
        if path.exists():
            self.history = files.read_json(path)
        self.begin = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begin = time.perf_counter()
        for values in self.history.values():  # An epoch that was not finished is run again.
            del values[epoch:]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["seconds"] = round(time.perf_counter() - self.begin, 3)
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        files.write_json(self.path, self.history)


def run(training: Training, log: Callable[[str], None]) -> dict[str, Any]:
    """Trains, evaluates and writes; returns the results."""
    config, out, trainer = training.config, training.out, training.trainer
    earlier = []
    if config.resume:
        before = files.read_json(out / "run.json")
        part = {name: before.get(name) for name in ("versions", "commit", "seconds")}
        earlier = [*before.get("earlier", []), part]
    facts = {
        "flags": dataclasses.asdict(config),
        "seed": config.seed,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "parameters": trainer.model.count_params(),
        # What this run went on from; "seconds" are those of the last part, without these.
        **({"earlier": earlier} if earlier else {}),
    }
    files.write_json(out / "run.json", facts)
    callbacks: list[keras.callbacks.Callback] = [EpochLog(out / "history.json")]
    if config.population_statistics:  # Before the backup of an epoch, which keeps them.
        callbacks.append(PopulationStatistics(training.train[0], config.batch_size))
    callbacks.append(Backup(out / "backup"))
    if backend.writes_tensorboard():
        callbacks.append(keras.callbacks.TensorBoard(out / "logs"))
    else:
        log("No TensorBoard logs: they need TensorFlow and the package tensorboard.")
    begin = time.perf_counter()
    trainer.fit(
        *training.train,
        epochs=config.epochs,
        batch_size=config.batch_size,
        augment=config.augment,
        crop_pixels=config.crop_pixels,
        crop_fill=config.crop_fill,
        validation_data=training.test,
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=config.verbose,
    )
    files.save(out / "model.keras", trainer.model.save)
    history = files.read_json(out / "history.json")
    facts["seconds"] = round(time.perf_counter() - begin, 1)
    facts["training_seconds"] = round(sum(history["seconds"]), 1)
    files.write_json(out / "run.json", facts)
    results = _evaluate(training, log)
    files.write_json(out / "results.json", results)
    return results


def _evaluate(training: Training, log: Callable[[str], None]) -> dict[str, Any]:
    """The errors on the test set; of smoothing objectives those of single noisy inputs.

    The certificates of a smoothed classifier take many passes an image: ``tfcert-certify``.
    """
    config, trainer = training.config, training.trainer
    facts: dict[str, Any] = {"objective": config.objective}
    region = trainer.objective.region
    if region is None:
        x, y = training.test
        found = trainer.evaluate(x, y, batch_size=500, verbose=0, return_dict=True)
        clean = np.argmax(trainer.model.predict(x, batch_size=500, verbose=0), axis=-1)
        noisy = 1.0 - float(found[trainer.objective.accuracy_name])
        return {
            **facts,
            "noise": config.noise or "gaussian",
            "sigma": config.sigma,
            "samples": len(x),
            "clean_error": float(np.mean(clean != y)),
            "noisy_error": noisy,
        }
    results = assessment.assess(
        trainer.model, *training.test, region, config.verify, training.attack, log=log
    )
    return {"eps": config.eps, **facts, **results}


def summary(results: dict[str, Any]) -> str:
    """The errors as a small table."""
    rows = [("clean", results["clean_error"])]
    if "sigma" in results:
        rows.append(("one noisy copy", results["noisy_error"]))
        where = f"sigma={results['sigma']}, {results['noise']} noise"
    else:
        rows.append(("attack", results["attack"]["error"]))
        rows += [(f"verified, {name}", v["error"]) for name, v in results["methods"].items()]
        where = f"eps={results['eps']}"
    lines = [f"Errors on {results['samples']} test inputs at {where}:"]
    return "\n".join(lines + [f"  {name:<24}{100 * error:6.2f} %" for name, error in rows])
