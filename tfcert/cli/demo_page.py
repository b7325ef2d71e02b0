"""The demo's page, its figure and the summary that it prints."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib import figure

from tfcert.cli import demo_run
from tfcert.reporting import figures, images, page, tables

__all__ = ["summary", "write"]

_DOI = "https://doi.org/10.48550/arXiv."
_METHODS = {
    "ibp": (
        "IBP",
        "carries an interval through each layer: the cheapest bound, and tight only on networks "
        "trained for it",
        "1810.12715",
    ),
    "crown-ibp": (
        "CROWN-IBP",
        "takes IBP's intervals inside the network and bounds the scores by one linear pass back "
        "to the pixels",
        "1906.06316",
    ),
    "crown": ("CROWN", "bounds every layer by linear functions of the pixels", "1811.00866"),
    "alpha-crown": (
        "α-CROWN",
        "optimises the slopes of CROWN's linear functions for each image",
        "2011.13824",
    ),
}
_OTHERS = {
    "PGD": (
        "PGD",
        "is the attack: it climbs along the gradient to a change that misleads the network",
        "1706.06083",
    ),
    "IBP training": (
        "IBP training",
        "puts IBP's bounds into the loss, so that the network learns to have tight ones",
        "1810.12715",
    ),
}
_SHOWN = (0.0, 0.02, 0.05, 0.1, 0.2)  # sizes of changes to look at


def write(results: demo_run.Results, out: pathlib.Path) -> None:
    """Writes curves.png and index.html, which needs no other file."""
    drawn = _curves(results)
    (out / "curves.png").write_bytes(figures.png(drawn))
    (out / "index.html").write_text(_page(results, drawn), encoding="utf-8")


def summary(results: demo_run.Results) -> str:
    """The accuracies as a table of plain text."""
    rows = [["eps", *(f"{eps:g}" for eps in results.config.sizes)]]
    for network in results.networks:
        for kind, shares in (("attacked", network.attacked()), ("verified", network.verified())):
            rows.append([f"{network.name}, {kind}", *(f"{share:.1%}" for share in shares)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    count = len(results.plain.results[results.config.train_eps])
    head = (
        f"\nOf {count} test images the plain network gets {results.plain.accuracy:.1%} right, the "
        f"certified one {results.certified.accuracy:.1%}.\nAttacked: right, and no attack within "
        "eps misleads the network.\nVerified: right, and proved that no change of every pixel by "
        "up to eps can.\n"
    )
    return "\n".join([head, *lines])


def _curves(results: demo_run.Results) -> figure.Figure:
    """Attacked and verified accuracy of both networks over eps, in one figure."""
    sizes = np.array([0.0, *results.config.sizes])
    label = "ε: every pixel may change by this much"
    with figures.new(label, "share of the test images", percent=True) as made:
        drawn, axes = made
        for place, network in enumerate(results.networks):
            look = {**figures.look(1 - place), "markersize": 3.5}
            attacked, verified = (
                np.array([network.accuracy, *shares])
                for shares in (network.attacked(), network.verified())
            )
            axes.plot(sizes, verified, label=f"{network.name}: verified", **look)
            look = {**look, "linestyle": ":", "markerfacecolor": "none"}
            axes.plot(sizes, attacked, label=f"{network.name}: attacked", **look)
            band = {"color": look["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(sizes, verified, attacked, **band)
        axes.set_xlim(left=0)
        figures.legend(drawn)
    return drawn


def _page(results: demo_run.Results, drawn: figure.Figure) -> str:
    curves = page.figure(
        figures.svg(drawn, "Attacked and verified accuracy of both networks against epsilon"),
        "Dotted lines show the accuracy under an attack, and solid lines the share of images "
        "with a proof. No attack of any kind gets below the solid line. Images in the band "
        "between the lines are undecided. The points at ε = 0 show the accuracy on unchanged "
        "images.",
    )
    sections = [
        _sizes(results),
        _examples(results),
        page.Section("From small changes to large ones", f'<div class="figures">{curves}</div>'),
        _methods(results),
        _run(results),
    ]
    return page.document(
        "How much can this classifier be trusted?", _lead(results), [s for s in sections if s]
    )


def _lead(results: demo_run.Results) -> str:
    plain, certified = results.networks
    eps = results.config.train_eps
    at = results.config.sizes.index(eps)
    columns = [
        tables.Column(f"Right on {len(plain.results[eps])} test images"),
        tables.Column("Plain", ".1%"),
        tables.Column("Certified", ".1%"),
    ]
    rows = [
        ["as they are", *(network.accuracy for network in results.networks)],
        ["under an attack", *(network.attacked()[at] for network in results.networks)],
        ["proved, against any attack", *(network.verified()[at] for network in results.networks)],
    ]
    table = tables.Table("answer", f"Changes of up to ε = {eps:g} in every pixel", columns, rows)
    return f"""<p class="lead">Two networks with the same {results.parameters:,} weights read
