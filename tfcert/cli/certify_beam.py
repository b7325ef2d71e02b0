"""Certifies the inputs of many files on Apache Beam, on one machine or on a cluster.

tfcert-certify-beam --model_path=run/model.keras --input='shards/*.npz' --eps=0.05 --out=logs

Shards are those of tfcert.scaling.write_shards. Every input is certified exactly once, with the
verdict that tfcert-certify gives it; the logs log-00000-of-00004.tsv and so on can be given to
tfcert-report, with --joined also as one. What follows -- is for Beam:

tfcert-certify-beam ... -- --direct_num_workers=4 --direct_running_mode=multi_processing
tfcert-certify-beam ... -- --runner=FlinkRunner --flink_master=localhost:8081
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from tfcert.cli import choices, program, values

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("model_path", None, "The classifier, a .keras file that all workers see.")
    flags.DEFINE_string("input", None, "Pattern of the shards, .npz or .tfrecord files.")
    values.define_size("eps", None, "Radius, in the units of the inputs, such as 8/255.")
    flags.DEFINE_string("out", None, "Folder for the logs.")
    program.section("Certificates")
    values.define_norm("norm", "inf", "Norm of --eps: inf, or a number from 1 on.")
    flags.DEFINE_list("clip", ["0", "1"], "Limits of valid inputs, low,high; empty for none.")
    values.define_names(
        "method",
        ["auto"],
        ("auto", *choices.METHODS, "complete"),
        f"Methods in their order, of {', '.join(choices.METHODS)}; or auto. complete, at the end: "
        "branch and bound.",
    )
    flags.DEFINE_bool("attack", True, "Look for counterexamples first.")
    flags.DEFINE_bool("float_safe", False, "Certify the model as executed in float32.")
    flags.DEFINE_float(
        "time_limit_per_input",
        None,
        "Seconds for an input. With a limit, verdicts depend on how fast the machines are.",
        0.0,
    )
    flags.DEFINE_float("self_check", 0.05, "Share of certificates that are attacked.", 0.0, 1.0)
    flags.DEFINE_integer("seed", 0, "Seed of the choice of certificates to attack.", 0)
    program.section("Work and output")
    flags.DEFINE_integer("block", 512, "Number of inputs that a worker certifies together.", 1)
    flags.DEFINE_integer("batch_size", None, "Inputs in a batch. Default: by method.", 1)
    flags.DEFINE_integer("shards", 4, "Number of logs.", 1)
    flags.DEFINE_bool("joined", True, "Write all.tsv, too, if --out is a folder of this machine.")
    flags.mark_flags_as_required(["model_path", "input", "eps", "out"])


def main(argv: Sequence[str]) -> None:
    """Certifies with the parsed flags; what is left of the command line is for Beam."""
    if importlib.util.find_spec("apache_beam") is None:
        raise app.UsageError("This program needs Apache Beam: pip install apache-beam")
    unknown = [word for word in argv[1:] if not word.startswith("--")]
    if unknown:
        raise app.UsageError(f"Unexpected arguments: {unknown}. Options of Beam begin with --.")
    flag: dict[str, Any] = flags.FLAGS.flag_values_dict()
    with program.mistakes():
        clip = _clip(flag["clip"])
        if clip == (0.0, 1.0):
            values.check_size("eps", flag["eps"], flag["norm"])
        program.load_library()
        from tfcert import provenance
        from tfcert.scaling import joining, pipeline

        method = tuple(flag["method"])
        fields = {name: flag[name] for name in pipeline.FIELDS}
        settings = pipeline.Settings(**{**fields, "clip": clip, "method": method})
        local = joining.is_local(flag["out"])
        joined = pathlib.Path(flag["out"], "all.tsv")
        if flag["joined"] and local and joined.exists():  # Before hours of work.
            raise ValueError(f"{joined} exists. Choose another folder, or pass --nojoined.")
        facts = {"versions": provenance.versions(), "commit": provenance.commit()}
        paths = pipeline.certify_shards(
            settings, flag["input"], flag["out"], flag["shards"], list(argv[1:]), facts
        )
        if flag["joined"] and local:
            paths = [str(joining.join(paths, str(joined)))]
    print(_summary(paths) if local else f"Logs: {', '.join(paths)}")


def _clip(words: list[str]) -> tuple[float, float] | None:
    words = [word for word in words if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [0.0]
    if len(numbers) not in (0, 2):
        raise ValueError(f"--clip must be low,high. Received: --clip={','.join(words)}.")
    return (numbers[0], numbers[1]) if numbers else None


def _summary(paths: Sequence[str]) -> str:
    from tfcert import logs

    counts = dict.fromkeys(logs.VERDICTS, 0)
    for path in paths:
        for entry in logs.read(path).entries:
            counts[entry["verdict"]] += 1
    total = max(sum(counts.values()), 1)
    lines = [f"  {name:<16}{n:8d}  {100 * n / total:6.2f} %" for name, n in counts.items()]
    return "\n".join([f"{sum(counts.values())} inputs:", *lines, f"Logs: {', '.join(paths)}"])


def run() -> None:
    """The console entry point ``tfcert-certify-beam``."""
    stopped = "Logs are written as a whole: remove what --out holds, and start the command again."
    program.start(main, _define_flags, __doc__, stopped)
