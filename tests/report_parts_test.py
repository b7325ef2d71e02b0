"""The parts of a report: tables and their three forms, radii, sizes, pictures, figures."""

import base64
import csv
import io
import json
import math
import re

import hypothesis as hp
import hypothesis.strategies as hps
import matplotlib.image
import numpy as np
import pytest

from tests import report_support
from tests.page_support import Page
from tfcert import logs, reporting
from tfcert.reporting import about, figures, images, page, radii, tables

# Texts.


@hp.settings(deadline=None, database=None, derandomize=True, max_examples=200)
@hp.given(hps.text(max_size=40))
def test_any_text_is_escaped(text):
    shown = page.escape(text)
    assert not set("<>\"'") & set(shown)
    shown.encode("utf-8")
    found = Page(f'<p title="{shown}">{shown}</p>')
    assert found.text == page.plain(text).replace("\r", "\n")
    assert found.attributes == [("p", "title", found.text)]
    assert found.tags == ["p"]


# Tables.

_TABLE = tables.Table(
    "t",
    "100% of _it",
    [tables.Column("Log"), tables.Column("a_b", ".1%", estimate=True), tables.Column("n", "d")],
    [
        ["=cmd|'x'!A1", reporting.Estimate(0.5, 0.25), 3],
        ["a & b_c\\", reporting.Estimate(-0.125, math.nan), None],
    ],
)


def test_table_as_csv():
    rows = list(csv.reader(io.StringIO(_TABLE.csv())))
    assert rows[0] == ["Log", "a_b", "a_b, standard error", "n"]
    assert rows[1] == ["'=cmd|'x'!A1", "0.5", "0.25", "3"]
    assert rows[2] == ["a & b_c\\", "-0.125", "", ""]


