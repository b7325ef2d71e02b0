"""Certified training of a small vision transformer on handwritten digits.

    python benchmarks/transformer.py --out=benchmarks/results/transformer

The data set is the UCI digits that ship with the package: four patches of 4 x 4 pixels. Each
network is trained by one objective and then certified on test digits: by an attack, and by one
method after another on the digits that the ones before left open.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import digits
import machine
from absl import app, flags

_EPS = flags.DEFINE_float("eps", 0.02, "Radius of the l-inf ball, for pixels in [0, 1].")
_MODEL = flags.DEFINE_string("model", "vit_1_1_4", "A name of tfcert.models.")
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs; the radius grows in the first two thirds.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
_OBJECTIVES = flags.DEFINE_list("objectives", ["ibp", "standard"], "What to train with.")
_METHODS = flags.DEFINE_list("methods", ["ibp", "crown-ibp"], "Methods, in their order.")
_DIGITS = flags.DEFINE_integer("digits", 100, "Test digits that are certified.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "File for the results, without its ending: OUT.json.")


def main(argv: Sequence[str]) -> None:
    """Runs all networks and prints a line for each."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tfcert

    facts = {"command": " ".join(["python benchmarks/transformer.py", *sys.argv[1:]])}
    facts |= machine.facts(os.cpu_count() or 1)
    rows = []
    for trained_with in _OBJECTIVES.value:
        for seed in map(int, _SEEDS.value):
            rows.append(
                digits.run(
                    lambda image: tfcert.models.get(_MODEL.value, image.shape[1:], 10)(image),
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
