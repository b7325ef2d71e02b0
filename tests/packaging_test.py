"""What setuptools builds and where, and what `make clean` removes."""

import fnmatch
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import support

_FILES = ("BUILD", "LICENSE", "MODULE.bazel", "Makefile", "README.md", "WORKSPACE", "setup.py")
_FOLDERS = ("bazel", "benchmarks", "docs", "tests", "tfcert", "tfcert_programs", "trainers")
_PACKAGES = ("tfcert", "tfcert_programs")
_SHIPPED_DATA = {
    "tfcert/py.typed",
    "tfcert/datasets/data/README.md",
    "tfcert/datasets/data/digits.npz",
    "tfcert/reporting/page.css",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> pathlib.Path:
    """A copy of the checkout in which setuptools has built the package."""
    root = tmp_path_factory.mktemp("checkout")
    for name in _FILES:
        shutil.copy(support.ROOT / name, root)
    for name in _FOLDERS:
        (root / name).mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _PACKAGES:
        shutil.copytree(support.ROOT / name, root / name, ignore=ignored, dirs_exist_ok=True)
    command = [sys.executable, "setup.py", "--quiet", "build"]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    return root


def test_setuptools_builds_beside_the_build_file(built):
    # Where the disk ignores upper and lower case, a folder "build" would be the file BUILD.
    assert {path.name for path in built.iterdir()} == {*_FILES, *_FOLDERS, ".build"}


def test_all_modules_ship_and_no_build_file(built):
    library = built / ".build/lib"
    found = {path.relative_to(library).as_posix() for path in library.rglob("*") if path.is_file()}
    paths = [path for name in _PACKAGES for path in (built / name).rglob("*.py")]
    modules = {path.relative_to(built).as_posix() for path in paths}
    assert found == modules | _SHIPPED_DATA


def _cleaned(root: pathlib.Path) -> list[str]:
    """What `make clean` would remove, as make says itself."""
    if shutil.which("make") is None:
        pytest.skip("needs make, which is not installed")
    command = ["make", "--no-print-directory", "-n", "clean", f"PYTHON={sys.executable}"]
    text = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    program, option, *names = shlex.split(text)
    assert (program, option) == ("rm", "-rf")
    return names


def test_clean_spares_the_sources_whatever_the_case(built):
    removed = _cleaned(built)
    assert ".build" in removed
    sources = [name.lower() for name in (*_FILES, *_FOLDERS)]
    for name in removed:
        assert not fnmatch.filter(sources, name.lower()), f"`make clean` removes {name}"


def test_bazel_ignores_what_clean_removes(built):
    ignored = (support.ROOT / ".bazelignore").read_text(encoding="utf-8").split()
    assert {name for name in _cleaned(built) if "*" not in name} <= set(ignored)
