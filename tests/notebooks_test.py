"""The notebooks of docs/: they match their scripts, hold results, and their scripts run."""

import base64
import contextlib
import importlib.util
import io
import json
import pathlib
import re
import struct

import keras
import pytest

from tests import support

_FOLDER = support.ROOT / "docs/notebooks"
_NAMES = ("certify_your_model", "smoothing", "train_certified", "verify_a_controller")


def _maker():
    spec = importlib.util.spec_from_file_location("maker", _FOLDER / "make_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MAKER = _maker()


def _script(name: str) -> str:
    return (_FOLDER / f"{name}.py").read_text(encoding="utf-8")


def _notebook(name: str) -> dict:
    return json.loads((_FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def _printed(name: str) -> str:
    """What the cells of a notebook printed when it was made."""
    outputs = [out for cell in _notebook(name)["cells"] for out in cell.get("outputs", ())]
    return "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")


def test_every_script_has_a_notebook_and_is_listed():
    assert tuple(path.stem for path in _MAKER.scripts()) == _NAMES
    assert tuple(sorted(path.stem for path in _FOLDER.glob("*.ipynb"))) == _NAMES
    page = (_FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.ipynb)" in page for name in _NAMES)


@pytest.mark.parametrize("name", _NAMES)
def test_notebooks_match_their_scripts(name):
    wanted = _MAKER.notebook(_script(name))
    found = _notebook(name)
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]] == [
        (cell["cell_type"], cell["source"]) for cell in wanted["cells"]
    ], f"run `python docs/notebooks/make_notebooks.py {name}`"
    assert found["metadata"] == wanted["metadata"]


@pytest.mark.parametrize("name", _NAMES)
def test_headers_are_complete(name):
    fields = _MAKER.header(_script(name).split('"""')[1])
    assert tuple(fields) == _MAKER.FIELDS
    assert fields["Author"] == "tfcert authors"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d", fields["Date created"])


@pytest.mark.parametrize("name", _NAMES)
def test_outputs_are_there_and_small_and_tell_nothing_of_a_machine(name):
    path = _FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 200_000
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|usr|Users|var)/|site-packages", text)
    cells = [cell for cell in _notebook(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell["outputs"]]
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data"}  # No errors.
    pictures = [out["data"]["image/png"] for out in outputs if out["output_type"] != "stream"]
    assert pictures
    for picture in pictures:
        width, height = struct.unpack(">II", base64.b64decode(picture)[16:24])
        assert width <= 800 and height <= 600
    assert _printed(name)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="made with TensorFlow")
@pytest.mark.parametrize("name", _NAMES)
def test_scripts_run(name, monkeypatch, tmp_path):
    """A script prints what its notebook shows, but for the numbers."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    code = compile(_script(name), str(pathlib.Path(name).with_suffix(".py")), "exec")
    with contextlib.redirect_stdout(output):
        exec(code, {"__name__": "__main__"})
    pyplot.close("all")
    assert _beginnings(output.getvalue()) == _beginnings(_printed(name))


def _beginnings(printed: str) -> list[str]:
    """Lines up to the first number; numbers and indented lines vary with the machine."""
    return [re.split(r"[-\d]", line)[0] for line in printed.splitlines() if line[:1] != " "]


def test_reads_scripts():
    source = '"""\nTitle: T\nAuthor: A\nDescription: one\n  two\n"""\n\n"""\nText.\n"""\nx = 1\n'
    source += '\n"""\n"""\n\ny = 2\n'
    found = _MAKER.cells(
        source.replace(
            "Author: A\n", "".join(f"{field}: A\n" for field in _MAKER.FIELDS[1:4])
        ).replace("  two\n", "  two\nAccelerator: None\n")
    )
    kinds = [kind for kind, _ in found]
    assert kinds == ["markdown", "markdown", "code", "code"]
    assert found[0][1].startswith("# T\n") and "**Description:** one two<br>" in found[0][1]
    assert [text for _, text in found[1:]] == ["Text.", "x = 1", "y = 2"]