handwritten digits, one trained as usual, one with tfcert. Every pixel may change by up
to ε = {eps:g}, on the scale from 0 (white) to 1 (black). The plain network is proved to stay right
on <b>{plain.verified()[at]:.0%}</b> of the test images, the certified network on
<b>{certified.verified()[at]:.0%}</b>. A proof covers <i>every</i> such change, found by an attacker
or not.</p>
{table.html()}"""


def _sizes(results: demo_run.Results) -> page.Section:
    """One digit under random changes of several sizes."""
    if results.examples:
        image, label = results.examples[0].image, results.examples[0].label
    else:
        found = results.plain.results[results.config.train_eps]
        image, label = results.first, int(found.label[0])
    signs = np.random.default_rng(results.config.seed).choice([-1.0, 1.0], image.shape)
    cards = []
    for eps in _SHOWN:
        changed = np.clip(image + eps * signs, 0.0, 1.0)
        shown = images.picture(changed, f"a {label}, changed by {eps:g}", reverse=True)
        cards.append(images.card([(shown, "")], f"ε = {eps:g}" if eps else "unchanged"))
    words = (
        "Every pixel of this digit gets lighter or darker by ε, at random. An attacker chooses "
        "the direction of each pixel, and needs a much smaller ε."
    )
    return page.Section(
        "What ε looks like",
        f'{images.gallery(cards)}\n<p class="note">{page.escape(words, None)}</p>',
    )


def _examples(results: demo_run.Results) -> page.Section | None:
    if not results.examples:
        return None
    cards = []
    for each in results.examples:
        digit = f"a handwritten {each.label}"
        pictures = [
            (images.picture(each.image, digit, reverse=True), f"unchanged: {each.label}"),
            (
                images.picture(each.fooling, f"{digit}, changed", reverse=True),
                f"plain says: {each.mistaken}",
            ),
            (
                images.picture(each.hardest, f"{digit}, changed", reverse=True),
                f"certified says: {each.label}",
            ),
        ]
        caption = (
            f"Proved for the certified network: the score of {each.label} stays ahead of every "
            f"other score by at least {each.proved:.1f}. The attack reduced the lead to "
            f"{each.lead:.1f}."
        )
        cards.append(images.card(pictures, caption))
    eps = results.config.train_eps
    lead = (
        f"Left: the digit. Middle: the digit changed by at most ε = {eps:g}; the plain network "
        "reads another digit. Right: the best attempt of a stronger attack on the certified "
        "network, within the same ε. The attack fails, as the proof says that every attack must."
    )
    return page.Section(
        "An attack that fools one and not the other",
        f"<p>{page.escape(lead, None)}</p>\n{images.gallery(cards, wide=True)}",
    )


def _methods(results: demo_run.Results) -> page.Section:
    eps = results.config.train_eps
    at = results.config.sizes.index(eps)
    columns = [
        tables.Column("Proved by"),
        *(tables.Column(network.name.capitalize(), ".1%") for network in results.networks),
    ]
    rows = [
        [
            _METHODS[method][0],
            *(network.verified(method)[at] for network in results.networks),
        ]
        for method in demo_run.METHODS
    ]
    note = (
        "Each row counts the images proved by the method or a method above it. tfcert runs the "
        "methods from the cheapest to the tightest, each on the images that are still open."
    )
    table = tables.Table(
        "methods", f"Share of the images proved at ε = {eps:g}", columns, rows, note
    )
    lines = [
        f'<li><a href="{_DOI}{paper}">{page.escape(name)}</a> {page.escape(words, None)}.</li>'
        for name, words, paper in (*_METHODS.values(), *_OTHERS.values())
    ]
    return page.Section(
        "How the proofs are found", f"{table.html()}\n<ul>\n{chr(10).join(lines)}\n</ul>"
    )


def _run(results: demo_run.Results) -> page.Section:
    facts = results.facts()
    rows = {
        "Seed": str(results.config.seed),
        "Epochs of training": str(results.config.epochs),
        **{
            f"Seconds of training, {network.name}": f"{network.training_seconds:.0f}"
            for network in results.networks
        },
        **facts["versions"],
        "Machine": facts["machine"],
        "Commit": facts["commit"] or "unknown (no git checkout)",
    }
    words = page.escape(
        "The bounds are computed in float32, and ignore rounding errors; float_safe=True covers "
        "them. The file results.json has all numbers.",
        None,
    )
    return page.Section(
        "The run",
        f"""{page.details("Settings, versions, machine", page.facts(rows))}
<p class="note">{words} Images: Optical Recognition of Handwritten Digits, E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository,
<a href="https://doi.org/10.24432/C50P49">doi.org/10.24432/C50P49</a>, CC BY 4.0.</p>""",
    )
