"""Runs the README's example as it stands there, and follows its links."""

import contextlib
import io
import re

from tests import support

_TEXT = (support.ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs_and_verifies_most_images():
    (code,) = re.findall(r"^```python\n(.*?)^```$", _TEXT, re.DOTALL | re.MULTILINE)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {})
    right, verified = map(float, re.findall(r"([\d.]+)%", output.getvalue()))
    assert 90 < right <= 100
    assert 50 < verified <= right


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", _TEXT)
    assert links
    assert [link for link in links if not (support.ROOT / link).exists()] == []
