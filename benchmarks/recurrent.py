"""Certified training of a GRU that reads handwritten digits row by row.

    python benchmarks/recurrent.py --out=benchmarks/results/recurrent

The data set is the UCI digits that ship with the package: a sequence of eight rows of eight pixels.
Each network is trained by one objective and then certified on test digits: by an attack, and by one
method after another on the digits that the ones before left open.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import digits
import machine
from absl import app, flags

_EPS = flags.DEFINE_float("eps", 0.03, "Radius of the l-inf ball, for pixels in [0, 1].")
_UNITS = flags.DEFINE_integer("units", 24, "Units of the GRU.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs; the radius grows in the first two thirds.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown-ibp", "crown"], "Methods, in their order.")
_DIGITS = flags.DEFINE_integer("digits", 100, "Test digits that are certified.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "File for the results, without its ending: OUT.json.")


def scores(image: Any) -> Any:
    """The scores of ten classes, from the last state."""
    from keras import layers

    rows = layers.Reshape(image.shape[1:3])(image)
    return layers.Dense(10)(layers.GRU(_UNITS.value)(rows))


def main(argv: Sequence[str]) -> None:
    """Runs all networks and prints a line for each."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/recurrent.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    rows = []
    for trained_with in ("ibp", "standard"):
        for seed in map(int, _SEEDS.value):
            rows.append(
                digits.run(
                    scores,
                    trained_with,
                    seed,
                    eps=_EPS.value,
                    epochs=_EPOCHS.value,
                    digits=_DIGITS.value,
                    methods=_METHODS.value,
                )
            )
            print(rows[-1], flush=True)
            if _OUT.value:
                machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
