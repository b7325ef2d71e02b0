"""Attacks a trained classifier, and prints the share of answers that stay right.

tfcert-attack --model_path=run/model.keras --dataset=digits --eps=0.05 --attack=apgd --out=a.json

Attacks the test images of a data set, with pixels from 0 to 1. Writes into --out, as JSON: accuracy
on clean images and under attack, the numbers of the images that the attack broke, flags, versions,
commit and time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from tfcert.cli import attack_config, choices, program, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    values.define_size(
        "eps", None, "Radius of the attack, on the pixel scale 0 to 1, such as 8/255."
    )
    flags.DEFINE_string("out", None, "File for the results, as JSON.")
    program.section("Data")
    flags.DEFINE_string("dataset", "digits", values.DATASET_HELP)
    flags.DEFINE_string("data_dir", None, values.DATA_DIR_HELP)
    flags.DEFINE_integer("limit", None, "Number of images to attack, the first ones.", 1)
    program.section("Attack")
    values.define_norm("norm", "inf", "Norm of --eps: inf, or a number from 1 on.")
    flags.DEFINE_enum("attack", "pgd", list(attack_config.SETTINGS), "Search method.")
    flags.DEFINE_integer(
        "steps", None, "Gradient steps of pgd and apgd (default 100), or tries of square (5000).", 1
    )
    flags.DEFINE_integer("restarts", None, "Starts of pgd, apgd and square. Default: 1.", 1)
    flags.DEFINE_float(
        "step_size",
        None,
        "Step size of pgd, as a fraction of --eps. Default: 2.5 / --steps, at most 1.",
        0.0,
    )
    flags.DEFINE_float(
        "momentum", None, "Momentum of pgd (default 0) and apgd (default 0.75).", 0.0
    )
    flags.DEFINE_bool(
        "early_stop", True, "Stop on a batch as soon as all of the batch is misclassified."
    )
    flags.DEFINE_enum(
        "loss", None, choices.ATTACK_LOSSES, "Loss of pgd, apgd and fgsm. Default: margin."
    )
    flags.DEFINE_integer(
        "targets", None, "Number of wrong classes that pgd and apgd make win, each in turn.", 1
    )
    flags.DEFINE_integer(
        "rounds",
        None,
        "Number of runs of all attacks of ensemble. Default: 1, or no limit with --time_limit.",
        1,
    )
    flags.DEFINE_float("time_limit", None, "Seconds after which ensemble begins no batch.", 0.0)
    program.section("The run")
    flags.DEFINE_integer("seed", 0, "Seed of the random starts.")
    flags.DEFINE_integer("batch_size", 500, "Number of images that are attacked together.", 1)
    flags.mark_flags_as_required(["model_path", "eps", "out"])


def main(argv: Sequence[str]) -> None:
    """Attacks with the parsed flags."""
    program.no_arguments(argv)
    names = [field.name for field in dataclasses.fields(attack_config.Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = attack_config.Config(**settings)
    with program.mistakes():
        attack_config.check(config)
        program.load_library()
        from tfcert.cli import attack_run

        results = attack_run.attack_model(config, log=logging.info)
    print(
        f"{results['samples']} test images of {config.dataset}, eps={config.eps}, "
        f"norm {config.norm}:\n"
        f"  clean accuracy         {100 * results['clean_accuracy']:6.2f} %\n"
        f"  accuracy under attack  {100 * results['accuracy_under_attack']:6.2f} %\n"
        f"Details are in {config.out}."
    )


def run() -> None:
    """The console entry point ``tfcert-attack``."""
    program.start(main, _define_flags, __doc__)
