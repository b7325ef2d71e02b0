"""Writes a trained classifier and its certificates as one SavedModel, for TensorFlow Serving.

tfcert-export --model_path=run/model.keras --eps=0.05 --method=crown-ibp --out=serving/digits/1
tfcert-export --model_path=run/model.keras --method=smoothing --sigma=0.25 --out=serving/digits/1

The SavedModel needs TensorFlow alone. Its signatures and facts are described in docs/serving.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfcert.cli import choices, export_config, program, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file.")
    flags.DEFINE_string(
        "out", None, "Folder to write. TensorFlow Serving expects NAME/NUMBER, such as digits/1."
    )
    program.section("Output")
    flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is at --out.")
    program.section("Certificates")
    flags.DEFINE_enum(
        "method", "crown-ibp", (*choices.METHODS, "smoothing"), "Method of certification."
    )
    program.section("Certificates by bounds")
    values.define_size(
        "eps", None, "Radius of the region, in units of the model's input, such as 8/255."
    )
    values.define_norm("norm", None, "Norm of --eps: inf, or a number from 1 on. Default: inf.")
    flags.DEFINE_list(
        "clip", None, "Range of valid inputs: low,high; empty for none. Default: 0,1."
    )
    flags.DEFINE_bool("float_safe", None, "Certify the network as executed in float32.")
    flags.DEFINE_bool("jit_compile", None, "Compile with XLA, once for each batch size.")
    program.section("Certificates by smoothing")
    values.define_smoothing()
    flags.mark_flags_as_required(["model_path", "out"])


def main(argv: Sequence[str]) -> None:
    """Exports with the parsed flags."""
    program.no_arguments(argv)
    names = [field.name for field in dataclasses.fields(export_config.Config)]
    settings: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    config = export_config.Config(**settings)
    with program.mistakes():
        export_config.check(config)
        program.load_library()
        from tfcert.cli import export_run

        notes = export_run.export_model(config)
    print("\n".join([*notes, f"The SavedModel is in {config.out}."]))


def run() -> None:
    """The console entry point ``tfcert-export``."""
    program.start(main, _define_flags, __doc__)
