"""Trains a certifiable classifier and measures it.

tfcert-train --objective=ibp --dataset=digits --model=mlp_2x64 --eps=0.05 --epochs=30 --out=run

Writes into --out: model.keras (a plain Keras model), history.json, run.json (flags, versions,
commit, timings), results.json (errors on the test set) and logs for TensorBoard.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from tfcert import datasets, models
from tfcert.cli import program, train_run
from tfcert.smoothing.noise import NOISES

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_enum("objective", "ibp", sorted(train_run.OBJECTIVES), "What is minimised.")
    flags.DEFINE_multi_string(
        "option",
        [],
        "An argument of the objective, name=value, such as --option=weight=5.0 or, for a value "
        "that moves as the radius grows, --option=natural_weight=(1.0,0.5), or a schedule over "
        "epochs, --option=conflict_threshold=linear(1e-5,0.0,109,158). May be repeated.",
    )
    flags.DEFINE_enum("dataset", "digits", datasets.NAMES, "Data set.")
    flags.DEFINE_string("data_dir", None, "Folder of npz files; default: Keras's downloads.")
    flags.DEFINE_string(
        "model",
        "dm_small",
        f"One of {', '.join(models.NAMES)}, or mlp_<layers>x<units>, "
        "linf_mlp_<layers>x<units> or linf_hybrid_<layers>x<units>.",
    )
    flags.DEFINE_list("mean", None, "Subtracted from pixels inside of the model; per channel.")
    flags.DEFINE_list("std", None, "What pixels are divided by inside of the model, then.")
    flags.DEFINE_enum(
        "init", "keras", ["keras", "ibp"], "Initial weights; ibp: tfcert.models.ibp_initialization."
    )
    flags.DEFINE_string(
        "init_model",
        None,
        "A .keras file of the same --model, whose weights training starts from. For AdvIBP's later "
        "stages, --option=stage=2 and on, which freeze the layers that earlier ones trained.",
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "bfloat16"],
        "What the layers compute in, with --sigma; the weights are float32 all the same. The model "
        "in --out computes in it, too.",
    )
    flags.DEFINE_float("eps", None, "Radius to test at, on the pixel scale 0 to 1.", 0.0)
    flags.DEFINE_float("sigma", None, "Instead of --eps: width of the noise.", 0.0)
    flags.DEFINE_enum("noise", None, sorted(NOISES), "Its kind, with --sigma. Default: gaussian.")
    flags.DEFINE_enum("norm", "inf", ["inf", "2", "1"], "Norm of the radius.")
    flags.DEFINE_float("train_eps", None, "Radius to train at. Default: that of --eps.", 0.0)
    flags.DEFINE_list("ramp", None, "Epochs between which the training radius grows, begin,end.")
    flags.DEFINE_enum("ramp_shape", "linear", ["linear", "smoothed"], "How it grows.")
    flags.DEFINE_integer("epochs", 30, "Passes over the training set.", 1)
    flags.DEFINE_integer("batch_size", 256, "Samples in a step.", 1)
    flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "Keras's optimizer.")
    flags.DEFINE_float("momentum", None, "Of sgd; default 0.", 0.0)
    flags.DEFINE_float("weight_decay", None, "Of the optimizer, decoupled as in Keras.", 0.0)
    flags.DEFINE_float("learning_rate", 5e-4, "Of the optimizer.", 0.0)
    flags.DEFINE_enum(
        "decay",
        "drops",
        ["drops", "cosine"],
        "How the learning rate falls: at --drops, or in every step, along half a cosine, to 0.",
    )
    flags.DEFINE_list("drops", [], "Epochs after which the learning rate falls.")
    flags.DEFINE_float("drop_factor", 0.1, "What it is multiplied with then.", 0.0)
    flags.DEFINE_float("beta_2", None, "Adam's decay of squared gradients.", 0.0, 1.0)
    flags.DEFINE_float("epsilon", None, "Adam's.", 0.0)
    flags.DEFINE_float("clipnorm", None, "Largest norm of each weight's gradient.", 0.0)
    flags.DEFINE_enum(
        "augment",
        "none",
        ["none", "crop", "crop_flip"],
        "Random shifts, and mirroring.",
    )
    flags.DEFINE_integer("crop_pixels", 4, "Largest shift of --augment.", 1)
    flags.DEFINE_enum("crop_fill", "black", ["black", "edge"], "What is beyond the border then.")
    flags.DEFINE_integer("limit", None, "Use only so many training and test samples.", 1)
    flags.DEFINE_list(
        "verify", ["ibp", "crown-ibp", "crown"], "Methods for the verified error after training."
    )
    flags.DEFINE_integer("attack_steps", 100, "Of the attack after training.", 1)
    flags.DEFINE_float(
        "attack_step_size", None, "Of it, as a fraction of --eps. Default: 2.5 / steps.", 0.0
    )
    flags.DEFINE_integer("seed", 0, "Decides weights, order and noise.")
    flags.DEFINE_bool("jit_compile", None, "Compile steps with XLA. Default: where it is faster.")
    flags.DEFINE_bool("resume", False, "Go on with the run in --out.")
    flags.DEFINE_integer("verbose", 2, "Keras's: 0 silent, 1 progress bar, 2 a line per epoch.")
    flags.DEFINE_string("out", None, "Folder for the results.")
    flags.mark_flags_as_required(["out"])


def main(argv: Sequence[str]) -> None:
    """Trains with the parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in train_run.SETTINGS}
    try:
        config = train_run.Config(**settings)
        training = train_run.prepare(config)
    except (ValueError, NotImplementedError, OSError) as error:
        raise app.UsageError(str(error)) from error
    try:
        results = train_run.run(training, log=print)
    except FloatingPointError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error}\nWhat was trained before is kept; --resume goes on from there.")
    print(f"\nModel, history and results are in {pathlib.Path(config.out)}.")
    print(train_run.summary(results))


def run() -> None:
    """The console entry point ``tfcert-train``."""
    program.start(main, _define_flags, __doc__)
