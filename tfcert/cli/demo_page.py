"""The demo's figure, its page and the summary that it prints."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib import figure

from tfcert.cli import demo_run
from tfcert.reporting import figures, images, page, tables

__all__ = ["summary", "write"]

_NAMES = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "α-CROWN"}
_SHOWN = 8  # images of each kind


def write(results: demo_run.Results, out: pathlib.Path) -> None:
    """Writes verified_accuracy.png and index.html, which needs no other file."""
    drawn = _curves(results)
    (out / "verified_accuracy.png").write_bytes(figures.png(drawn))
    (out / "index.html").write_text(_page(results, drawn), encoding="utf-8")


def summary(results: demo_run.Results) -> str:
    """The verified accuracies as a table of plain text."""
    sizes = results.config.eps
    rows = [["eps", *(f"{eps:g}" for eps in sizes)]]
    rows += [
        [method, *(f"{accuracy:.1%}" for accuracy in results.accuracies(method))]
        for method in results.verified
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        )
        for row in rows
    ]
    head = (
        f"\nClean accuracy {results.clean_accuracy:.1%} on {len(results.y)} test images. Verified: "
        "right, and no change of\nevery pixel by up to eps can make it wrong.\n"
    )
    return "\n".join([head, *lines])


def _curves(results: demo_run.Results) -> figure.Figure:
    clean = results.clean_accuracy
    order = np.argsort(results.config.eps)
    sizes = np.array(results.config.eps)[order]
    with figures.new("ε: every pixel may change by this much", "verified accuracy", True) as made:
        drawn, axes = made
        axes.set_ylim(-0.02, 1.06)
        for place, method in reversed(list(enumerate(results.verified))):
            # At eps = 0 the bounds are the logits themselves.
            accuracies = np.concatenate([[clean], np.array(results.accuracies(method))[order]])
            look = figures.look(place)
            axes.plot(np.concatenate([[0.0], sizes]), accuracies, label=_NAMES[method], **look)
        axes.axhline(clean, **{**figures.look(7), "marker": "", "linestyle": "--", "linewidth": 1})
        axes.set_xlim(left=0)
        figures.legend(drawn)
    return drawn


def _gallery(results: demo_run.Results, chosen: np.ndarray) -> str:
    cards = []
    for index in chosen:
        digit = results.y[index]
        # Ink is 1 in the data and black on paper.
        picture = images.picture(results.x[index], f"a handwritten {digit}", reverse=True)
        caption = (
            f"“{digit}”, ε = {results.radius[index]:.3f}, then maybe “{results.runner_up[index]}”"
        )
        cards.append(images.card([(picture, "")], caption))
    return images.gallery(cards)


def _page(results: demo_run.Results, drawn: figure.Figure) -> str:
    right = np.flatnonzero(results.predictions == results.y)
    order = right[np.argsort(-results.radius[right], kind="stable")]
    curves = page.figure(
        figures.svg(drawn, "Verified accuracy against epsilon, by method"),
        f"The dashed line is the clean accuracy, {results.clean_accuracy:.1%}.",
    )
    verified = page.Section("Verified accuracy", f"{curves}\n{_table(results).html()}")
    robust = page.Section(
        "The most and the least robust inputs",
        f"""<h3>Most robust</h3>
{_gallery(results, order[:_SHOWN])}
<h3>Least robust</h3>
{_gallery(results, order[::-1][:_SHOWN])}
<p class="note">Below each image: its digit, the largest &epsilon; found at which CROWN verifies it,
and the class that then comes closest. The median over all {len(results.y)} images is &epsilon; =
{np.median(results.radius):.3f}; a misclassified image counts as 0.</p>""",
    )
    title = "How much of this classifier can be trusted?"
    return page.document(title, _lead(results), [verified, robust, _run(results)])


def _lead(results: demo_run.Results) -> str:
    return f"""<p>A small convolutional network ({results.parameters:,} weights, trained for
{results.training_seconds:.0f} s with noisy inputs) classifies <b>{results.clean_accuracy:.1%}</b>
of {len(results.y)} test images of handwritten digits correctly. An image is <b>verified</b> at
&epsilon; when a proof says that it stays correctly classified however each pixel is changed by up
to &epsilon;, on the scale from 0 (no ink) to 1 (black). All methods prove the same kind of
statement; tighter bounds prove it for more images.</p>"""


def _run(results: demo_run.Results) -> page.Section:
    facts = results.facts()
    described = [f"Seed {results.config.seed}", f"{results.config.epochs} epochs"]
    described += [f"{name} {version}" for name, version in facts["versions"].items()]
    described += [facts["machine"], f"commit {facts['commit'] or 'unknown (no git checkout)'}"]
    return page.Section(
        "The run",
        f"""<p class="note">{page.escape(", ".join(described), None)}. The bounds are computed in
float32 and do not account for its rounding errors. All numbers: results.json. Images: Optical
Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
<a href="https://doi.org/10.24432/C50P49">doi.org/10.24432/C50P49</a>, CC BY 4.0.</p>""",
    )


def _table(results: demo_run.Results) -> tables.Table:
    columns = [
        tables.Column("ε"),
        *(tables.Column(f"{eps:g}", ".1%") for eps in results.config.eps),
        tables.Column("s, first", ".2f"),
        tables.Column("s, later", ".3f"),
    ]
    rows = []
    for method in results.verified:
        first, *later = results.seconds[method]
        times = [first, float(np.median(later)) if later else None]
        rows.append([_NAMES[method], *results.accuracies(method), *times])
    note = (
        "Seconds: the first call, which compiles, and the median of the later ones, each for all "
        f"{len(results.y)} images."
    )
    return tables.Table("verified", "Verified accuracy at ε", columns, rows, note)
