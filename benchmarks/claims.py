"""The claims of the papers against the runs that are kept: a figure and a row for each.

    python benchmarks/claims.py    # writes docs/figures/claim_*.png and a table of docs/results.md

Every number is a difference of verified errors between a method and its base, seed by seed: equal
seeds start from the same weights and see the same images in the same order. The digits come from
benchmarks/results/paired_*.json, MNIST from docs/results.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure

_ROOT = pathlib.Path(__file__).parents[1]
_RUNS = _ROOT / "docs" / "results"
_FIGURES = _ROOT / "docs" / "figures"
_PAGE = _ROOT / "docs" / "results.md"
_BEGIN, _END = "<!-- claims: benchmarks/claims.py -->", "<!-- end of claims -->"
_BETTER, _WORSE, _LEVEL = "#0b66a8", "#c2500a", "#666c76"


class Pairs(NamedTuple):
    """Differences of the verified error from a base, in percentage points, one for each seed."""

    label: str
    points: list[float]

    @property
    def mean(self) -> float:
        """Below 0 where the method is better."""
        return statistics.fmean(self.points)

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN of a single seed."""
        if len(self.points) < 2:
            return math.nan
        return statistics.stdev(self.points) / math.sqrt(len(self.points))

    @property
    def verdict(self) -> str:
        """Whether the error differs by more than two standard errors; "level" for one seed."""
        if not abs(self.mean) > 2 * self.error:  # Also where the error is NaN.
            return "level"
        return "better" if self.mean < 0 else "worse"


class Comparison(NamedTuple):
    """A method and its base, each in the benchmark of many seeds and as a recipe for MNIST."""

    method: str
    base: str
    digits: tuple[str, str] | None
    mnist: tuple[str, str] | None

    @property
    def label(self) -> str:
        """What the rows of figures are called."""
        return f"{self.method} − {self.base}"


class Claim(NamedTuple):
    """A method that is said to verify more than its bases.

    Attributes:
        name: What the figure is called.
        rows: The comparisons.
        why: What explains the result, in one sentence.
    """

    name: str
    rows: Sequence[Comparison]
    why: str


_KEPT = "CROWN-IBP kept"
CLAIMS = [
    Claim(
        "advibp",
        [
            Comparison("AdvIBP", "IBP", ("AdvIBP", "IBP"), ("advibp", "ibp")),
            Comparison("AdvIBP", "CROWN-IBP", ("AdvIBP", "CROWN-IBP"), ("advibp", "crown_ibp")),
        ],
        "At short schedules it is in part a faster way to where IBP arrives, too.",
    ),
    Claim(
        "maar",
        [
            Comparison("MAAR 1", "IBP", ("MAAR 1 on IBP", "IBP"), ("maar_ibp_1", "ibp")),
            Comparison("MAAR 5", "IBP", ("MAAR 5 on IBP", "IBP"), ("maar_ibp", "ibp")),
            Comparison(
                "MAAR 5 detached",
                "IBP",
                ("MAAR 5 on IBP detached", "IBP"),
                ("maar_ibp_detach", "ibp"),
            ),
            Comparison("MAAR 1", "CROWN-IBP", ("MAAR 1 on CROWN-IBP", "CROWN-IBP"), None),
            Comparison("MAAR 5", "CROWN-IBP", None, ("maar", "crown_ibp")),
            Comparison(
                "MAAR 5 detached",
                "CROWN-IBP",
                ("MAAR 5 on CROWN-IBP detached", "CROWN-IBP"),
                ("maar_detach", "crown_ibp"),
            ),
        ],
        "The term can also be lowered by a flatter clean output. With those gradients stopped "
        "(detached) it cannot.",
    ),
    Claim(
        "tightness",
        [
            Comparison("gap", _KEPT, ("tight gap", _KEPT), ("tight_gap", "tight_base")),
            Comparison(
                "infeasibility",
                _KEPT,
                ("tight infeasibility", _KEPT),
                ("tight_feasibility", "tight_base"),
            ),
            Comparison("both", _KEPT, ("tight both", _KEPT), ("tight_both", "tight_base")),
            Comparison("both, weights 0.01", _KEPT, ("tight both 0.01", _KEPT), None),
            Comparison(
                "both",
                "Wong-Kolter",
                ("Wong-Kolter tight both", "Wong-Kolter"),
                ("tight_wk_both", "tight_wk_base"),
            ),
        ],
        "A network that is trained with the relaxation that certifies it has a gap of 1 to 4 % of "
        "the margin: little is left to win.",
    ),
    Claim(
        "crown_ibp",
        [
            Comparison("CROWN-IBP", "IBP", ("CROWN-IBP", "IBP"), ("crown_ibp", "ibp")),
            Comparison("CROWN-IBP fused", "CROWN-IBP", ("CROWN-IBP fused", "CROWN-IBP"), None),
            Comparison(_KEPT, "CROWN-IBP", (_KEPT, "CROWN-IBP"), ("tight_base", "crown_ibp")),
        ],
        "CROWN-IBP ends with IBP's loss. The larger the radius, the more intervals are ahead as a "
        "loss, so keeping the backward bound costs most at 0.3.",
    ),
]


