"""Samples that adaptive sampling saves, and the radius that it costs, on the runs in docs/results.

    python benchmarks/adaptive_sampling.py --out=benchmarks/results/adaptive_sampling

Replays each log of a fixed n: its radii tell how many of the n votes were for the certified class,
and those votes are handed out again in random order, until the rule stops. So the numbers are those
of all images of a log, need no network, and are the same on every machine. Where a classifier
abstained its votes are not known; half of them are taken to be for the class.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

_RUNS = pathlib.Path(__file__).parents[1] / "docs" / "results"

_LOGS = flags.DEFINE_string("logs", "mnist_sigma*/n100000.tsv", "Which of docs/results.")
_PRECISIONS = flags.DEFINE_list("precisions", ["0.05", "0.1", "0.15"], "Of adaptive sampling.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides the order of the votes.")
_OUT = flags.DEFINE_string("out", None, "Where to write the table: OUT.json.")


def votes_of(entries: Any, noise: Any, n: int, alpha: float) -> np.ndarray:
    """How many of the n votes around each input were for its class."""
    from tfcert.smoothing import lower_bound

    radii = noise.radius(lower_bound(np.arange(n + 1), n, alpha))
    # The radius rises with the votes, from where it is not 0; a log has it with all digits.
    votes = np.searchsorted(radii, entries.radius - 1e-9 * noise.scale)
    known = ~entries.abstained
    if not np.allclose(radii[np.minimum(votes, n)][known], entries.radius[known], rtol=1e-6):
        raise ValueError(f"{entries.path} has radii that no count of {n} votes gives.")
    return np.where(known, votes, n // 2)


def replay(
    votes: np.ndarray, n: int, alpha: float, rule: Any, radius: Any, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bounds and samples of the rule, on the same votes in random order."""
    from tfcert.smoothing import counting, sequential

    rng = np.random.default_rng(seed)
    agreeing, others = votes.copy(), n - votes

    def draw(active: np.ndarray, start: int, stop: int) -> np.ndarray:
        found = rng.hypergeometric(agreeing[active], others[active], stop - start)
        agreeing[active] -= found
        others[active] -= stop - start - found
        return found

    plan = rule.plan(n, alpha, counting.BLOCK, radius)
    return sequential.estimate(draw, len(votes), plan, rule, radius)


def row_of(path: pathlib.Path, precisions: Sequence[str], seed: int) -> dict[str, Any]:
    """The saving on one log, for each precision."""
    from tfcert import reporting, smoothing

    entries = reporting.read(path)
    settings = entries.settings
    n, alpha = settings["n"], settings["alpha"]
    noise = smoothing.Gaussian(settings["sigma"])
    votes = votes_of(entries, noise, n, alpha)
    fixed = entries.robust_radius().mean()
    row: dict[str, Any] = {"run": path.parent.name, "n": n, "images": len(entries)}
    row |= {"all_votes_agree": float((votes == n).mean()), "acr": float(fixed), "adaptive": {}}
    for text in precisions:
        rule = smoothing.Adaptive(float(text))
        p_lower, samples = replay(votes, n, alpha, rule, noise.radius, seed)
        acr = (noise.radius(p_lower) * entries.correct).mean()
        found = {"times_fewer_samples": n / samples.mean(), "acr_lost": 1.0 - acr / fixed}
        row["adaptive"][text] = {name: float(value) for name, value in found.items()}
    return row


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    import machine  # It lies beside this file, for the program alone.

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    facts = {"command": " ".join(["python benchmarks/adaptive_sampling.py", *sys.argv[1:]])}
    facts |= machine.facts(1)
    rows = []
    for path in sorted(_RUNS.glob(_LOGS.value)):
        rows.append(row_of(path, _PRECISIONS.value, _SEED.value))
        cells = [
            f"{precision}: x{found['times_fewer_samples']:.2f}, ACR -{found['acr_lost']:.1%}"
            for precision, found in rows[-1]["adaptive"].items()
        ]
        print(f"{rows[-1]['run']:<36}{'   '.join(cells)}", flush=True)
    if _OUT.value:
        machine.write(_OUT.value, facts, rows)


if __name__ == "__main__":
    app.run(main)
