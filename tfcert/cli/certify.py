"""Decides for every test image whether a classifier's answer is provably safe, and writes a log.

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

from absl import flags, logging

from tfcert.cli import certify_config, program, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    flags.DEFINE_string("out", None, "File for the log. The facts of the run come beside the log.")
    program.section("Data")
    flags.DEFINE_string("dataset", "digits", values.DATASET_HELP)
    flags.DEFINE_string("data_dir", None, values.DATA_DIR_HELP)
    flags.DEFINE_enum("split", "test", ["test", "train"], "Part of the data set.")
    flags.DEFINE_integer("skip", 1, "Step k through the images: numbers 0, k, 2 k, and so on.", 1)
    flags.DEFINE_integer(
        "max", None, "End of the images: those with a smaller number are taken.", 1
    )
    program.section("Certificates")
    values.define_names(
        "method",
        ["auto"],
        certify_config.METHODS,
        "Methods in their order, or auto, or smoothing alone. Methods by bounds: lipschitz, ibp, "
        "crown-ibp, fast-lin, crown, alpha-crown. complete, at the end: branch and bound.",
    )
    program.section("Certificates by bounds")
    values.define_size("eps", None, "Radius, on the pixel scale 0 to 1, such as 8/255.")
    values.define_norm("norm", None, "Norm of --eps: inf, or a number from 1 on. Default: inf.")
    flags.DEFINE_bool("float_safe", None, "Certify the model as executed in float32.")
    flags.DEFINE_enum(
        "attack",
        None,
        ["auto", "pgd", "apgd", "none"],
        "Search for counterexamples before the bounds. Default: auto.",
    )
    flags.DEFINE_integer("attack_steps", None, "Gradient steps of pgd and apgd. Default: 100.", 1)
    flags.DEFINE_integer("attack_restarts", None, "Random starts of pgd and apgd. Default: 1.", 1)
    values.define_size(
        "max_eps", None, "Upper end of a search for the largest certified radius of each image."
    )
    flags.DEFINE_integer("eps_steps", None, "Halvings in the search to --max_eps. Default: 10.", 1)
    flags.DEFINE_float(
        "time_limit", None, "Seconds for the run. Images left after that are unknown.", 0.0
    )
    flags.DEFINE_float("time_limit_per_input", None, "Seconds for each image.", 0.0)
    flags.DEFINE_float(
        "self_check",
        None,
        "Share of certificates that are attacked before they count. Default: 0.05.",
        0.0,
    )
    program.section("Certificates by smoothing")
    values.define_smoothing()
    flags.DEFINE_enum(
        "precision",
        None,
        ["float32", "bfloat16"],
        "Type that the layers compute in; the certificates are about the model in that type. "
        "Default: as the model was saved.",
    )
    program.section("The run")
    flags.DEFINE_integer(
        "seed", 0, "Seed of the noise, and of the choice of certificates to attack.", 0
    )
    flags.DEFINE_integer(
        "batch_size", None, "Number of images (smoothing: noisy samples) in a batch.", 1
    )
    flags.DEFINE_bool("progress", True, "Show how far the run is.")
    flags.mark_flags_as_required(["model_path", "out"])


def main(argv: Sequence[str]) -> None:
    """Certifies with the parsed flags."""
    program.no_arguments(argv)
    names = [field.name for field in dataclasses.fields(certify_config.Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = certify_config.Config(**settings)
    with program.mistakes():
        certify_config.check(config)
        program.load_library()
        from tfcert.certification import UnsoundCertificateError
        from tfcert.cli import certify_run

        subject = certify_run.prepare(config)
    try:
        text = certify_run.run(subject, log=logging.info)
    except (ValueError, NotImplementedError, OSError) as error:
        sys.exit(f"tfcert-certify: {error}")
    except UnsoundCertificateError as error:
        print(f"tfcert-certify: {error}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print(
            "\ntfcert-certify: Stopped. The same command goes on where the log ends.",
            file=sys.stderr,
        )
        sys.exit(130)
    print(text)
    print(f"\nOne line per image is in {config.out}, the facts of the run in {config.out}.json.")


def run() -> None:
    """The console entry point ``tfcert-certify``."""
    program.start(main, _define_flags, __doc__)
