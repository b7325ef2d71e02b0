"""Pages of reports as tests read them."""

import csv
import html.parser
import io
import re

from tfcert.reporting import report

_VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """Checks that tags close in their order, and collects what a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(text: str) -> Page:
    """What every page must be: well formed, with nothing that runs or is loaded."""
    found = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(found.tags)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
            target = value.startswith(("#", "data:image/png;base64,", "https://doi.org/"))
            assert target, (tag, name, value)
            if value.startswith("#"):
                assert value[1:] in ids
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    return found


def write_page(tmp_path, *paths, names=None, **options):
    """The text of a page about some sources, and the names of the files beside it."""
    sources = report.load([str(path) for path in paths], names)
    written = report.write(sources, tmp_path / "out", **options)
    assert written[0] == tmp_path / "out/index.html"
    return written[0].read_text(encoding="utf-8"), {path.name for path in written}


def rows_of(path):
    """The rows of a table that a report wrote."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
