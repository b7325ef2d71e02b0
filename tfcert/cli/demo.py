"""The demo: a plain and a certified digit classifier, attacked and verified side by side.

tfcert-demo --out=demo_output --seed=0
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from tfcert.cli import program
from tfcert.cli.demo_config import Config

__all__ = ["main", "run"]


def _define_flags() -> None:
    flags.DEFINE_string("out", "demo_output", "Folder for index.html, curves.png and results.json.")
    flags.DEFINE_integer("seed", 0, "Seed of the initial weights and of the order of training.")
    flags.DEFINE_list(
        "eps",
        [str(eps) for eps in Config().eps],
        "Largest changes of a pixel to verify against, on the scale from 0 (white) to 1 (black); "
        "the images have 17 grey levels, 0.0625 apart.",
    )
    flags.DEFINE_float(
        "train_eps",
        Config().train_eps,
        "Change of a pixel that the certified network is trained against, and that the examples "
        "on the page are about; on the scale of --eps.",
    )
    flags.DEFINE_integer(
        "epochs", Config().epochs, "Passes over the 1,437 training images, for each network."
    )
    flags.DEFINE_integer(
        "examples", Config().examples, "Number of test images to verify, at most 360."
    )


def main(argv: Sequence[str]) -> None:
    """Runs the demo with the parsed flags."""
    program.no_arguments(argv)
    flag = flags.FLAGS
    with program.mistakes():
        config = Config(
            seed=flag.seed,
            eps=tuple(float(eps) for eps in flag.eps),
            train_eps=flag.train_eps,
            epochs=flag.epochs,
            examples=flag.examples,
        )
        # Made first: a folder that cannot be written should fail before the training.
        out = pathlib.Path(flag.out)
        out.mkdir(parents=True, exist_ok=True)
    program.load_library()
    from tfcert.cli import demo_page, demo_run

    results = demo_run.run(config, log=print)
    demo_page.write(results, out)
    (out / "results.json").write_text(json.dumps(results.facts(), indent=2) + "\n")
    print(demo_page.summary(results))
    print(f"\nLook at {out / 'index.html'} (curves.png and results.json are beside it).")


def run() -> None:
    """The console entry point ``tfcert-demo``."""
    program.start(main, _define_flags, __doc__)
