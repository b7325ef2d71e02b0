"""The claims of the papers against the runs that are kept: a figure and a row for each.

    python benchmarks/claims.py    # writes docs/figures/claim_*.png and a table of docs/results.md

Every number is a difference of verified errors between a method and its base, seed by seed: equal
seeds start from the same weights and see the same images in the same order. The digits come from
benchmarks/results/paired_*.json, MNIST from docs/results. Errors by complete verification count
where both runs of a pair have them over all images, and those by the best bound elsewhere.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
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


class Run(NamedTuple):
    """Errors of a run in percent; NaN without a complete verification of all images."""

    clean: float
    bounds: float
    complete: float

    def verified_less(self, base: Run) -> float:
        """The difference of the verified errors, both judged alike."""
        by_search = self.complete - base.complete
        return self.bounds - base.bounds if math.isnan(by_search) else by_search

    def clean_less(self, base: Run) -> float:
        """The difference of the clean errors."""
        return self.clean - base.clean


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
    Claim(
        "beyond",
        [
            Comparison(name, "IBP, short warm-up", None, (recipe, "ibp_fast"))
            for name, recipe in (
                ("SABR", "sabr"),
                ("MTL-IBP", "mtl_ibp"),
                ("CC-IBP", "cc_ibp"),
                ("Exp-IBP", "exp_ibp"),
                ("TAPS", "taps"),
                ("STAPS", "staps"),
            )
        ],
        "The settings were published for larger networks and longer schedules.",
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


def mnist(
    row: Comparison, less: Callable[[Run, Run], float] = Run.verified_less
) -> dict[str, list[Pairs]]:
    """The differences on MNIST, by radius, for every network and schedule of both methods."""
    if row.mnist is None:
        return {}
    runs, (one, base) = _mnist_runs(), row.mnist
    found: dict[str, list[Pairs]] = {}
    for group in sorted({key[0] for key in runs if key[1] == one}):
        seeds = sorted(seed for g, recipe, seed in runs if (g, recipe) == (group, one))
        eps, model, rate = group
        setting = f"ε = {eps}, {model}" + (f" at {rate:g}" if rate != 0.001 else "")
        points = [
            less(runs[group, one, seed], runs[group, base, seed])
            for seed in seeds
            if (group, base, seed) in runs
        ]
        if points:
            found.setdefault(eps, []).append(Pairs(f"{row.label}: {setting}", points))
    return found


def _mnist_runs() -> dict[tuple[tuple[str, str, float], str, int], Run]:
    """The errors of the runs, by setting, recipe and seed."""
    found = {}
    for folder in sorted(_RUNS.glob("mnist_0.*")):
        run, results = (
            json.loads((folder / name).read_text()) for name in ("run.json", "results.json")
        )
        _, eps, recipe = folder.name.split("@")[0].split("_", 2)
        settings = run["flags"]
        group = eps, settings["model"], settings["learning_rate"]
        bounds = min(known["error"] for known in results["methods"].values())
        complete = math.nan
        if (folder / "complete.json").exists():
            searched = json.loads((folder / "complete.json").read_text())
            if searched["samples"] == results["samples"]:
                complete = searched["error"]
        if not recipe.endswith(("_40", "_long")):  # Schedules of their own.
            errors = Run(100 * results["clean_error"], 100 * bounds, 100 * complete)
            found[group, recipe, run["seed"]] = errors
    return found


def compared(claim: Claim) -> list[Comparison]:
    """The comparisons of which both sides have run."""
    return [row for row in claim.rows if row.digits or mnist(row)]


def _rows(claim: Claim, less: Callable[[Run, Run], float]) -> list[Pairs]:
    """The rows of a panel for MNIST."""
    return [p for row in claim.rows for pairs in mnist(row, less).values() for p in pairs]


def draw(claim: Claim) -> figure.Figure:
    """Two panels with a point for each seed, the mean and its error: the digits and MNIST.

    Without runs on the digits: clean and verified errors on MNIST.
    """
    left = [found for row in claim.rows if (found := digits(row))]
    right = _rows(claim, Run.verified_less)
    titles = ["digits, ε = 0.05, eight seeds", "MNIST, one or two seeds"]
    what = "verified error minus that of the base, percentage points"
    same = not left
    if same:
        left = _rows(claim, Run.clean_less)
        titles = ["MNIST, clean error", "MNIST, verified error"]
        what = "error minus that of the base, percentage points"
    height = 1.3 + 0.26 * max(len(left), len(right))
    drawn = figure.Figure(figsize=(9.4, height), layout="constrained")
    panels = drawn.subplots(1, 2)
    for panel, rows, title in zip(panels, (left, right), titles, strict=True):
        _panel(panel, rows, title)
    if same:  # The labels of the rows on the left are enough.
        panels[1].tick_params(axis="y", labelleft=False)
    drawn.supxlabel(what, fontsize=9)
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
        "MNIST 0.1: better pairs, mean difference | MNIST 0.3 | why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim in CLAIMS:
        for place, row in enumerate(compared(claim)):
            found, known = digits(row), mnist(row)
            told = [_signed(found), _WORDS[found.verdict]] if found else []
            cells = [row.method, row.base, *(told or ["–", "–"])]
            cells += [_counted(known.get(eps, [])) for eps in ("0.1", "0.3")]
            cells += ["" if place else claim.why]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _counted(known: Sequence[Pairs]) -> str:
    """How many of the pairs are better, and the mean over all of them."""
    points = [point for pairs in known for point in pairs.points]
    if not points:
        return "–"
    better = sum(point < 0 for point in points)
    return f"{better} of {len(points)}, {_number(statistics.fmean(points))}"


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _signed(pairs: Pairs) -> str:
    return f"{_number(pairs.mean)} ± {pairs.error:.2f}"


def main() -> None:
    """Writes the figures and the table."""
    for claim in CLAIMS:
        draw(claim).savefig(_FIGURES / f"claim_{claim.name}.png", dpi=110, facecolor="white")
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{table()}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
