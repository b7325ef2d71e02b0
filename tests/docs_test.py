"""Runs the code of README.md and of the pages in docs/, and follows their links.

Every block that is marked as python is executed, page by page in one namespace. A block marked as
text that directly follows is what it has to print, to the last digit. In a block marked as
`text varies` numbers depend on the machine, as those of trained networks do, and may differ by a
tenth. A block that is marked as `python tensorflow` is left out on other backends.
"""

import contextlib
import io
import math
import pathlib
import re
import struct
from typing import NamedTuple

import keras
import pytest

import tfcert
from tests import support
from tfcert.rules import registry

_README = support.ROOT / "README.md"
_DOCS = support.ROOT / "docs"
_BESIDE = [_README, support.ROOT / "CONTRIBUTING.md", support.ROOT / "SECURITY.md"]
_PAGES = [*_BESIDE, *sorted(_DOCS.glob("**/*.md"))]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    language: str
    mark: str  # of python the only backend that it runs on, of text "varies"; "" for none
    code: str
    line: int  # of the code's first line, counted from 1
    end: int  # of the closing fence


def _read(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def _name(page: pathlib.Path) -> str:
    return page.stem


def _with_code() -> list[pathlib.Path]:
    return [page for page in _PAGES if "```python" in _read(page)]


def _blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    blocks, start, words = [], None, []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if start is None:
            start, words = number + 1, [*line.strip("` ").split(), "", ""]
            continue
        code = "\n".join(lines[start - 1 : number - 1]) + "\n"
        blocks.append(Block(words[0], words[1], code, start, number))
        start = None
    assert start is None, f"the block from line {start} on is not closed"
    return blocks


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


# How far numbers of a block that varies may be off: a tenth, and near 0 a hundredth.
_RELATIVE, _ABSOLUTE = 0.1, 0.01


def _same(printed: str, wanted: str, varies: bool = False) -> bool:
    """Whether two texts are the same but for spaces, and for numbers where they may vary."""
    if not varies:
        return printed.split() == wanted.split()
    if _NUMBER.sub("0", printed).split() != _NUMBER.sub("0", wanted).split():
        return False
    pairs = zip(_NUMBER.findall(printed), _NUMBER.findall(wanted), strict=True)
    return all(
        math.isclose(float(a), float(b), rel_tol=_RELATIVE, abs_tol=_ABSOLUTE) for a, b in pairs
    )


def _run(page: pathlib.Path) -> str:
    """Executes a page's code, compares what it prints, and returns all of that."""
    blocks = _blocks(_read(page))
    namespace: dict = {"__name__": page.stem}
    everything = ""
    for block, follower in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        if block.mark not in ("", keras.backend.backend()):
            continue
        output = io.StringIO()
        # Empty lines before it, so that an error's traceback shows the page's own line.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with contextlib.redirect_stdout(output):
            exec(code, namespace)
        everything += output.getvalue()
        if follower and follower.language == "text" and follower.line - block.end <= 3:
            assert _same(output.getvalue(), follower.code, follower.mark == "varies"), (
                f"{page.name}, line {follower.line}: the block above prints\n{output.getvalue()}"
            )
    return everything


@pytest.fixture
def _as_before(monkeypatch, tmp_path):
    """Rules that a page registers go with it; files that it writes do not stay."""
    before = tfcert.rules.registered()
    monkeypatch.chdir(tmp_path)
    yield
    registry._RULES.clear()
    registry._RULES.update(before)


# They train networks or compile large programs.
_SLOW = ("README", "bounds", "certification", "linf_nets", "quickstart", "serving", "smoothing")
_SLOW += ("training", "adding_a_rule")


@pytest.mark.parametrize(
    "page", support.slow_except(lambda page: page.stem not in _SLOW, _with_code()), ids=_name
)
@pytest.mark.usefixtures("_as_before")
def test_code_runs(page):
    output = _run(page)
    if page == _README:
        right, verified, right_trained, trained = map(float, re.findall(r"([\d.]+)%", output))
        assert min(right, right_trained) > 90
        assert 50 < verified <= right
        assert verified + 5 < trained <= right_trained


def test_code_blocks_say_what_they_are():
    for page in _PAGES:
        for block in _blocks(_read(page)):
            where = f"{page}:{block.line - 1}"
            assert block.language in ("python", "text", "sh", "shell", "json"), where
            marks = {"python": ("", "tensorflow", "jax"), "text": ("", "varies")}
            assert block.mark in marks.get(block.language, ("",)), where


# Links.


def _anchors(page: pathlib.Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _without_blocks(_read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def _links(page: pathlib.Path) -> list[str]:
    """The targets of a page's links and images that lie in this repository."""
    found = re.findall(r"\]\(<?([^)>\s]+)>?\)", _without_blocks(_read(page)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name} links to {link}"


def test_every_page_is_reached_from_the_index():
    index = _DOCS / "index.md"
    linked = {index} | {(_DOCS / link.partition("#")[0]).resolve() for link in _links(index)}
    assert set(_DOCS.glob("**/*.md")) <= linked
    assert index in {(support.ROOT / link).resolve() for link in _links(_README)}


def test_figures_are_small_and_shown():
    shown = {(page.parent / link).resolve() for page in _PAGES for link in _links(page)}
    for figure in _DOCS.glob("**/*.png"):
        data = figure.read_bytes()
        assert len(data) < 200_000, figure
        width, _ = struct.unpack(">II", data[16:24])
        assert width < 1200, figure
        assert figure in shown, f"{figure} is on no page"


# docs/layers.md against the registered rules.


def _section(title: str) -> str:
    match = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", _read(_DOCS / "layers.md"), re.M | re.S)
    assert match, f"docs/layers.md has no section {title!r}"
    return match[1]


def _listed(title: str) -> set[str]:
    """The names that the first column of a section's table lists."""
    rows = [line for line in _section(title).splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[0])}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _compare(title: str, wanted: set[str]) -> None:
    listed = _listed(title)
    assert wanted - listed == set(), f"list these in docs/layers.md, section {title!r}"
    assert listed - wanted == set(), f"docs/layers.md lists what has no rule, section {title!r}"


# Registered under the names of Keras's private classes: `activations.relu` with options, and `[]`.
_NO_FUNCTIONS = {"ReLU", "GetItem"}
# Classes that Keras exports under another name.
_EXPORTED = {"GroupedQueryAttention": "GroupQueryAttention"}


def test_layers_page_lists_the_rules():
    # Without those that other tests registered in this process.
    known = [
        key
        for key in tfcert.rules.registered()
        if isinstance(key, str) or not key.__module__.startswith("tests.")
    ]
    classes = {key.__name__ for key in known if isinstance(key, type)}
    _compare("Layers", {_EXPORTED.get(name, name) for name in classes})
    functions = {key.__name__ for key in known if not isinstance(key, (str, type))}
    _compare("Activation functions", functions | {"linear"})
    operations = {key.rpartition(".")[2] for key in known if isinstance(key, str)}
    _compare("Operations", {_snake(name) for name in operations - _NO_FUNCTIONS})


def test_layers_page_names_what_keras_has():
    layers = set(dir(keras.layers)) | set(tfcert.layers.__all__)
    assert _listed("Layers") - layers == set()
    assert [n for n in _listed("Activation functions") if not hasattr(keras.activations, n)] == []
    assert [n for n in _listed("Operations") if not hasattr(keras.ops, n)] == []


def test_layers_page_refuses_what_has_no_rule():
    refused = _listed("What is refused, and why")
    assert len(refused) > 20
    known = {key.__name__ for key in tfcert.rules.registered() if isinstance(key, type)}
    known |= {_EXPORTED[name] for name in known & set(_EXPORTED)}
    assert refused & known == set(), "these have a rule by now: move them in docs/layers.md"


# The tools of this file.


def test_compares_outputs():
    assert _same("a  1.000\nb", "a 1.000\n\n b")
    assert not _same("0.1272", "0.1278")
    assert not _same("a 1.00", "a 1.0")
    assert _same("a  95.3%\nb -0.0", "a 91.0%\nb 0.005", varies=True)
    assert not _same("a 1.0", "a 1.2", varies=True)
    assert not _same("a 1.0", "b 1.0", varies=True)
    assert not _same("a 1.0", "a 1.0 2.0", varies=True)


def test_finds_blocks():
    text = "x\n```python jax\na = 1\n```\n\n```text\n1\n```\n"
    wanted = [Block("python", "jax", "a = 1\n", 3, 4), Block("text", "", "1\n", 7, 8)]
    assert _blocks(text) == wanted
    assert _without_blocks(text).split() == ["x"]
