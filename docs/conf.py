"""How Sphinx makes the documentation a site: ``make docs``.

The pages are those of the repository, as they are: README.md and its like at the top, the others in
docs/. Added here are the order of the pages and, from the docstrings, the reference.
"""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_REFERENCE = _ROOT / "docs/reference"  # Git ignores what is written there.
sys.path.insert(0, str(_ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from sphinx.domains import python  # noqa: E402
from sphinx.util import inspect as sphinx_inspect  # noqa: E402

import tfcert  # noqa: E402

# The pages in the order of the navigation, by chapters, each with a short title.
NAVIGATION: Mapping[str, Mapping[str, str]] = {
    "Start": {
        "Overview": "../README",
        "Quickstart": "quickstart",
        "Which bound, which training": "choosing",
        "Notebooks": "notebooks/README",
        "Certify your model": "notebooks/certify_your_model",
        "Train a classifier": "notebooks/train_certified",
        "Smoothing by example": "notebooks/smoothing",
        "Prove a controller": "notebooks/verify_a_controller",
    },
    "Bounds": {
        "What the bounds mean": "bounds",
        "Regions": "regions",
        "What is supported": "layers",
        "Sequences": "sequences",
        "Tabular models": "tabular",
    },
    "Training": {
        "Training": "training",
        "Results": "results",
        "Trained networks": "pretrained",
        "MAAR": "paper_maar",
        "Tight relaxations": "paper_tightness",
        "AdvIBP": "paper_advibp",
        "Beyond the papers": "beyond_the_papers",
        "Networks of ℓ∞ distances": "linf_nets",
    },
    "Certificates": {
        "Certification": "certification",
        "Verification": "verification",
        "Proofs": "proofs",
        "Attacks": "attacks",
    },
    "Smoothing": {
        "Randomized smoothing": "smoothing",
        "Consistency": "paper_consistency",
    },
    "Use": {
        "Serving": "serving",
        "Large sets": "scale",
        "ONNX and VNN-LIB": "interchange",
        "Reports": "reports",
        "Data sets": "datasets",
        "The digits": "../tfcert/datasets/data/README",
        "Benchmarks": "benchmarks",
    },
    "Reference": {
        "All names": "reference/index",
        "One line each": "api",
        "Changes": "../CHANGELOG",
        "Security": "../SECURITY",
    },
    "Extend": {
        "Adding a rule": "adding_a_rule",
        "Adding a method": "adding_a_method",
        "How it is built": "architecture",
        "Contributing": "../CONTRIBUTING",
        "Releasing": "releasing",
    },
}
# Types that are shown by their names; what they stand for is on the reference's first page.
_ALIASES = {
    "ArrayLike": "numbers, nested lists, NumPy arrays, or tensors of the backend",
    "Tensor": "a tensor of the backend that Keras runs on",
    "Operand": "an ``ArrayLike``, a Keras variable, or a function that returns a tensor",
    "Initializer": "what Keras takes as an initializer",
    "Seed": "an integer, a ``keras.random.SeedGenerator``, or an integer tensor",
    "PathLike": "a text or a ``pathlib.Path``",
    "DataSet": "a ``tf.data.Dataset`` or another source of batches that Keras takes",
    "Callbacks": "one of Keras's callbacks, or several",
    "Inputs": "an ``ArrayLike``; a dictionary or a list of them for a model with several inputs",
    "Regions": "a region; a dictionary or a list of regions and ``fixed`` for several inputs",
    "Radii": "a radius for each input: a dictionary by names, or a list in order",
}

project = "tfcert"
author = "tfcert authors"
copyright = author
version = release = tfcert.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**"]
include_patterns += ["tfcert/datasets/data/README.md"]
exclude_patterns = [".*", "docs_output", "docs/results", "docs/figures/*.py", "docs/notebooks/*.py"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

# Markdown: anchors of headings are GitHub's; a link that leads nowhere ends the build (-W).
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]  # Pictures that need a width.
# Notebooks hold their outputs.
nb_execution_mode = "off"

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in _ALIASES} | {
    "npt.ArrayLike": "ArrayLike",
    "entering.Inputs": "Inputs",
    "entering.Regions": "Regions",
}
autodoc_inherit_docstrings = False  # Those that Keras wrote are in Keras's documentation.
autosummary_generate = False
default_role = "py:obj"  # What docstrings have in single backticks.
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"
add_module_names = False

html_theme = "furo"
html_title = f"tfcert {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_extra_path = ["site/index.html"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []
copybutton_prompt_text = ">>> "


def _public_modules() -> dict[str, types.ModuleType]:
    """tfcert and the public modules in it, by their names."""
    members = {f"tfcert.{name}": getattr(tfcert, name) for name in tfcert.__all__}
    return {"tfcert": tfcert} | {k: v for k, v in members.items() if inspect.ismodule(v)}


def _home(key: str, member: object, page: str) -> str:
    """The module on whose page a name is described: tfcert, or where it comes from."""
    if key in tfcert.__all__:
        return "tfcert"
    defined = getattr(member, "__module__", page)
    homes = [
        name for name, found in _public_modules().items() if defined.startswith(found.__name__)
    ]
    return next((name for name in homes[1:] if key in _public_modules()[name].__all__), page)


def _described(page: str, key: str) -> str:
    """What docs/api.md says of a constant, which has no docstring."""
    text = (_ROOT / "docs/api.md").read_text(encoding="utf-8")
    section = text.partition(f"## `{page}`\n")[2].partition("\n## ")[0]
    found = re.search(rf"^- `{key}`: (.+)$", section, re.MULTILINE)
    return found[1].replace("`", "``") if found else ""


def _entry(page: str, key: str, member: object) -> str:
    """The directive that describes one name."""
    name = f"{page}.{key}"
    if inspect.isclass(member):
        return f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n\n"
    if callable(member):
        return f".. autofunction:: {name}\n\n"
    return f".. py:data:: {key}\n\n   {_described(page, key)}\n\n"


def _titled(title: str, text: str) -> str:
    return f"{title}\n{'=' * len(title)}\n\n{text}"


def _module_page(page: str, module: types.ModuleType) -> str:
    """The page of one module: its docstring, a table of its names, then each name's docstring."""
    names = {key: getattr(module, key) for key in module.__all__}
    homes = {
        k: _home(k, member, page) for k, member in names.items() if not inspect.ismodule(member)
    }
    here = [key for key, home in homes.items() if home == page]
    also = ", ".join(f":py:obj:`{home}.{key}`" for key, home in homes.items() if home != page)
    listed = "".join(f"   {key}\n" for key in here if callable(names[key]))
    return _titled(
        page,
        f".. automodule:: {page}\n\n"
        f".. currentmodule:: {page}\n\n"
        f".. autosummary::\n   :nosignatures:\n\n{listed}\n"
        + (f"Described elsewhere: {also}.\n\n" if also else "")
        + "".join(_entry(page, key, names[key]) for key in here),
    )


def _index_page(modules: Mapping[str, types.ModuleType]) -> str:
    rows = "".join(
        f"* :doc:`{name}`: {(inspect.getdoc(module) or '').splitlines()[0]}\n"
        for name, module in modules.items()
    )
    aliases = "".join(f"* ``{name}``: {text}\n" for name, text in _ALIASES.items())
    listed = "".join(f"   {name}\n" for name in modules)
    return _titled(
        "Reference",
        "All public names, from their docstrings. "
        f":doc:`Another page <../api>` has one line for each.\n\n{rows}\n"
        f"The signatures use these names of types:\n\n{aliases}\n"
        f".. toctree::\n   :hidden:\n\n{listed}",
    )


def _write_reference() -> None:
    """Writes a page of every public module, and one that lists them."""
    modules = _public_modules()
    sys.modules.update(modules)  # tfcert.methods lies in tfcert/bounds, but users say its name so.
    pages = {name: _module_page(name, module) for name, module in modules.items()}
    pages["index"] = _index_page(modules)
    _REFERENCE.mkdir(exist_ok=True)
    for path in _REFERENCE.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = _REFERENCE / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _adapt(app, docname: str, source: list[str]) -> None:
    """Takes out links to folders, which no site shows, and gives the first page the navigation."""
    folder = pathlib.Path(app.env.doc2path(docname)).parent

    def keep(link: re.Match[str]) -> str:
        return link[1] if (folder / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#]+)\)", keep, source[0])
    if docname == root_doc:
        for chapter, pages in NAVIGATION.items():
            listed = "\n".join(f"{title} <{page}>" for title, page in pages.items())
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {chapter}\n\n{listed}\n```\n"


def _skip(app, kind: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leaves out the fields of named tuples: the docstring of the class says what they are."""
    return True if (inspect.getdoc(member) or "").startswith("Alias for field") else None


def _signature(app, kind: str, name: str, member: object, options, given: str, returned: str):
    """The signature of a class; Sphinx would take Keras's ``__new__``, which takes anything."""
    if kind == "class" and given:
        found = sphinx_inspect.signature(member, type_aliases=autodoc_type_aliases)
        found = found.replace(return_annotation=inspect.Signature.empty)
        given = sphinx_inspect.stringify_signature(found, unqualified_typehints=True)
    return given, returned


def setup(app) -> None:
    """Called by Sphinx."""
    _write_reference()
    for field in python.PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # In place of "Variables".
    sphinx_inspect.TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # In unions, too.
    app.connect("source-read", _adapt)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
