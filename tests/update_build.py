"""Writes the BUILD files from the imports of the modules: ``make bazel``.

Each folder of Python has a BUILD file with one target per module: ``//tfcert/regions:lp_ball`` for
tfcert/regions/lp_ball.py and ``//tfcert/regions`` for tfcert/regions/__init__.py. A target's deps
are what its module imports from this repository, at the top or inside a function. The BUILD file at
the root holds short names for what users need.

A run replaces every BUILD file and deletes those that it wrote before for folders that hold no
Python now.
"""

from __future__ import annotations

import ast
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Folders of programs. They are no packages: a program imports its neighbours by their bare names.
PROGRAMS = ("benchmarks", "trainers")
# Modules that a program imports by a name in a string.
BY_NAME = {
    "benchmarks/bounds": ["benchmarks/peer", "benchmarks/subject"],
    "benchmarks/sequences": [
        *("benchmarks/peer", "benchmarks/subject"),
        *("benchmarks/sequences_peer", "benchmarks/sequences_subject"),
    ],
    "benchmarks/distance": ["benchmarks/distance_formula", "benchmarks/distance_peer"],
}
# Groups of files that targets open: folder -> name -> patterns.
FILES = {
    "": {"docs": ["*.md", "docs/**"], "pretrained": ["pretrained/**"]},
    "benchmarks": {"results": ["results/**"]},
    "tfcert/datasets": {"data": ["data/*"]},
    "trainers": {"recipes": ["recipes/**"]},
}
# What a module opens or runs besides its imports.
DATA = {
    "tfcert/datasets/loading": ["//tfcert/datasets:data"],
    "tfcert/reporting/page": ["page.css"],
    "tests/api_test": ["//:docs"],
    "tests/attack_program_test": ["//trainers:attack"],
    "tests/beam_test": ["//trainers:certify_beam"],
    "tests/certify_program_resume_test": ["//trainers:certify"],
    "tests/demo_test": ["//trainers:demo"],
    "tests/complete_column_test": ["//benchmarks:complete_column"],
    "tests/docs_test": ["//:docs", "//:pretrained", "//tfcert/datasets:data"],
    "tests/export_program_test": ["//trainers:export"],
    "tests/fixed_weights": ["data/weights_after_25_steps.npz"],
    "tests/notebooks_test": ["//:docs", "//tfcert/datasets:data"],
    "tests/onnx_test": ["//:docs"],
    "tests/pretrained_test": ["//:docs", "//:pretrained", "//benchmarks:publish"],
    "tests/program_flags_test": ["//tfcert_programs"],
    "tests/packaging_test": ["//tfcert/datasets:data"],
    "tests/report_program_test": ["//trainers:report"],
    "tests/results_test": [
        *("//:docs", "//benchmarks:adaptive_sampling", "//benchmarks:results"),
        *("//benchmarks:results_table", "//benchmarks:smoothing_table", "//benchmarks:tables"),
    ],
    "tests/train_program_test": ["//trainers:recipes", "//trainers:train"],
    "tests/site_test": ["//:docs", "//tfcert/datasets:data"],
    "tests/support": ["slow.txt"],
    "tests/vnncomp_test": ["//benchmarks:results", "//benchmarks:vnncomp"],
}
# Files at the root that targets of other folders open.
EXPORTED = (
    *(".bazelignore", "BUILD", "CITATION.cff", "LICENSE", "MODULE.bazel", "Makefile"),
    *("README.md", "WORKSPACE", "pyproject.toml", "setup.py"),
)
# Tests that read the whole repository.
READERS = ("tests/build_file_test", "tests/packaging_test")
MARK = "Written by `make bazel`; checked by tests/build_file_test."
VISIBILITY = {
    "benchmarks": "//:__subpackages__",
    "tests": "//:__subpackages__",
}


class Module(NamedTuple):
    """One Python file, given relative to the root."""

    path: pathlib.PurePosixPath

    @property
    def folder(self) -> str:
        """The folder with the BUILD file of this module's target."""
        return self.path.parent.as_posix()

    @property
    def name(self) -> str:
        """What the module is imported by, with slashes: ``tfcert/rules`` for its __init__.py."""
        path = self.path.parent if self.path.name == "__init__.py" else self.path.with_suffix("")
        return path.as_posix()

    @property
    def target(self) -> str:
        """The target's name in its BUILD file."""
        return self.name.rpartition("/")[2]

    @property
    def label(self) -> str:
        """The target's full label."""
        return f"//{self.folder}:{self.target}"

    def kind(self, source: str) -> str:
        """The rule that builds the module."""
        if self.path.name.endswith("_test.py"):
            return "py_test"
        program = self.folder in PROGRAMS and 'if __name__ == "__main__"' in source
        return "py_binary" if program or self.target == "__main__" else "py_library"


