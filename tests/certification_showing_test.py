"""What results of ``certify`` show of themselves."""

import dataclasses
import sys
import types
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tfcert.certification.results import Certificates


def result(radius=None):
    verdict = np.array(["verified"] * 5 + ["falsified"] * 2 + ["unknown"], object)
    return Certificates(
        verdict=verdict,
        margin=np.arange(8.0),
        method=np.array(["crown"] * 5 + ["<pgd>"] * 2 + ["none"], object),
        seconds=np.full(8, 0.25),
        predict=np.arange(8),
        label=np.arange(8),
        index=np.arange(10, 18),
        counterexamples={},
        radius=radius,
        checked=0,
        rounding=[],
    )


def test_printing_gives_the_summary():
    found = result()
    assert str(found) == found.summary() and "verified" in str(found)
    assert len(found) == 8


def test_a_page_with_a_bar_of_all_verdicts():
    text = result()._repr_html_()
    root = ET.fromstring(text)  # well-formed, with names of methods escaped
    parts = [(part[0].text, float(part.get("width"))) for part in root.iter("rect")]
    assert dict(parts) == {
        "verified: 5 of 8": 300.0,
        "falsified: 2 of 8": 120.0,
        "misclassified: 0 of 8": 0.0,
        "unknown: 1 of 8": 60.0,
    }
    ends = [float(part.get("x")) + float(part.get("width")) for part in root.iter("rect")]
    starts = [float(part.get("x")) for part in root.iter("rect")]
    assert starts == [0.0, *ends[:-1]] and ends[-1] == 480.0
    assert root.find("pre").text == result().summary()


def test_without_labels_nothing_is_right_or_misclassified():
    held = result()
    verdict = held.verdict.copy()
    verdict[[0, 6]] = "misclassified"
    method = np.where(verdict == "misclassified", "none", held.method)
    found = dataclasses.replace(held, verdict=verdict, method=method, label=np.full(8, -1))
    first, *rest = found.summary().splitlines()
    assert first == "8 inputs"
    assert [line.split()[:3] for line in rest[:3]] == [
        ["verified", "4", "50.00%"],
        ["falsified", "3", "37.50%"],
        ["unknown", "1", "12.50%"],
    ]
    assert rest[0].endswith("by crown 4")
    assert rest[1].endswith("by the input itself 2, <pgd> 1")
    assert repr(found) == "<Certificates of 8 inputs: 4 verified, 3 falsified, 1 unknown>"
    assert "misclassified" not in found._repr_html_()
    assert found.accuracy == 0.75  # Where the property holds at the input.
    assert found.per_class()[0]["right"] == 6
    assert "accuracy 100.00%" in held.summary() and "misclassified" in held.summary()


def test_a_frame_has_a_row_for_each_input(monkeypatch):
    fake = types.ModuleType("pandas")
    fake.Index = lambda values, name: (list(values), name)
    fake.DataFrame = lambda columns, index: (columns, index)
    monkeypatch.setitem(sys.modules, "pandas", fake)
    columns, index = result().to_frame()
    assert index == (list(range(10, 18)), "index")
    assert list(columns) == ["verdict", "margin", "method", "seconds", "predict", "label"]
    assert list(columns["verdict"][:2]) == ["verified", "verified"]
    columns, _ = result(np.linspace(0, 1, 8)).to_frame()
    assert columns["radius"][-1] == 1.0


@pytest.mark.parametrize(("name", "call"), [("pandas", "to_frame"), ("matplotlib.pyplot", "plot")])
def test_what_is_missing_is_named(name, call, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"`{call}` needs {name.split('.')[0]}: pip install"):
        getattr(result(), call)()


def test_pictures():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = result().plot()
    assert [bar.get_height() for bar in axes.patches] == [5, 2, 0, 1]
    radius = np.array([0.3, 0.1, 0.0, 0.2])
    assert result(radius).plot(axes) is axes
    x, y = axes.lines[0].get_data()
    # All are verified at 0, three quarters just above, and none behind the largest.
    for eps, share in ((0.05, 0.75), (0.15, 0.5), (0.25, 0.25), (0.35, 0.0)):
        after = np.flatnonzero(x >= eps)
        assert (y[after[0]] if len(after) else 0.0) == share
    matplotlib.pyplot.close("all")
