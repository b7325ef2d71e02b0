"""Holds the BUILD files against the modules: each a target, imports are deps, one direction."""

import ast
import functools
import pathlib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import pytest

from tests import support, update_build

_PYTHON = ("py_library", "py_binary", "py_test")

# What each part of the package may import, by the design's order. Left: folders and modules of
# tfcert/, "tfcert" for tfcert/__init__.py, and the folders beside tfcert/.
_MAY_KNOW = {
    "names": set(),
    "types": set(),
    "version": set(),
    "datasets": {"types", "files"},
    "provenance": {"version", "backend"},
    "naming": set(),
    "logs": set(),
    "files": {"logs"},
    "reporting": {"logs"},
    "backend": {"types"},
    "regions": {"names", "types", "backend"},
    "relaxations": {"types", "backend"},
    "graph": set(),
    "heads": {"graph", "network", "tracing"},
    "entering": {"types", "graph", "rules", "network", "regions"},
    "derivatives": {"graph", "layers", "network", "properties"},
    "checks": {"types", "backend"},
    "rules": {"types", "backend", "regions", "relaxations", "graph", "layers"},
    "tracing": {"graph", "rules"},
    "network": {"types", "backend", "relaxations", "graph", "rules", "tracing"},
    "programs": {"types", "backend", "network"},
    "bounds": {
        *("types", "backend", "checks", "regions", "relaxations", "graph", "rules", "network"),
        *("names", "programs", "properties", "heads", "entering", "derivatives"),
    },
    "schedules": {"types"},
    "attacks": {
        *("types", "backend", "checks", "regions", "graph", "heads", "network", "programs"),
        *("schedules", "entering", "properties"),
    },
    "layers": {"types", "backend", "graph"},
    "models": {"types", "graph", "network", "rules", "layers", "files"},
    "properties": {"types", "regions"},
    "branching": {
        *("types", "backend", "checks", "regions", "relaxations", "rules", "network", "programs"),
        *("bounds", "attacks", "properties", "interchange", "proofs", "heads"),
        "entering",
        "derivatives",
    },
    "proofs": {"types", "regions", "relaxations", "rules", "network", "bounds", "tfcert_check"},
    "tfcert_check": set(),
    "objectives": {
        *("types", "backend", "regions", "relaxations", "graph", "rules", "network", "bounds"),
        *("schedules", "attacks", "smoothing", "layers", "checks", "heads", "properties"),
    },
    "fitting": {
        *("types", "backend", "checks", "graph", "heads", "bounds", "network", "schedules"),
        *("tracing", "entering", "regions", "objectives"),
    },
    "trainer": {
        *("types", "backend", "graph", "bounds", "network", "objectives", "schedules", "fitting"),
        *("naming", "entering"),
    },
    "callbacks": {
        *("types", "backend", "bounds", "network", "trainer", "entering", "fitting"),
    },
    "interchange": {
        *("types", "regions", "layers", "network", "bounds", "attacks", "properties"),
    },
    "certification": {
        *("types", "backend", "checks", "regions", "graph", "heads", "network", "programs"),
        *("bounds", "attacks", "logs", "names", "naming", "provenance", "runs", "properties"),
        *("branching", "entering", "derivatives"),
    },
    "scaling": {"types", "regions", "logs", "files", "runs", "certification"},
    "assessment": {"regions", "bounds", "attacks"},
    "runs": {"graph", "regions"},
    "saved_model": {"provenance"},
    "smoothing": {
        *("types", "backend", "checks", "regions", "graph", "logs", "provenance", "runs"),
        "saved_model",
    },
    "export": {
        *("types", "backend", "regions", "rules", "network", "bounds", "certification"),
        *("runs", "saved_model", "entering", "properties"),
    },
    "tfcert": {
        *("types", "regions", "relaxations", "rules", "bounds", "datasets"),
        *("schedules", "attacks", "models", "objectives", "trainer", "smoothing"),
        *("version", "logs", "certification", "layers", "interchange", "reporting", "export"),
        *("scaling", "callbacks", "branching", "properties", "proofs", "entering", "derivatives"),
    },
    "cli": {
        *("types", "regions", "bounds", "datasets", "tfcert", "attacks", "assessment"),
        *("models", "objectives", "schedules", "trainer", "provenance", "logs"),
        *("certification", "smoothing", "reporting", "naming", "scaling", "files"),
        *("backend", "graph", "names", "callbacks", "branching", "interchange", "properties"),
    },
    "tfcert_programs": {"cli"},
    "trainers": {"tfcert_programs"},
    "benchmarks": {
        *("tfcert", "attacks", "types", "backend", "regions", "graph", "rules", "programs"),
        *("bounds", "datasets", "provenance", "network", "branching"),
        *("smoothing", "layers", "models", "objectives", "files", "interchange", "reporting"),
    },
}


def _group(name: str) -> str:
    first, *rest = name.split("/")
    return rest[0] if first == "tfcert" and rest else first


class _Rule(NamedTuple):
    """One target as its BUILD file has it; labels are full."""

    kind: str
    srcs: list[str]
    deps: set[str]
    labels: set[str]