class Code(str):
    """An expression of Starlark, written as it is."""


def folders(root: pathlib.Path = ROOT) -> list[str]:
    """The folders at the root whose modules have targets: packages and programs."""
    packages = {path.parent.name for path in root.glob("*/__init__.py")}
    return sorted(packages | {name for name in PROGRAMS if (root / name).is_dir()})


def modules(root: pathlib.Path = ROOT) -> dict[str, Module]:
    """Name -> module, for all that have targets."""
    paths = [path for folder in folders(root) for path in sorted(root.glob(f"{folder}/**/*.py"))]
    found = [Module(pathlib.PurePosixPath(path.relative_to(root).as_posix())) for path in paths]
    return {module.name: module for module in found}


def imports(source: str, names: Collection[str], types: bool = False) -> set[str]:
    """The members of `names`, which are modules, that the source text imports.

    Args:
      source: The text of a module.
      names: Names of modules, with slashes.
      types: Whether imports below ``if TYPE_CHECKING:`` count. Such imports never run.

    Example:
      >>> imports("from tfcert import rules, bound", {"tfcert", "tfcert/rules"})
      {'tfcert/rules', 'tfcert'}
    """
    found = set()
    for node in _nodes(ast.parse(source), types):
        if isinstance(node, ast.Import):
            found |= {alias.name.replace(".", "/") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"Imports must be absolute. Received: {ast.unparse(node)!r}.")
            package = (node.module or "").replace(".", "/")
            for alias in node.names:
                module = f"{package}/{alias.name}"
                found.add(module if module in names else package)
    return found & set(names)


