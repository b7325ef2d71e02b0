"""Runs the scripts of this folder and writes them, with what they show, as notebooks.

python docs/notebooks/make_notebooks.py [NAME ...]

A script is the source of the notebook beside it. Its first text has the title and the other fields
of an example of keras.io; every other text at the top level becomes a cell of Markdown, and the
code between two texts a cell of code.
"""

from __future__ import annotations

import ast
import json
import pathlib
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent
FIELDS = ("Title", "Author", "Date created", "Last modified", "Description", "Accelerator")
_TIMEOUT = 180  # seconds for all of a notebook


def scripts() -> list[pathlib.Path]:
    """The sources of all notebooks."""
    return sorted(path for path in FOLDER.glob("*.py") if path != pathlib.Path(__file__).resolve())


def header(text: str) -> dict[str, str]:
    """The fields of a script's first text."""
    fields: dict[str, str] = {}
    for line in text.strip().splitlines():
        name, colon, value = line.partition(":")
        if colon and name in FIELDS:
            fields[name] = value.strip()
        else:  # The last field goes on.
            fields[list(fields)[-1]] += " " + line.strip()
    return fields


def _front(text: str) -> str:
    """The first cell: the title, and a line for each other field."""
    fields = header(text)
    lines = [f"**{name}:** {fields[name]}" for name in FIELDS[1:]]
    return f"# {fields['Title']}\n\n" + "<br>\n".join(lines)


def cells(source: str) -> list[tuple[str, str]]:
    """The cells of a script: (kind, text) with the kinds "markdown" and "code"."""
    found: list[tuple[str, str]] = []
    lines = source.splitlines()
    done = 0

    def take_code(end: int) -> None:
        code = "\n".join(lines[done:end]).strip("\n")
        if code:
            found.append(("code", code))

    for statement in ast.parse(source).body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            continue
        take_code(statement.lineno - 1)
        text = str(statement.value.value).strip()
        if text:  # An empty text parts two cells of code.
            found.append(("markdown", text if found else _front(text)))
        done = statement.end_lineno or statement.lineno
    take_code(len(lines))
    return found


def notebook(source: str) -> dict[str, Any]:
    """The notebook of a script, without outputs."""
    made = []
    for number, (kind, text) in enumerate(cells(source)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _run(source: str) -> dict[str, Any]:
    """The notebook with its outputs; messages on stderr are left out."""
    import nbclient
    import nbformat

    made = nbformat.from_dict(notebook(source))
    nbclient.NotebookClient(made, timeout=_TIMEOUT, kernel_name="python3").execute()
    done = json.loads(nbformat.writes(made))
    for cell in done["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            outputs = [out for out in cell["outputs"] if out.get("name") != "stderr"]
            for out in outputs:
                if "image/png" in out.get("data", {}):
                    del out["data"]["text/plain"]  # The size of the figure, which is seen.
            cell["outputs"] = outputs
    done["metadata"] = notebook(source)["metadata"]
    return done


def main() -> None:
    """Writes the notebooks that are named, or all."""
    for path in scripts():
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            text = json.dumps(_run(path.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
            path.with_suffix(".ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
