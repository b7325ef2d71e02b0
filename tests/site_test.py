"""The documentation as a site: every page, every public name, every link, in a browser."""

import ast
import html.parser
import importlib.util
import pathlib
import re
import subprocess
import sys
import time
import urllib.parse
import zlib

import pytest

from tests import browser, support
from tfcert import objectives

_DOCS = support.ROOT / "docs"
_PHONE, _DESKTOP = 390, 1280  # Widths.


def _navigation() -> dict[str, dict[str, str]]:
    """The chapters of the navigation, read without Sphinx."""
    for statement in ast.parse((_DOCS / "conf.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "NAVIGATION":
            return ast.literal_eval(statement.value)
    raise AssertionError("docs/conf.py has no NAVIGATION")


def test_navigation_has_every_page_once():
    pages = [page for chapter in _navigation().values() for page in chapter.values()]
    files = [*_DOCS.glob("**/*.md"), *_DOCS.glob("**/*.ipynb")]
    named = {path.relative_to(_DOCS).with_suffix("").as_posix() for path in files}
    inside = [page for page in pages if page[:3] != "../" and page != "reference/index"]
    assert sorted(inside) == sorted(named - {"index"})
    outside = [page for page in pages if page.startswith("../")]
    assert {f"../{name}" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")} <= {
        *outside
    }
    assert all((_DOCS / f"{page}.md").exists() for page in outside)


def test_the_picture_of_choices_has_the_names_of_its_page():
    source = (_DOCS / "figures/make_choosing_figure.py").read_text(encoding="utf-8")
    (lists,) = (
        ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_LISTS"
    )
    page = (_DOCS / "choosing.md").read_text(encoding="utf-8")
    for title, questions, otherwise in lists:
        assert f"\n## {title.removesuffix('?')}\n" in page
        for answer in [otherwise, *(answer for _, answer in questions)]:
            for name in re.split(r",\s", answer):
                assert name in page, f"docs/choosing.md does not mention {name}"
                if re.fullmatch("[A-Z]+[A-Za-z]+", name):
                    assert hasattr(objectives, name)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """The site, built as `make docs` does it; a warning is an error."""
    for name in ("sphinx", "furo", "myst_nb", "sphinx_copybutton"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f'needs {name}, which is not installed: pip install ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-q", "-W", "--keep-going"]
    command += ["-d", str(out / "doctrees"), "-b", "html", ".", str(out / "html")]
    run = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out / "html"


class _Page(html.parser.HTMLParser):
    """The anchors of a page, and what it links to and loads."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and "stylesheet" in given.get("rel", ""):
            self.loaded.append(given["href"])


@pytest.mark.slow
def test_links_and_pictures_lead_somewhere(site):
    pages = {path: _Page(path) for path in site.glob("**/*.html")}
    assert len(pages) > 50
    for path, page in pages.items():
        assert not [url for url in page.loaded if re.match("[a-z]+:|//", url)], path
        for link in page.links + page.loaded:
            target, _, anchor = link.partition("#")
            if re.match("[a-z]+:", target):
                continue
            file = (path.parent / urllib.parse.unquote(target.partition("?")[0])).resolve()
            file = file if target else path
            assert file.exists(), f"{path.name} has {link}"
            if anchor and file in pages:
                assert urllib.parse.unquote(anchor) in pages[file].anchors, f"{path} has {link}"


def _inventory(site: pathlib.Path) -> set[str]:
    """The names that the site describes, as other sites would look them up."""
    data = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(data).decode().splitlines()
    return {line.split(" ")[0] for line in lines if " py:" in line}


@pytest.mark.slow
def test_every_public_name_is_described(site):
    text = (_DOCS / "api.md").read_text(encoding="utf-8")
    described, module, missing = _inventory(site), "", []
    for line in text.splitlines():
        if found := re.match(r"## `([\w.]+)`$", line):
            module = found[1]
        elif found := re.match(r"- `(\w+)[(`]", line):
            # A name of two modules is described once, and as the other's page says, where.
            page = (site / f"docs/reference/{module}.html").read_text(encoding="utf-8")
            if f"{module}.{found[1]}" not in described and f".{found[1]}</span>" not in page:
                missing.append(f"{module}.{found[1]}")
    assert missing == []


@pytest.mark.slow
def test_signatures_have_types(site):
    page = (site / "docs/reference/tfcert.html").read_text(encoding="utf-8")
    signatures = re.findall(r'<dt class="sig sig-object py" id="([\w.]+)">(.*?)</dt>', page, re.S)
    found = {name: re.sub(r"<[^>]+>|\s", "", text) for name, text in signatures}
    assert "(lower:ArrayLike,upper:ArrayLike,groups:Sequence" in found["tfcert.Box"]
    assert "model:keras.Model,objective:Objective,seed:int=0" in found["tfcert.CertifiedTrainer"]
    assert "region:Region" in found["tfcert.bound"] and "Bounds" in found["tfcert.bound"]
    for path in site.glob("docs/reference/*.html"):
        assert not re.search("TypeAliasForwardRef|_SupportsArray", path.read_text("utf-8")), path


# In a browser.


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as found:
        yield found


@pytest.mark.slow
def test_pages_fit_a_phone_and_a_desktop(site, chromium):
    wide = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    article = "(a => a ? a.scrollWidth - a.clientWidth : 0)(document.querySelector('article'))"
    pages = sorted(set(site.glob("**/*.html")) - {site / "index.html"})
    cases = [(path, _PHONE) for path in pages]
    cases += [(site / f"docs/{name}.html", _DESKTOP) for name in ("index", "bounds", "results")]
    for path, width in cases:
        chromium.open(path, width=width)
        assert chromium.evaluate(wide) <= width, f"{path} scrolls sideways at {width}"
        # The theme lets its headings stick out by half an em.
        assert chromium.evaluate(article) <= 8, f"{path} has text that sticks out at {width}"
    assert chromium.problems == []


@pytest.mark.slow
def test_light_and_dark(site, chromium):
    colors = {}
    for dark in (False, True):
        chromium.open(site / "docs/bounds.html", dark=dark)
        style = "getComputedStyle(document.body)"
        colors[dark] = [chromium.evaluate(f"{style}.{key}") for key in ("backgroundColor", "color")]
    brightness = {
        dark: [sum(map(int, re.findall(r"\d+", color)[:3])) for color in pair]
        for dark, pair in colors.items()
    }
    assert brightness[False][0] > 700 > 100 > brightness[False][1]
    assert brightness[True][0] < 100 and brightness[True][1] > 400


_FOUND = "[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))"


@pytest.mark.slow
def test_search_finds_names(site, chromium):
    """Types into the search field of a page, and reads the results."""
    wanted = {"docs/reference/tfcert.html#tfcert.CertifiedTrainer", "docs/training.html"}
    for width in (_PHONE, _DESKTOP):
        chromium.open(site / "docs/bounds.html", width=width)
        field = "document.querySelector('form.sidebar-search-container input')"
        chromium.evaluate(f"{field}.value = 'CertifiedTrainer', {field}.form.submit()")
        deadline = time.monotonic() + 30
        found: set[str] = set()
        while not wanted <= found and time.monotonic() < deadline:
            found = {link.removeprefix("./") for link in chromium.evaluate(_FOUND)}
            time.sleep(0.05)
        assert wanted <= {link.partition("?")[0] for link in found}, found