def test_table_as_latex():
    assert _TABLE.latex().splitlines() == [
        "% 100% of _it",
        r"\begin{tabular}{lrr}",
        r"\hline",
        r"Log & a\_b & n \\",
        r"\hline",
        r"=cmd|'x'!A1 & 50.0 $\pm$ 25.0\% & 3 \\",
        r"a \& b\_c\textbackslash{} & $-$12.5\% & -- \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_table_as_html():
    found = Page(_TABLE.html())
    assert found.tags.count("tr") == 3 and "50.0 ± 25.0%" in found.text and "−12.5%" in found.text
    with pytest.raises(ValueError, match="2 cells each"):
        tables.Table("t", "", [tables.Column("a"), tables.Column("b")], [[1]])
    wide = tables.Table(
        "t", "", [tables.Column(c, "d") for c in "abcdef"], [[1, 2, 3, 4, 5, 6], [7] * 6]
    )
    assert Page(wide.html()).tags.count("tr") == 6  # Turned: more room below than beside.
    long = tables.Table("t", "", [tables.Column("a", "d")], [[i] for i in range(500)])
    found = Page(long.html())
    assert "The first 60 of 500 rows; all are in t.csv." in found.text
    assert found.tags.count("tr") == 61 and len(long.csv().splitlines()) == 501


# Radii, sizes, pictures.


@pytest.mark.parametrize("top", [1e-3, 0.02, 0.37, 0.9999, 1.0, 3.2, 4.9, 60.0])
def test_default_radii_are_round_and_few(top, tmp_path):
    rows = [(0, 1, 1, top, 1, "0:00:01"), (1, 1, 2, 9 * top, 0, "0:00:01")]
    path = report_support.write_lines(tmp_path / "a.tsv", logs.SMOOTHING, rows)
    found = radii.default_radii([reporting.read(path)])
    assert found[0] == 0 and found[-1] <= top and 4 <= len(found) <= 10
    assert all(len(f"{radius:g}") <= 7 for radius in found)
    np.testing.assert_allclose(np.diff(found), found[1])


def test_sizes_come_from_facts(tmp_path):
    x, y = report_support.images()
    paths = {
        0.1: report_support.certify_log(tmp_path / "a.tsv", x, y, 0.1),
        1e-05: report_support.certify_log(tmp_path / "b.tsv", x, y, 1e-05),
        0.3: report_support.certify_log(tmp_path / "c.tsv", x, y, facts={"flags": {"eps": 0.3}}),
        None: report_support.certify_log(
            tmp_path / "d.tsv", x, y, facts={"settings": {"region": "LpBall(eps=array(0.1))"}}
        ),
    }
    for eps, path in paths.items():
        assert about.eps_of(reporting.read(path)) == eps


def test_pictures_of_the_data(tmp_path):
    """The gallery shows the inputs that the log's idx names."""
    x, y = report_support.images()
    drawn = images.picture(x[0], "x")
    data = re.search(r"base64,([^\"]+)", drawn)[1]
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
    np.testing.assert_allclose(pixels[..., :3], np.repeat(x[0], 3, axis=-1), atol=0.5 / 255 + 1e-6)
    change, largest = images.difference(x[0] + np.float32(0.25), x[0])
    assert largest == pytest.approx(0.25) and "at most 0.25" in change
    assert images.difference(x[0], x[0])[1] == 0
    for shape in ((4, 4), (4, 4, 1), (4, 4, 3)):
        assert images.is_image(shape)
        images.difference(np.ones(shape), np.zeros(shape))
    assert not images.is_image((7,)) and not images.is_image((4, 4, 2))


def test_logs_that_are_not_comparable_say_so(tmp_path):
    paths = [report_support.smoothing_log(tmp_path / f"{name}.tsv", 0) for name in "abc"]
    for path, samples in zip(paths, (1000, 10_000), strict=False):
        settings = {"noise": "gaussian", "sigma": samples / 1e4, "n": samples, "alpha": 0.001}
        settings["adaptive"] = {"precision": 0.3} if samples == 1000 else False
        logs.facts_path(path).write_text(json.dumps({"settings": settings}))
    made = radii.radii_part([reporting.read(path) for path in paths], [0.5]).section().body
    assert "The logs differ in n (a: 1000, b: 10000). More samples give larger radii." in made
    assert "The logs differ in adaptive (a: {&#x27;precision&#x27;: 0.3}, b: False)." in made
    assert made.count("The logs differ in") == 2


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("name", ["a", "w" * 60])
def test_legends_are_inside_of_the_figure(count, name):
    """And leave the axes their room."""
    with figures.new("x", "y") as (drawn, axes):
        for place in range(count):
            axes.plot([0, 1], [0, 1], label=figures.label(f"{name} {place}"), **figures.look(place))
        figures.legend(drawn)
        figures.png(drawn)
        (legend,) = drawn.legends
        box, whole = legend.get_window_extent(), drawn.bbox
        assert len(legend.get_texts()) == count
        assert box.x0 >= 0 and box.x1 <= whole.x1 + 1 and box.y0 >= -1
        assert axes.get_window_extent().height > 0.4 * 3.1 * drawn.dpi


@pytest.mark.parametrize(
    "text", ["a", "mnist_0.1_crown_ibp_regularizer@cnn-2e-3-0: verified", "w" * 120]
)
def test_names_in_legends_are_whole(text):
    lines = figures.label(text).split("\n")
    assert "".join(lines) == text and max(map(len, lines)) <= 36


def test_figures_follow_the_colours_of_the_page():
    with figures.new("x", "y") as (drawn, axes):
        axes.plot([0, 1], [0, 1], **figures.look(1))
        found = figures.svg(drawn, 'a "figure"')
    assert (
        "var(--s1)" in found
        and "var(--ink)" in found
        and "#" not in re.sub(r"#f[0-9a-f]{8}-\w+", "", found)
    )
    assert 'aria-label="a &quot;figure&quot;"' in found
    looks = [tuple(figures.look(place).values()) for place in range(32)]
    assert len(set(looks)) == 32
