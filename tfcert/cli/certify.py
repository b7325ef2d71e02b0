"""Says of every test image whether a classifier's answer is provably safe, and writes a log.

tfcert-certify --model_path=run/model.keras --dataset=digits --eps=0.05 --out=run/certify.tsv
tfcert-certify --model_path=run/model.keras --method=smoothing --sigma=0.25 --out=run/smooth.tsv

The log gets a line per image as soon as it is decided. A run that was stopped, even killed, goes on
where it stood when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from tfcert import datasets
from tfcert.certification import UnsoundCertificateError
from tfcert.cli import certify_run, program
from tfcert.smoothing.noise import NOISES

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    flags.DEFINE_enum("dataset", "digits", datasets.NAMES, "Data set; pixels from 0 to 1.")
    flags.DEFINE_string("data_dir", None, "Folder of npz files; default: Keras's downloads.")
    flags.DEFINE_enum("split", "test", ["test", "train"], "Which part of the data set.")
    flags.DEFINE_integer("skip", 1, "Take every k-th image only: numbers 0, k, 2 k, ...", 1)
    flags.DEFINE_integer("max", None, "Take only images whose number is below this.", 1)
    flags.DEFINE_list(
        "method",
        ["auto"],
        "auto; or methods in their order, of lipschitz, ibp, crown-ibp, fast-lin, crown, "
        "alpha-crown; or complete, alone or behind them: branch and bound; or smoothing.",
    )
    flags.DEFINE_integer("seed", 0, "Decides the noise, and which certificates are attacked.", 0)
    flags.DEFINE_integer("batch_size", None, "Images (smoothing: noisy samples) at a time.", 1)
    flags.DEFINE_bool("progress", True, "Show how far the run is.")
    flags.DEFINE_string("out", None, "File for the log; beside it come its facts.")
    # By bounds.
    flags.DEFINE_float("eps", None, "Radius, on the pixel scale 0 to 1.", 0.0)
    flags.DEFINE_string("norm", None, "Norm of the radius: inf (default) or a number from 1 on.")
    flags.DEFINE_bool("float_safe", None, "Certificates for the model as executed in float32.")
    flags.DEFINE_enum(
        "attack", None, ["auto", "pgd", "apgd", "none"], "Looks for counterexamples before bounds."
    )
    flags.DEFINE_integer("attack_steps", None, "Gradient steps of pgd and apgd. Default: 100.", 1)
    flags.DEFINE_integer("attack_restarts", None, "Starts of pgd and apgd. Default: 1.", 1)
    flags.DEFINE_float("max_eps", None, "Also search each image's largest eps, up to this.", 0.0)
    flags.DEFINE_integer("eps_steps", None, "Halvings of that search. Default: 10.", 1)
    flags.DEFINE_float("time_limit", None, "Seconds for the run; then the rest is unknown.", 0.0)
    flags.DEFINE_float("time_limit_per_input", None, "Seconds for each image.", 0.0)
    flags.DEFINE_float(
        "self_check", None, "Share of certificates to attack before they count. Default: 0.05.", 0.0
    )
    # By smoothing.
    flags.DEFINE_enum("noise", None, sorted(NOISES), "Noise. Default: gaussian.")
    flags.DEFINE_float("sigma", None, "Width of the noise: of the Gaussian its deviation.", 0.0)
    flags.DEFINE_integer("n0", None, "Samples that choose the class. Default: 100.", 1)
    flags.DEFINE_integer("n", None, "Samples for the radius. Default: 100000.", 1)
    flags.DEFINE_float("alpha", None, "Probability of a wrong certificate. Default: 0.001.", 0.0)
    flags.DEFINE_bool("adaptive", None, "Draw fewer samples where more would change little.")
    flags.DEFINE_float(
        "adaptive_precision",
        None,
        "With --adaptive: the share of a radius that may be given up for it. Default: 0.05.",
    )
    flags.DEFINE_enum(
        "precision",
        None,
        ["float32", "bfloat16"],
        "What the layers compute in; bfloat16 certifies the model as it computes then. "
        "Default: as the model was saved.",
    )
    flags.mark_flags_as_required(["model_path", "out"])


def main(argv: Sequence[str]) -> None:
    """Certifies with the parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = [field.name for field in dataclasses.fields(certify_run.Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = certify_run.Config(**settings)
    try:
        subject = certify_run.prepare(config)
    except (ValueError, NotImplementedError, OSError) as error:
        raise app.UsageError(str(error)) from error
    try:
        text = certify_run.run(subject, log=logging.info)
    except (ValueError, NotImplementedError, OSError) as error:
        sys.exit(f"tfcert-certify: {error}")
    except UnsoundCertificateError as error:
        print(f"tfcert-certify: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where the log ends.", file=sys.stderr)
        sys.exit(130)
    print(text)
    print(f"\nOne line per image is in {config.out}, the facts of the run in {config.out}.json.")


def run() -> None:
    """The console entry point ``tfcert-certify``."""
    program.start(main, _define_flags, __doc__)