def _full(label: str, folder: str) -> str:
    """The label with its folder and its target: ``//tfcert/rules:rules``."""
    if not label.startswith("//"):
        return f"//{folder}:{label.removeprefix(':')}"
    return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"


def _calls(text: str) -> Iterator[ast.Call]:
    """The calls in a BUILD file: Starlark of this simplicity is Python, too."""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield statement.value


def _rule(kind: str, fields: Mapping[str, Any], folder: str) -> _Rule:
    lists = {
        key: {_full(label, folder) for label in fields.get(key, ())}
        for key in ("srcs", "data", "deps", "tests")
    }
    actual = {_full(fields["actual"], folder)} if "actual" in fields else set()
    srcs = [f"{folder}/{file}" for file in fields.get("srcs", ())]
    return _Rule(kind, srcs, lists["deps"], actual.union(*lists.values()))


@functools.cache
def _read(root: pathlib.Path = support.ROOT) -> tuple[dict[str, _Rule], set[str]]:
    """Label -> target of all BUILD files, and the labels of the files that they export."""
    rules: dict[str, _Rule] = {}
    exported = set()
    for path in update_build.on_disk(root):
        folder = path.rpartition("/")[0]
        for call in _calls((root / path).read_text(encoding="utf-8")):
            fields = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if not isinstance(keyword.value, ast.Call)  # glob(...)
            }
            if call.func.id == "exports_files":
                exported |= {_full(name, folder) for name in ast.literal_eval(call.args[0])}
            elif "name" in fields:
                label = _full(fields["name"], folder)
                assert label not in rules, f"two targets are named {label}"
                rules[label] = _rule(call.func.id, fields, folder)
    return rules, exported


def _assert_no_cycle(needs: Mapping[str, Set[str]]) -> None:
    done: set[str] = set()
    while left := set(needs) - done:
        ready = {name for name in left if needs[name] <= done}
        assert ready, f"a cycle among {left}"
        done |= ready


def test_the_build_files_are_up_to_date():
    stale = update_build.stale()
    assert not stale, f"run `make bazel`; missing, out of date or too many: {', '.join(stale)}"


def test_every_python_file_is_a_source_of_one_target():
    sources = [
        source
        for rule in _read()[0].values()
        if rule.kind in _PYTHON
        for source in rule.srcs
        if (rule.kind, source) != ("py_test", "tests/main.py")
    ]
    folders = {
        "trainers",
        "benchmarks",
        *(p.parent.name for p in support.ROOT.glob("*/__init__.py")),
    }
    files = [
        path.relative_to(support.ROOT).as_posix()
        for folder in folders
        for path in support.ROOT.glob(f"{folder}/**/*.py")
    ]
    assert sorted(sources) == sorted(files)


def test_every_label_names_a_target_or_a_file():
    rules, exported = _read()
    for name, rule in rules.items():
        for label in rule.labels - set(rules) - exported:
            folder, file = label.removeprefix("//").split(":")
            assert name.startswith(f"//{folder}:"), f"{name} needs {label}, which there is not"
            assert (support.ROOT / folder / file).is_file(), f"{name} needs {label}"


def test_the_suite_has_all_tests():
    rules, _ = _read()
    assert rules["//:tests"].labels == {"//tests:all_tests"}  # All tests of its own BUILD file.
    tests = {name for name, rule in rules.items() if rule.kind == "py_test"}
    assert {name.partition(":")[0] for name in tests} == {"//tests"}


