"""The demo: how much of a digit classifier's accuracy each method of bounding can verify.

tfcert-demo --out=demo_output --seed=0
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from absl import app, flags

from tfcert.cli import demo_page, demo_run, program

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("out", "demo_output", "Folder for the figures, index.html, results.json.")
    flags.DEFINE_integer("seed", 0, "Decides the initial weights and the order of training.")
    flags.DEFINE_list(
        "eps",
        [str(eps) for eps in demo_run.Config().eps],
        "Largest changes of a pixel to verify against, on the scale from 0 (no ink) to 1 (black); "
        "the images have 17 grey levels, 0.0625 apart.",
    )
    flags.DEFINE_integer("epochs", demo_run.Config().epochs, "Passes over the 1,437 images.")
    flags.DEFINE_integer(
        "examples", demo_run.Config().examples, "How many of the 360 test images to verify."
    )


def main(argv: Sequence[str]) -> None:
    """Runs the demo with the parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    try:
        config = demo_run.Config(
            seed=values.seed,
            eps=tuple(float(eps) for eps in values.eps),
            epochs=values.epochs,
            examples=values.examples,
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    # Made first: a folder that cannot be written should fail before the training.
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)

    results = demo_run.run(config, log=print)
    demo_page.write(results, out)
    (out / "results.json").write_text(json.dumps(results.facts(), indent=2) + "\n")
    print(demo_page.summary(results))
    print(f"\nLook at {out / 'index.html'} (figures beside it, numbers in results.json).")


def run() -> None:
    """The console entry point ``tfcert-demo``."""
    program.start(main, _define_flags, __doc__)
