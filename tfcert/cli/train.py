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

from absl import flags

from tfcert.cli import choices, program, train_config, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "Folder for the model, the history and the results.")
    program.section("Data")
    flags.DEFINE_string("dataset", "digits", values.DATASET_HELP)
    flags.DEFINE_string("data_dir", None, values.DATA_DIR_HELP)
    flags.DEFINE_integer("limit", None, "Largest number of training and of test samples.", 1)
    flags.DEFINE_enum(
        "augment",
        "none",
        ["none", "crop", "crop_flip"],
        "Random changes of training images: shifts (crop), or shifts and mirroring (crop_flip).",
    )
    flags.DEFINE_integer("crop_pixels", 4, "Largest shift in pixels, with --augment.", 1)
    flags.DEFINE_enum(
        "crop_fill",
        "black",
        ["black", "edge"],
        "Pixels that a shift brings into the image, with --augment.",
    )
    program.section("Model")
    flags.DEFINE_string(
        "model",
        "dm_small",
        f"Architecture: {', '.join(choices.MODELS)}, or mlp_<layers>x<units>, "
        "linf_mlp_<layers>x<units>, linf_hybrid_..., sort_mlp_... or sort_hybrid_....",
    )
    flags.DEFINE_list(
        "mean", None, "Number that the model subtracts from pixels, or one number per channel."
    )
    flags.DEFINE_list(
        "std", None, "Number that the model divides pixels by, or one number per channel."
    )
    flags.DEFINE_enum(
        "init",
        "keras",
        ["keras", "ibp"],
        "Initial weights: those of Keras, or of tfcert.models.ibp_initialization.",
    )
    flags.DEFINE_string(
        "init_model",
        None,
        "A .keras file of the same --model, whose weights training starts from. AdvIBP's later "
        "stages (--option=stage=2 and on) need one, and freeze the layers that earlier stages "
        "trained.",
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "bfloat16"],
        "Type that the layers compute in, with --sigma. The weights are float32 in both cases; the "
        "saved model keeps the type.",
    )
    program.section("Objective and radius")
    flags.DEFINE_enum("objective", "ibp", sorted(choices.OBJECTIVES), "Training method.")
    flags.DEFINE_multi_string(
        "option",
        [],
        "Argument of the objective, name=value: --option=weight=5.0; a pair for a value that moves "
        "as the radius grows, --option=natural_weight=(1.0,0.5); or a schedule over epochs, "
        "--option=conflict_threshold=linear(1e-5,0.0,109,158). May be repeated.",
    )
    values.define_size("eps", None, "Radius to test at, on the pixel scale 0 to 1, such as 8/255.")
    values.define_size("train_eps", None, "Radius to train at. Default: --eps.")
    flags.DEFINE_enum("norm", "inf", ["inf", "2", "1"], "Norm of --eps and --train_eps.")
    flags.DEFINE_list(
        "ramp", None, "Epochs between which the training radius grows from 0: begin,end."
    )
    flags.DEFINE_enum(
        "ramp_shape", "linear", ["linear", "smoothed"], "Curve of the growing radius, with --ramp."
    )
    flags.DEFINE_float(
        "sigma", None, "Width of the noise, for objectives of smoothing (instead of --eps).", 0.0
    )
    flags.DEFINE_enum(
        "noise", None, choices.NOISES, "Kind of noise, with --sigma. Default: gaussian."
    )
    program.section("Optimizer")
    flags.DEFINE_integer("epochs", 30, "Passes over the training set.", 1)
    flags.DEFINE_integer("batch_size", 256, "Samples in a training step.", 1)
    flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "Optimizer of Keras.")
    flags.DEFINE_float("learning_rate", 5e-4, "Learning rate at the start.", 0.0)
    flags.DEFINE_enum(
        "decay",
        "drops",
        ["drops", "cosine"],
        "Fall of the learning rate: at --drops, or in every step along half a cosine to 0.",
    )
    flags.DEFINE_list("drops", [], "Epochs after which the learning rate is multiplied.")
    flags.DEFINE_float(
        "drop_factor", 0.1, "Factor applied to the learning rate at each epoch in --drops.", 0.0
    )
    flags.DEFINE_float("momentum", None, "Momentum of sgd. Default: 0.", 0.0)
    flags.DEFINE_float(
        "beta_2", None, "Adam's decay of squared gradients. Default: 0.999.", 0.0, 1.0
    )
    flags.DEFINE_float(
        "epsilon",
        None,
        "Adam's epsilon, a constant added to the denominator. Default: 1e-7.",
        0.0,
    )
    flags.DEFINE_float("weight_decay", None, "Decoupled weight decay of Keras's optimizers.", 0.0)
    flags.DEFINE_float("clipnorm", None, "Largest norm of each weight's gradient.", 0.0)
    flags.DEFINE_float(
        "global_clipnorm", None, "Largest norm of the gradient of all weights together.", 0.0
    )
    flags.DEFINE_float("l1", None, "Weight of the sum of absolute kernel entries in the loss.", 0.0)
    flags.DEFINE_float(
        "ema_momentum",
        None,
        "Share that the moving average of the weights keeps in each step. The average becomes the "
        "model in the end.",
        0.0,
        1.0,
    )
    flags.DEFINE_bool(
        "population_statistics",
        None,
        "Give batch normalisations the statistics of the whole training set after every epoch.",
    )
    program.section("After training")
    values.define_names(
        "verify",
        train_config.EVALUATION["verify"],
        choices.METHODS,
        f"Methods for the verified error after training: {', '.join(choices.METHODS)}.",
    )
    flags.DEFINE_integer(
        "attack_steps",
        train_config.EVALUATION["attack_steps"],
        "Gradient steps of the attack after training.",
        1,
    )
    flags.DEFINE_float(
        "attack_step_size",
        None,
        "Step size of the attack after training, as a fraction of --eps. "
        "Default: 2.5 / --attack_steps.",
        0.0,
    )
    program.section("The run")
    flags.DEFINE_integer("seed", 0, "Seed of the weights, the order of samples and the noise.")
    flags.DEFINE_bool(
        "resume",
        False,
        "Continue the run in --out. A larger --epochs extends a finished run.",
    )
    flags.DEFINE_bool(
        "jit_compile", None, "Compile training steps with XLA. Default: where XLA is faster."
    )
    flags.DEFINE_integer(
        "verbose", 2, "Output of Keras: 0 nothing, 1 a progress bar, 2 a line per epoch.", 0, 2
    )
    flags.mark_flags_as_required(["out"])


def main(argv: Sequence[str]) -> None:
    """Trains with the parsed flags."""
    program.no_arguments(argv)
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in train_config.SETTINGS}
    config = train_config.Config(**settings)
    with program.mistakes():
        train_config.check(config)
        program.load_library()
        from tfcert.cli import train_run

        training = train_run.prepare(config)
    try:
        results = train_run.run(training, log=print)
    except (FloatingPointError, ValueError, NotImplementedError) as error:
        sys.exit(f"tfcert-train: {error}")
    except OSError as error:
        sys.exit(f"tfcert-train: {error}\nThe epochs before are kept: --resume continues the run.")
    except KeyboardInterrupt:
        print(
            "\ntfcert-train: Stopped. The same command with --resume goes on after the last whole "
            "epoch.",
            file=sys.stderr,
        )
        sys.exit(130)
    print(f"\nModel, history and results are in {pathlib.Path(config.out)}.")
    print(train_run.summary(results))


def run() -> None:
    """The console entry point ``tfcert-train``."""
    program.start(main, _define_flags, __doc__)