def test_programs_have_the_names_of_the_installed_ones():
    rules, _ = _read()
    text = (support.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    aliases = {name.removeprefix("//:") for name, rule in rules.items() if rule.kind == "alias"}
    assert set(tomllib.loads(text)["project"]["scripts"]) <= aliases


def test_imports_go_one_way():
    known = update_build.modules()
    for name, module in known.items():
        group = _group(name)
        if group == "tests":
            continue
        assert group in _MAY_KNOW, f"{name}: say in _MAY_KNOW what {group} may import"
        source = (support.ROOT / module.path).read_text(encoding="utf-8")
        found = update_build.deps(module, source, known, types=True)
        found = {_group(other) for other in found} - {group}
        assert found <= _MAY_KNOW[group], f"{name} must not import {found - _MAY_KNOW[group]}"


def test_the_picture_of_the_rooms_shows_that_order():
    source = (support.ROOT / "docs/figures/make_architecture_figure.py").read_text("utf-8")
    (rows,) = (
        ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_ROWS"
    )
    level = {
        room: height
        for height, (_, boxes) in enumerate(rows)
        for box in boxes
        for room in box.split(", ")
    }
    for room, height in level.items():
        above = {known for known in _MAY_KNOW[room] if level.get(known, 0) > height}
        assert not above, f"the picture shows {above} above {room}, which imports from there"


def test_the_order_has_no_cycle():
    _assert_no_cycle(_MAY_KNOW)


def test_the_targets_have_no_cycle():
    _assert_no_cycle({name: rule.deps for name, rule in _read()[0].items()})


_SMALL = {
    ".bazelignore": ".venv\n",
    "tfcert/__init__.py": "from tfcert import rules\n",
    "tfcert/rules/__init__.py": "from tfcert.rules import affine\n",
    "tfcert/rules/affine.py": "import keras\n",
    "tfcert/rules/data/README.md": "",
    "trainers/demo.py": 'import tfcert, near\nif __name__ == "__main__":\n  pass\n',
    "trainers/near.py": "",
    "tests/__init__.py": "",
    "tests/conftest.py": "",
    "tests/main.py": "",
    "tests/rules_test.py": "from tfcert import rules\n",
}


@pytest.fixture
def small(tmp_path) -> pathlib.Path:
    """A small repository whose BUILD files are up to date."""
    for path, text in _SMALL.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    update_build.write(tmp_path)
    assert update_build.stale(tmp_path) == []
    return tmp_path


def _replace(path: str, old: str, new: str) -> Callable[[pathlib.Path], object]:
    def change(root: pathlib.Path) -> None:
        text = (root / path).read_text(encoding="utf-8")
        assert old in text
        (root / path).write_text(text.replace(old, new), encoding="utf-8")

    return change


_FAULTS = {
    "a missing dep": (_replace("tfcert/BUILD", '"//tfcert/rules"', ""), ["tfcert/BUILD"]),
    "a target too many": (
        _replace("tfcert/rules/BUILD", ")\n", ')\n\npy_library(name = "other")\n'),
        ["tfcert/rules/BUILD"],
    ),
    "an import that no BUILD file has": (
        _replace("tfcert/rules/affine.py", "import keras", "import tests.main"),
        ["tfcert/rules/BUILD"],
    ),
    "a new module": (
        lambda root: (root / "tfcert/rules/new.py").touch(),
        ["tfcert/rules/BUILD"],
    ),
    "a module that went": (lambda root: (root / "trainers/near.py").unlink(), ["trainers/BUILD"]),
    "a new package": (
        lambda root: [(root / "other").mkdir(), (root / "other/__init__.py").touch()],
        ["BUILD", "other/BUILD"],
    ),
    "a BUILD file that went": (lambda root: (root / "trainers/BUILD").unlink(), ["trainers/BUILD"]),
    "an old BUILD file at the root": (_replace("BUILD", "demo", "train"), ["BUILD"]),
    "a BUILD file without Python": (
        lambda root: (root / "tfcert/rules/data/BUILD").touch(),
        ["tfcert/rules/data/BUILD"],
    ),
    "a BUILD file outside of the packages": (
        lambda root: [(root / "docs").mkdir(), (root / "docs/BUILD").touch()],
        ["docs/BUILD"],
    ),
    "a BUILD file by the other name": (
        lambda root: (root / "tfcert/BUILD.bazel").touch(),
        ["tfcert/BUILD.bazel"],
    ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_finds_what_is_stale(small, fault):
    plant, stale = _FAULTS[fault]
    plant(small)
    assert update_build.stale(small) == stale


def test_writing_repairs_what_is_stale(small):
    for path in ("tfcert/rules/__init__.py", "tfcert/rules/affine.py"):
        (small / path).unlink()
    (small / "tfcert/graph.py").write_text("import tfcert", encoding="utf-8")
    by_hand = small / "docs/BUILD"
    by_hand.parent.mkdir()
    by_hand.write_text("# By hand.\n", encoding="utf-8")
    update_build.write(small)
    assert not (small / "tfcert/rules/BUILD").exists()
    assert update_build.stale(small) == ["docs/BUILD"]


def test_neighbours_of_a_program_are_deps(small):
    rules, _ = _read(small)
    assert rules["//trainers:demo"].deps == {"//tfcert:tfcert", "//trainers:near"}
    assert 'imports = ["."]' in (small / "trainers/BUILD").read_text(encoding="utf-8")


def test_refuses_two_targets_of_one_name(small):
    (small / "tfcert/rules/rules.py").touch()
    with pytest.raises(ValueError, match="a name of its own"):
        update_build.write(small)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tfcert", {"tfcert"}),
        ("import tfcert.rules.affine as affine, os", {"tfcert/rules/affine"}),
        ("from tfcert import bound, rules", {"tfcert", "tfcert/rules"}),
        ("from tfcert.rules import affine", {"tfcert/rules/affine"}),
        ("from tfcert.rules import register_rule", {"tfcert/rules"}),
        ("def f():\n  from tests import support\n", {"tests/support"}),
        ("if TYPE_CHECKING:\n  from tfcert import rules\nelse:\n  import tests", {"tests"}),
        ("import keras, tfcertain\nfrom numpy import rules", set()),
    ],
)
def test_reads_imports(source, found):
    modules = {"tfcert", "tfcert/rules", "tfcert/rules/affine", "tests", "tests/support"}
    assert update_build.imports(source, modules) == found


def test_refuses_relative_imports():
    with pytest.raises(ValueError, match="absolute"):
        update_build.imports("from . import rules", set())


def test_reads_imports_for_types():
    source = "import typing\nif typing.TYPE_CHECKING:\n  from tfcert import rules\n"
    assert update_build.imports(source, {"tfcert/rules"}) == set()
    assert update_build.imports(source, {"tfcert/rules"}, types=True) == {"tfcert/rules"}
