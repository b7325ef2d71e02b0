"""Decides whether a network has a property: proves it, or finds an input that breaks it.

tfcert-verify network.onnx property.vnnlib --time_limit=60 --out=result.txt
tfcert-verify network.onnx property.vnnlib --certificate=proof.npz
tfcert-verify run/model.keras property.vnnlib --method=crown --float_safe --certificate=proof.npz

Both files may be compressed by gzip. The first line of --out is unsat (the property holds), sat (an
input breaks it), timeout or unknown. After sat comes the counterexample, as in the verification
competition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from tfcert.cli import program, verify_config

__all__ = ["main", "run"]


def _define_flags() -> None:
    program.section("Output")
    flags.DEFINE_string("out", None, "File for the verdict and the counterexample.")
    flags.DEFINE_string(
        "certificate",
        None,
        "File for a proof of unsat, which tfcert-check can check: a .npz. For a .keras file, the "
        "network is written beside the proof.",
    )
    flags.DEFINE_bool("progress", True, "Show how far the search is.")
    program.section("Search")
    flags.DEFINE_float(
        "time_limit", None, "Seconds, the reading of both files included. Default: no limit.", 0.0
    )
    flags.DEFINE_enum(
        "method",
        "crown",
        verify_config.METHODS,
        "Method that bounds every part of the inputs.",
    )
    flags.DEFINE_bool("float_safe", False, "Decide about the network as executed in float32.")
    flags.DEFINE_enum(
        "dtype", None, ["float32", "float64"], "Type of an ONNX network. Default: the stored type."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the random points.", 0)
    flags.DEFINE_float("max_memory", 2.0, "GiB for open parts of the inputs.")
    flags.DEFINE_integer("batch_size", None, "Number of parts that are bounded together.", 2)


def main(argv: Sequence[str]) -> None:
    """Verifies with the parsed flags."""
    if len(argv) != 3:
        raise app.UsageError(f"Pass a network and a property, in this order. Received: {argv[1:]}")
    names = {field.name for field in dataclasses.fields(verify_config.Config)}
    settings: dict[str, Any] = {
        name: flags.FLAGS[name].value for name in names - {"network", "property"}
    }
    config = verify_config.Config(network=argv[1], property=argv[2], **settings)
    with program.mistakes():
        verify_config.check(config)
        program.load_library()
        from tfcert.cli import verify_run

        outcome = verify_run.run(verify_run.prepare(config), log=logging.info)
    print(verify_run.first_line(outcome))
    print(outcome.summary())
    if outcome.certificate is not None:
        print(f"The proof is in {outcome.certificate}. Check it:")
        print(verify_run.command(config))


def run() -> None:
    """The console entry point ``tfcert-verify``."""
    program.start(main, _define_flags, __doc__)
