"""The demo's figures, its page and the summary that it prints."""

from __future__ import annotations

import base64
import html
import pathlib
import string

import numpy as np
from matplotlib import figure, ticker

from tfcert.cli import demo_run

__all__ = ["summary", "write"]

# Told apart in print and by readers with any colour vision: colour, marker and order of the lines.
_STYLES = {
    "ibp": ("#c44601", "o", "IBP"),
    "crown-ibp": ("#b8860b", "s", "CROWN-IBP"),
    "crown": ("#1f77b4", "^", "CROWN"),
    "alpha-crown": ("#0b3c6f", "D", "α-CROWN"),
}
_COLUMNS = 8  # images in each row of the gallery


def write(results: demo_run.Results, out: pathlib.Path) -> None:
    """Writes verified_accuracy.png, gallery.png and index.html, which holds copies of both."""
    _curves(results).savefig(out / "verified_accuracy.png", dpi=150)
    _gallery(results).savefig(out / "gallery.png", dpi=150)
    (out / "index.html").write_text(_page(results, out), encoding="utf-8")


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
    fig = figure.Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = fig.add_subplot()
    clean = results.clean_accuracy
    axes.axhline(clean, color="0.35", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"clean accuracy {clean:.1%}",
        (1, clean),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color="0.35",
    )
    order = np.argsort(results.config.eps)
    sizes = np.array(results.config.eps)[order]
    for method in reversed(results.verified):
        colour, marker, label = _STYLES[method]
        # At eps = 0 the bounds are the logits themselves.
        accuracies = np.concatenate([[clean], np.array(results.accuracies(method))[order]])
        axes.plot(
            np.concatenate([[0.0], sizes]),
            accuracies,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.8,
            label=label,
        )
    axes.set_xlabel("ε: every pixel may change by this much (scale 0 to 1)")
    axes.set_ylabel("verified accuracy")
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.set_ylim(-0.02, 1.06)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(frameon=False, title="bounds by", loc="outside right upper")
    return fig


def _gallery(results: demo_run.Results) -> figure.Figure:
    """The most and the least robust of the correctly classified images."""
    right = np.flatnonzero(results.predictions == results.y)
    order = right[np.argsort(-results.radius[right], kind="stable")]
    rows = [("most robust", order[:_COLUMNS]), ("least robust", order[::-1][:_COLUMNS])]
    fig = figure.Figure(figsize=(9.6, 3.9), layout="constrained")
    parts = fig.subfigures(2, 1, squeeze=False)[:, 0]
    for part, (title, indices) in zip(parts, rows, strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        for column, axes in enumerate(part.subplots(1, _COLUMNS, squeeze=False)[0]):
            axes.set_axis_off()
            if column >= len(indices):
                continue
            index = indices[column]
            axes.imshow(results.x[index, ..., 0], cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(
                f"“{results.y[index]}”, ε = {results.radius[index]:.3f}\n"
                f"then maybe “{results.runner_up[index]}”",
                fontsize=8,
            )
    return fig


_PAGE = string.Template("""\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tfcert demo</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
         max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; margin-bottom: .2rem; }
  h2 { font-size: 1.15rem; margin-top: 2rem; }
  img { max-width: 100%; height: auto; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
  th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
  th:first-child, td:first-child { text-align: left; }
  .note { color: #555; font-size: .9rem; }
</style>
<h1>How much of this classifier can be trusted?</h1>
<p>A small convolutional network ($parameters weights, trained for $seconds s with noisy inputs)
classifies <b>$clean</b> of $count test images of handwritten digits correctly. An image is
<b>verified</b> at &epsilon; when a proof says that it stays correctly classified however each pixel
is changed by up to &epsilon;, on the scale from 0 (no ink) to 1 (black). All methods prove the same
kind of statement; tighter bounds prove it for more images.</p>
<h2>Verified accuracy</h2>
<img src="data:image/png;base64,$curves" alt="Verified accuracy against epsilon, by method">
<div class="scroll"><table>
$table
</table></div>
<p class="note">Seconds: the first call, which compiles, and the median of the later ones, each for
all $count images.</p>
<h2>The most and the least robust inputs</h2>
<img src="data:image/png;base64,$gallery" alt="The most and the least robust test images">
<p class="note">Above each image: its digit, the largest &epsilon; found at which CROWN verifies
it, and the class that then comes closest. The median over all $count images is &epsilon; =
$median; a misclassified image counts as 0.</p>
<h2>The run</h2>
<p class="note">$facts. The bounds are computed in float32 and do not account for its rounding
errors. All numbers: results.json.
Images: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, <a href="https://doi.org/10.24432/C50P49">doi.org/10.24432/C50P49</a>, CC BY 4.0.</p>
</html>
""")


def _page(results: demo_run.Results, out: pathlib.Path) -> str:
    def picture(name: str) -> str:
        return base64.b64encode((out / name).read_bytes()).decode("ascii")

    facts = results.facts()
    described = [f"Seed {results.config.seed}", f"{results.config.epochs} epochs"]
    described += [f"{name} {version}" for name, version in facts["versions"].items()]
    described += [facts["machine"], f"commit {facts['commit'] or 'unknown (no git checkout)'}"]
    return _PAGE.substitute(
        parameters=f"{results.parameters:,}",
        seconds=f"{results.training_seconds:.0f}",
        clean=f"{results.clean_accuracy:.1%}",
        count=len(results.y),
        curves=picture("verified_accuracy.png"),
        table=_table(results),
        gallery=picture("gallery.png"),
        median=f"{np.median(results.radius):.3f}",
        facts=html.escape(", ".join(described)),
    )


def _table(results: demo_run.Results) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [row(["ε", *(f"{eps:g}" for eps in results.config.eps), "s, first", "s, later"], "th")]
    for method in results.verified:
        first, *later = results.seconds[method]
        accuracies = [f"{accuracy:.1%}" for accuracy in results.accuracies(method)]
        times = [f"{first:.2f}", f"{np.median(later):.3f}" if later else "–"]
        lines.append(row([_STYLES[method][2], *accuracies, *times], "td"))
    return "\n".join(lines)