def _nodes(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    yield node
    left = ast.iter_child_nodes(node)
    if not types and isinstance(node, ast.If):
        never = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        left = iter(node.orelse) if never else left
    for child in left:
        yield from _nodes(child, types)


def deps(module: Module, source: str, known: dict[str, Module], types: bool = False) -> set[str]:
    """The names of the modules that a module needs."""
    near = {}
    if module.folder in PROGRAMS:
        near = {
            other.target: name for name, other in known.items() if other.folder == module.folder
        }
    found = imports(source, {*known, *near}, types)
    found = {near.get(name, name) for name in found} | set(BY_NAME.get(module.name, ()))
    if module.kind(source) == "py_test":
        found.add("tests/conftest")
    return found - {module.name}


def build_files(root: pathlib.Path = ROOT) -> dict[str, str]:
    """Path -> text of every BUILD file that the repository must have."""
    known = modules(root)
    sources = {name: (root / known[name].path).read_text(encoding="utf-8") for name in known}
    result = {}
    for folder in sorted({module.folder for module in known.values()}):
        here = [module for module in known.values() if module.folder == folder]
        result[f"{folder}/BUILD"] = _package(folder, here, sources, known)
    result["BUILD"] = _top(known, sources)
    return result


def _top(known: dict[str, Module], sources: dict[str, str]) -> str:
    """The BUILD file at the root: aliases of the packages and programs, and all tests."""
    programs = [m for m in known.values() if m.folder == "trainers" or m.target == "__main__"]
    aliases = {
        (f"tfcert-{m.target}" if m.folder == "trainers" else m.folder).replace("_", "-"): m.label
        for m in programs
        if m.kind(sources[m.name]) == "py_binary"
    }
    aliases |= {name: f"//{name}:{name}" for name in known if "/" not in name and name != "tests"}
    return "\n".join(
        [
            f'"""The packages, the programs and the tests by short names.\n\n{MARK}\n"""\n',
            'package(default_visibility = ["//visibility:public"])\n',
            'licenses(["notice"])  # Apache-2.0\n',
            f"exports_files({_value(list(EXPORTED), 0)})\n",
            *(
                _rule("alias", {"name": n, "actual": _near(aliases[n], "")})
                for n in sorted(aliases)
            ),
            *_groups(""),
            _rule("test_suite", {"name": "tests", "tests": ["//tests:all_tests"]}),
        ]
    )


def _package(
    folder: str, here: list[Module], sources: dict[str, str], known: dict[str, Module]
) -> str:
    """The BUILD file of a folder of Python."""
    kinds = sorted({module.kind(sources[module.name]) for module in here})
    rules = [_target(module, sources[module.name], known) for module in here]
    names = [module.target for module in here] + list(FILES.get(folder, ())) + ["all_files"]
    if folder == "tests":
        names.append("all_tests")
        rules.append(_rule("test_suite", {"name": "all_tests"}))
    if len(set(names)) < len(names):
        raise ValueError(f"Each target needs a name of its own. Received: {sorted(names)}.")
    visibility = VISIBILITY.get(folder.partition("/")[0], "//visibility:public")
    return "\n".join(
        [
            f'"""One target per module of {folder}/.\n\n{MARK}\n"""\n',
            f"load({', '.join(map(_value, ['@rules_python//python:defs.bzl', *kinds]))})\n",
            f'package(default_visibility = ["{visibility}"])\n',
            *rules,
            *_groups(folder),
            _rule("filegroup", {"name": "all_files", "srcs": Code('glob(["*"])')}),
        ]
    )


def _target(module: Module, source: str, known: dict[str, Module]) -> str:
    kind, test = module.kind(source), module.path.name.endswith("_test.py")
    files, data = [module.path.name], list(DATA.get(module.name, ()))
    attributes: dict[str, object] = {"name": module.target}
    if test:
        # TensorFlow compiles for minutes on a small machine.
        attributes["timeout"] = "long"
        files.append("main.py")
        data.append("//:pyproject.toml")
        attributes["args"] = [module.path.as_posix()]
        attributes["main"] = "main.py"
    if module.name in READERS:
        data += [f"//:{name}" for name in EXPORTED if name != "pyproject.toml"]
        data += [f"//{folder}:all_files" for folder in {m.folder for m in known.values()}]
    if kind == "py_library" and module.folder in PROGRAMS:
        attributes["imports"] = ["."]
    attributes["srcs"] = sorted(files)
    attributes["data"] = _sorted(data, module.folder)
    needed = [known[name].label for name in deps(module, source, known)]
    attributes["deps"] = _sorted(needed, module.folder)
    return _rule(kind, attributes)


def _groups(folder: str) -> list[str]:
    return [
        _rule("filegroup", {"name": name, "srcs": Code(f"glob({_value(patterns)})")})
        for name, patterns in FILES.get(folder, {}).items()
    ]


def _near(label: str, folder: str) -> str:
    """The label as written in the folder's BUILD file."""
    if not label.startswith("//"):
        return label
    package, _, name = label[2:].partition(":")
    if package == folder:
        return f":{name}"
    return f"//{package}" if package.rpartition("/")[2] == name else label


def _sorted(labels: list[str], folder: str) -> list[str]:
    """Labels in the order of Bazel's formatter: those of the own folder first."""
    near = [_near(label, folder) for label in labels]
    return sorted(near, key=lambda x: (x.startswith("//"), x.replace(":", ".").split(".")))


# The order of attributes in Bazel's formatter.
_ORDER = ("name", "timeout", "srcs", "actual", "args", "data", "imports", "main", "tests", "deps")


def _rule(kind: str, attributes: dict[str, object]) -> str:
    """A rule as Bazel's formatter writes it; empty attributes are left out."""
    lines = [
        f"    {key} = {_value(attributes[key])},"
        for key in sorted(attributes, key=_ORDER.index)
        if attributes[key]
    ]
    return "\n".join([f"{kind}(", *lines, ")\n"])


def _value(value: object, depth: int = 1) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, list) and len(value) > 1:
        pad = "    " * depth
        return "\n".join(["[", *(f'{pad}    "{item}",' for item in value), f"{pad}]"])
    return f'["{value[0]}"]' if isinstance(value, list) else f'"{value}"'


def on_disk(root: pathlib.Path) -> set[str]:
    """The paths of all BUILD files that Bazel sees, by either of their names."""
    ignored = set((root / ".bazelignore").read_text(encoding="utf-8").split()) | {".git"}
    found = set()
    for folder, inside, files in os.walk(root):
        place = pathlib.Path(folder).relative_to(root)
        inside[:] = [name for name in inside if (place / name).as_posix() not in ignored]
        found |= {(place / name).as_posix() for name in {"BUILD", "BUILD.bazel"} & set(files)}
    return found


def stale(root: pathlib.Path = ROOT) -> list[str]:
    """The BUILD files that are missing, out of date or too many."""
    wanted = build_files(root)
    found = {path: (root / path).read_text(encoding="utf-8") for path in on_disk(root)}
    return sorted(path for path in {*wanted, *found} if wanted.get(path) != found.get(path))


def write(root: pathlib.Path = ROOT) -> None:
    """Brings all BUILD files up to date."""
    wanted = build_files(root)
    for path in on_disk(root) - set(wanted):
        if MARK in (root / path).read_text(encoding="utf-8"):
            (root / path).unlink()
    for path, text in wanted.items():
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
