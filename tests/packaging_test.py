"""What setuptools builds and where, what gets installed, and what `make clean` removes."""

import fnmatch
import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest

from tests import support
from tfcert import version

_FILES = ("BUILD", "CITATION.cff", "LICENSE", "MODULE.bazel", "Makefile", "README.md", "WORKSPACE")
_FILES += ("pyproject.toml", "setup.py")
_PACKAGES = ("tfcert", "tfcert_check", "tfcert_programs")
_FOLDERS = ("bazel", "benchmarks", "docs", "pretrained", "tests", "trainers", *_PACKAGES)
_SHIPPED_DATA = {
    "tfcert/py.typed",
    "tfcert/datasets/data/README.md",
    "tfcert/datasets/data/digits.npz",
    "tfcert/reporting/page.css",
}


def _copy_checkout(root: pathlib.Path) -> None:
    """Copies the files and the packages; the other folders are there, but empty."""
    for name in _FILES:
        shutil.copy(support.ROOT / name, root)
    for name in _FOLDERS:
        (root / name).mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _PACKAGES:
        shutil.copytree(support.ROOT / name, root / name, ignore=ignored, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> pathlib.Path:
    """A copy of the checkout in which setuptools has built the package."""
    root = tmp_path_factory.mktemp("checkout")
    _copy_checkout(root)
    command = [sys.executable, "setup.py", "--quiet", "build"]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    return root


def test_setuptools_builds_beside_the_build_file(built):
    # Where the disk ignores upper and lower case, a folder "build" would be the file BUILD.
    assert {path.name for path in built.iterdir()} == {*_FILES, *_FOLDERS, ".build"}


def _shipped(root: pathlib.Path) -> set[str]:
    """The files of the packages that get installed."""
    paths = [path for name in _PACKAGES for path in (root / name).rglob("*.py")]
    return {path.relative_to(root).as_posix() for path in paths} | _SHIPPED_DATA


def test_all_modules_ship_and_no_build_file(built):
    library = built / ".build/lib"
    found = {path.relative_to(library).as_posix() for path in library.rglob("*") if path.is_file()}
    assert found == _shipped(built)


def _needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}, which is not installed")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, pathlib.Path]:
    """The source archive, and the wheel that is built from it, by their last suffix."""
    _needs("build")
    root = tmp_path_factory.mktemp("source")
    _copy_checkout(root)
    # Without isolation, since setuptools is here and need not be downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir=dist"]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    found = {path.suffix: path for path in (root / "dist").iterdir()}
    assert set(found) == {".gz", ".whl"}
    return found


@pytest.mark.slow
def test_distributions_pass_the_checks_of_the_index(distributions):
    _needs("twine")
    files = [str(path) for path in distributions.values()]
    run = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_metadata(distributions):
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        lines = wheel.read(metadata).decode().splitlines()
    folder = metadata.partition("/")[0]
    assert {name for name in names if not name.startswith(folder)} == _shipped(support.ROOT)
    assert f"{folder}/licenses/LICENSE" in names
    wanted = {f"Version: {version.__version__}", "License-Expression: Apache-2.0"}
    assert wanted | {"Requires-Python: <3.14,>=3.11"} <= set(lines)


def _has_index(folder: pathlib.Path) -> bool:
    """Whether pip can download packages."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries=0", "absl-py"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_empty_environment(distributions, tmp_path):
    if not _has_index(tmp_path):
        pytest.skip("needs a package index, which pip does not reach")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    venv.create(tmp_path / "empty", with_pip=True)
    programs = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")

    def run(program: str, *arguments: object) -> str:
        command = [str(programs / program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", distributions[".whl"])
    assert "No broken requirements" in run("python", "-m", "pip", "check")
    place = run("python", "-c", "import tfcert_programs as p; print(p.__file__)")
    assert pathlib.Path(place.strip()).is_relative_to(tmp_path)
    run("tfcert-demo", "--out=demo", "--epochs=8", "--examples=24", "--eps=0.01")
    assert "verified" in (tmp_path / "demo/index.html").read_text(encoding="utf-8")


def _scripts() -> dict[str, str]:
    text = (support.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["scripts"]


@pytest.mark.parametrize("name", sorted(_scripts()))
def test_entry_points_are_functions(name):
    module, _, function = _scripts()[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


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


def test_the_citation_names_this_version():
    lines = (support.ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {version.__version__}" in lines
    assert "cff-version: 1.2.0" in lines
