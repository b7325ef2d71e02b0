"""Makes a page, tables and figures of certification logs and training runs.

tfcert-report run.tsv --dataset=digits --out=report

Takes any number of logs (of tfcert-certify, and smoothing logs of other tools with the columns
idx label predict radius correct time) and folders of tfcert-train. Writes into --out: index.html,
which needs no other file, figures as PNG, tables as CSV and LaTeX.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

from absl import flags

from tfcert.cli import choices, program, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "Folder for the page, the figures and the tables.")
    program.section("Page")
    flags.DEFINE_string("title", None, "Title of the page. Default: one that fits the sources.")
    flags.DEFINE_list(
        "names", None, "Names of the logs and runs, in their order. Default: their file names."
    )
    flags.DEFINE_list(
        "radii", None, "Radii at which tables give the certified accuracy. Default: round numbers."
    )
    flags.DEFINE_integer("gallery", 8, "Number of pictures of each kind; 0 for none.", 0)
    flags.DEFINE_bool("overwrite", False, "Replace files that are in --out.")
    program.section("Pictures")
    flags.DEFINE_string("dataset", None, f"{values.DATASET_HELP} The logs are about this data set.")
    flags.DEFINE_enum("split", "test", ["test", "train"], "Part of --dataset.")
    flags.DEFINE_string("data_dir", None, values.DATA_DIR_HELP)
    flags.DEFINE_string(
        "inputs",
        None,
        "An npz file to use instead of --dataset, with arrays x and y, or x_test and y_test; "
        "x from 0 to 1, or bytes from 0 to 255.",
    )
    flags.DEFINE_string(
        "model_path",
        None,
        "A .keras file of the model that the logs are about, to tell which class each "
        "counterexample becomes.",
    )
    flags.mark_flag_as_required("out")


def _numbers(values: Sequence[str] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise ValueError(f"--radii must be numbers of at least 0. Received: {','.join(values)}.")
    return numbers


def main(argv: Sequence[str]) -> None:
    """Writes the report of the logs and folders that follow the program's name."""
    flag = flags.FLAGS
    with program.mistakes():
        if flag.dataset and flag.inputs:
            raise ValueError("--dataset and --inputs exclude each other: both give the pictures.")
        radii = _numbers(flag.radii)
        choices.check_dataset(flag.dataset, flag.data_dir)
        if len(argv) == 1:
            raise ValueError("Name at least one log file or run folder. Received: none.")
        if flag.model_path and not pathlib.Path(flag.model_path).is_file():
            raise ValueError(f"--model_path={flag.model_path}: there is no such file.")
        for path in argv[1:]:
            if not pathlib.Path(path).exists():
                raise ValueError(f"{path}: there is no such log or folder.")
        program.load_library()
        from tfcert.cli import report_run

        written = report_run.write(
            argv[1:],
            flag.out,
            names=flag.names,
            title=flag.title,
            radii=radii,
            dataset=flag.dataset,
            data_dir=flag.data_dir,
            split=flag.split,
            inputs=flag.inputs,
            model_path=flag.model_path,
            gallery=flag.gallery,
            overwrite=flag.overwrite,
        )
    print(f"Look at {written[0]}; beside it: {', '.join(path.name for path in written[1:])}.")


def run() -> None:
    """The console entry point ``tfcert-report``."""
    program.start(main, _define_flags, __doc__)