def digits(row: Comparison) -> Pairs | None:
    """The differences on the digits, over eight seeds."""
    if row.digits is None:
        return None
    known = json.loads((_ROOT / "benchmarks/results/paired_seeds.json").read_text())["rows"]
    runs = {each["method"]: [100 * run["verified"] for run in each["runs"]] for each in known}
    one, base = (runs[name] for name in row.digits)
    return Pairs(row.label, [a - b for a, b in zip(one, base, strict=True)])


def mnist(row: Comparison) -> list[Pairs]:
    """The differences on MNIST, for every network and schedule that both were trained with."""
    if row.mnist is None:
        return []
    runs, (one, base) = _mnist_runs(), row.mnist
    found = []
    for group in sorted({key[0] for key in runs if key[1] == one}):
        seeds = [s for s in (0, 1) if (group, one, s) in runs and (group, base, s) in runs]
        eps, model, rate = group
        setting = f"ε = {eps}, {model}" + (f" at {rate:g}" if rate != 0.001 else "")
        points = [runs[group, one, seed] - runs[group, base, seed] for seed in seeds]
        if points:
            found.append(Pairs(f"{row.label}: {setting}", points))
    return found


def _mnist_runs() -> dict[tuple[tuple[str, str, float], str, int], float]:
    """The verified error in percent by the best bound, by setting, recipe and seed."""
    found = {}
    for folder in sorted(_RUNS.glob("mnist_0.*")):
        run, results = (
            json.loads((folder / name).read_text()) for name in ("run.json", "results.json")
        )
        _, eps, recipe = folder.name.split("@")[0].split("_", 2)
        settings = run["flags"]
        group = eps, settings["model"], settings["learning_rate"]
        error = 100 * min(known["error"] for known in results["methods"].values())
        if not recipe.endswith(("_40", "_long")):  # Schedules of their own.
            found[group, recipe, run["seed"]] = error
    return found


def draw(claim: Claim) -> figure.Figure:
    """A panel for the digits and one for MNIST: a point for each seed, the mean, its error."""
    left = [found for row in claim.rows if (found := digits(row))]
    right = [found for row in claim.rows for found in mnist(row)]
    height = 1.3 + 0.26 * max(len(left), len(right))
    drawn = figure.Figure(figsize=(9.4, height), layout="constrained")
    panels = drawn.subplots(1, 2)
    _panel(panels[0], left, "digits, ε = 0.05, eight seeds")
    _panel(panels[1], right, "MNIST, one or two seeds")
    drawn.supxlabel("verified error minus that of the base, percentage points", fontsize=9)
    return drawn


def _panel(axes: mpl_axes.Axes, rows: Sequence[Pairs], title: str) -> None:
    for place, row in enumerate(rows):
        color = {"better": _BETTER, "worse": _WORSE, "level": _LEVEL}[row.verdict]
        if len(row.points) < 3:  # An error of two seeds says little.
            color = _BETTER if max(row.points) < 0 else _WORSE if min(row.points) > 0 else _LEVEL
        axes.plot(row.points, [place] * len(row.points), "o", color=color, alpha=0.35, markersize=5)
        error = row.error if len(row.points) > 2 else None
        axes.errorbar(row.mean, place, xerr=error, fmt="|", color=color, capsize=3, markersize=11)
    axes.axvline(0.0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


_WORDS = {"better": "holds", "level": "no difference", "worse": "does not hold: worse"}


def table() -> str:
    """Each comparison on the digits, and how often it comes out that way on MNIST."""
    lines = [
        "| claim: verifies more than its base | base | digits: difference | on the digits | "
        "MNIST: better pairs of runs | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for claim in CLAIMS:
        for place, row in enumerate(claim.rows):
            ahead = [point < 0 for pairs in mnist(row) for point in pairs.points]
            found = digits(row)
            told = [_signed(found), _WORDS[found.verdict]] if found else []
            cells = [row.method, row.base, *(told or ["–", "–"])]
            cells += [f"{sum(ahead)} of {len(ahead)}" if ahead else "–"]
            cells += ["" if place else claim.why]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _signed(pairs: Pairs) -> str:
    return f"{pairs.mean:+.2f} ± {pairs.error:.2f}".replace("-", "−")


def main() -> None:
    """Writes the figures and the table."""
    for claim in CLAIMS:
        draw(claim).savefig(_FIGURES / f"claim_{claim.name}.png", dpi=110, facecolor="white")
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{table()}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
