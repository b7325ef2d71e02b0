"""Holds BUILD against the modules: every module a target, every import a dep, one direction."""

import ast

import pytest

from tests import support, update_build

_LABELS = {"py_library", "py_binary", "py_test"}

# What each part of the package may import, by the design's order. Left: folders and modules of
# tfcert/, "tfcert" for tfcert/__init__.py, and the folders beside tfcert/.
_MAY_KNOW = {
    "types": set(),
    "version": set(),
    "datasets": {"files"},
    "provenance": {"version"},
    "naming": set(),
    "logs": set(),
    "files": {"logs"},
    "reporting": {"logs"},
    "backend": {"types"},
    "regions": {"types", "backend"},
    "relaxations": {"types", "backend"},
    "graph": {"types", "backend", "regions"},
    "rules": {"types", "backend", "regions", "relaxations", "layers"},
    "network": {"types", "backend", "relaxations", "graph", "rules"},
    "bounds": {"types", "backend", "regions", "relaxations", "graph", "rules", "network"},
    "schedules": {"types"},
    "attacks": {"types", "backend", "regions", "graph", "network", "schedules"},
    "layers": {"types", "backend"},
    "models": {"network", "rules", "layers"},
    "objectives": {
        *("types", "backend", "regions", "relaxations", "rules", "network", "bounds"),
        *("schedules", "attacks", "smoothing", "layers"),
    },
    "fitting": {"types", "backend", "bounds", "network", "schedules"},
    "trainer": {"types", "backend", "network", "objectives", "schedules", "fitting", "naming"},
    "interchange": {"regions", "network", "bounds", "attacks"},
    "certification": {
        *("backend", "regions", "network", "bounds", "attacks", "logs", "naming", "provenance"),
    },
    "scaling": {"regions", "logs", "files", "certification"},
    "evaluation": {"regions", "bounds", "attacks"},
    "saved_model": {"provenance"},
    "smoothing": {"types", "backend", "regions", "saved_model"},
    "export": {
        *("types", "backend", "regions", "rules", "network", "bounds", "certification"),
        "saved_model",
    },
    "tfcert": {
        *("types", "regions", "relaxations", "rules", "bounds", "datasets"),
        *("schedules", "attacks", "models", "objectives", "trainer", "smoothing"),
        *("version", "logs", "certification", "layers", "interchange", "reporting", "export"),
        "scaling",
    },
    "cli": {
        *("types", "regions", "bounds", "datasets", "tfcert", "attacks", "evaluation"),
        *("models", "objectives", "schedules", "trainer", "provenance", "logs"),
        *("certification", "smoothing", "reporting", "naming", "scaling", "files"),
    },
    "trainers": {"cli"},
    "benchmarks": {
        *(
            "tfcert",
            "attacks",
            "types",
            "backend",
            "regions",
            "graph",
            "rules",
            "bounds",
            "datasets",
        ),
        *("smoothing", "layers", "models", "objectives", "files", "interchange", "reporting"),
    },
}


def _group(name: str) -> str:
    first, *rest = name.split("/")
    return rest[0] if first == "tfcert" and rest else first


def _build_file() -> dict[str, dict[str, object]]:
    """Target's name -> its attributes; Starlark of this simplicity is Python too."""
    result = {}
    for statement in ast.parse((support.ROOT / "BUILD").read_text(encoding="utf-8")).body:
        call = getattr(statement, "value", None)
        if not isinstance(call, ast.Call) or call.func.id not in _LABELS:
            continue
        attributes = {
            keyword.arg: ast.literal_eval(keyword.value)
            for keyword in call.keywords
            if keyword.arg != "data"
        }
        name = attributes["name"]
        assert name not in result, f"two targets are named {name}"
        result[name] = {"kind": call.func.id, "deps": [], **attributes}
    return result


def test_build_lists_every_module_with_its_imports():
    found = {
        (target["kind"], name, tuple(target["srcs"]), tuple(target["deps"]))
        for name, target in _build_file().items()
    }
    wanted = {
        (target.kind, target.name, target.srcs, tuple(f":{dep}" for dep in target.deps))
        for target in update_build.targets()
    }
    assert found == wanted, "BUILD is out of date: run `make BUILD`"


def test_every_python_file_is_a_source_of_one_target():
    sources = [target["srcs"][0] for target in _build_file().values()]
    files = [
        path.relative_to(support.ROOT).as_posix()
        for folder in ("tfcert", "trainers", "benchmarks", "tests")
        for path in support.ROOT.glob(f"{folder}/**/*.py")
    ]
    assert sorted(sources) == sorted(files)


def test_imports_go_one_way():
    for name, target in _build_file().items():
        group = _group(name)
        if group == "tests":
            continue
        assert group in _MAY_KNOW, f"{name}: say in _MAY_KNOW what {group} may import"
        known = {_group(dep.removeprefix(":")) for dep in target["deps"]} - {group}
        assert known <= _MAY_KNOW[group], f"{name} must not import {known - _MAY_KNOW[group]}"


def test_the_order_has_no_cycle():
    done: set[str] = set()
    while left := set(_MAY_KNOW) - done:
        ready = {group for group in left if _MAY_KNOW[group] <= done}
        assert ready, f"a cycle among {left}"
        done |= ready


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tfcert", {"tfcert"}),
        ("import tfcert.rules.affine as affine, os", {"tfcert/rules/affine"}),
        ("from tfcert import bound, rules", {"tfcert", "tfcert/rules"}),
        ("from tfcert.rules import affine", {"tfcert/rules/affine"}),
        ("from tfcert.rules import register_rule", {"tfcert/rules"}),
        ("def f():\n  from tests import support\n", {"tests/support"}),
        ("import keras, tfcertain\nfrom numpy import rules", set()),
    ],
)
def test_reads_imports(source, found):
    modules = {"tfcert", "tfcert/rules", "tfcert/rules/affine", "tests", "tests/support"}
    assert update_build.imports(source, modules) == found


def test_refuses_relative_imports():
    with pytest.raises(ValueError, match="absolute"):
        update_build.imports("from . import rules", set())
