"""Writes the file BUILD from the imports of the modules: ``make BUILD``.

One target per module, named by its path: ``tfcert/regions`` for tfcert/regions.py, ``tfcert/rules``
for tfcert/rules/__init__.py. What a module imports from this repository, at its top or inside a
function, is in its deps.
"""

from __future__ import annotations

import ast
import pathlib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("tfcert", "trainers", "benchmarks", "tests")
# Files that a target opens, as Starlark expressions; a test also reads pytest's settings.
DATA = {
    "tfcert/reporting/page": '["tfcert/reporting/page.css"]',
    "tfcert/datasets/loading": 'glob(["tfcert/datasets/data/*"])',
    "tests/api_test": '["CHANGELOG.md", "docs/api.md"]',
    "tests/demo_test": '["trainers/demo.py"]',
    "tests/docs_test": 'glob(["*.md", "docs/**", "tfcert/datasets/data/*.md"])',
    "tests/build_file_test": 'glob(["BUILD"] + [f + "/**/*.py" for f in FOLDERS])',
}
HEADER = '''\
"""Bazel targets, one per Python module. Written by `make BUILD`; checked by tests/build_file_test.

keras, numpy, tensorflow and the like come from the Python environment (pip install --editable .)
and are no targets here.
"""

package(default_visibility = ["//visibility:public"])

licenses(["notice"])  # Apache-2.0

exports_files(["LICENSE"])

FOLDERS = ["tfcert", "trainers", "benchmarks", "tests"]
'''


class Target(NamedTuple):
    """One rule of BUILD; `deps` are names of targets in this file."""

    kind: str
    name: str
    srcs: tuple[str, ...]
    deps: tuple[str, ...]


def name_of(path: pathlib.PurePath) -> str:
    """The target of a module's file, given relative to the repository's root."""
    return (path.parent if path.name == "__init__.py" else path.with_suffix("")).as_posix()


def imports(source: str, modules: set[str]) -> set[str]:
    """The members of `modules` (targets' names) that the source text imports.

    Example:
      >>> imports("from tfcert import rules, bound", {"tfcert", "tfcert/rules"})
      {'tfcert/rules', 'tfcert'}
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.replace(".", "/") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"Imports must be absolute. Received: {ast.unparse(node)!r}.")
            package = (node.module or "").replace(".", "/")
            for alias in node.names:
                module = f"{package}/{alias.name}"
                found.add(module if module in modules else package)
    return found & modules


def targets(root: pathlib.Path = ROOT) -> list[Target]:
    """The targets that BUILD must have, in its order."""
    paths = [
        path.relative_to(root)
        for folder in FOLDERS
        for path in sorted(root.glob(f"{folder}/**/*.py"))
    ]
    modules = {name_of(path) for path in paths}
    result = []
    for path in paths:
        name, source = name_of(path), (root / path).read_text(encoding="utf-8")
        srcs, deps, kind = [path.as_posix()], imports(source, modules) - {name}, "py_library"
        if path.name.endswith("_test.py"):
            kind, srcs, deps = "py_test", [*srcs, "tests/main.py"], deps | {"tests/conftest"}
        elif path.parts[0] in ("trainers", "benchmarks") and "__main__" in source:
            kind = "py_binary"
        result.append(Target(kind, name, tuple(srcs), tuple(sorted(deps))))
    return result


def render(target: Target) -> str:
    """The target as Starlark, formatted as buildifier does."""
    lines = [f"{target.kind}(", f'    name = "{target.name}",']
    lines.append(_list("srcs", target.srcs))
    if target.kind == "py_test":
        lines.append(_list("args", target.srcs[:1]))
    data = ['["pyproject.toml"]'] if target.kind == "py_test" else []
    if target.name in DATA:
        data.append(DATA[target.name])
    if data:
        lines.append(f"    data = {' + '.join(data)},")
    if target.kind == "py_test":
        lines.append('    main = "tests/main.py",')
    if target.deps:
        lines.append(_list("deps", [f":{name}" for name in target.deps]))
    return "\n".join([*lines, ")", ""])


def _list(key: str, values: tuple[str, ...] | list[str]) -> str:
    if len(values) == 1:
        return f'    {key} = ["{values[0]}"],'
    return "\n".join([f"    {key} = [", *(f'        "{value}",' for value in values), "    ],"])


if __name__ == "__main__":
    text = "\n".join([HEADER, *(render(target) for target in targets())])
    (ROOT / "BUILD").write_text(text, encoding="utf-8")
