"""Holds docs/api.md against the code: names, signatures, docstrings and annotations."""

import importlib
import inspect
import re
import types
import typing

import pytest

import tfcert
from tests import support
from tfcert import datasets
from tfcert import types as shared
from tfcert.attacks import losses
from tfcert.bounds import method

# "## `tfcert.methods`" opens a module, "- `name(arguments)`: what it is" is one of its names.
_MODULE = re.compile(r"^## `([\w.]+)`$")
_ENTRY = re.compile(r"^- `(\w+)(\(.*\))?`: (.+)$")


def _listed() -> dict[str, dict[str, str | None]]:
    """Module -> name -> signature as written in docs/api.md, None for what is not called."""
    modules: dict[str, dict[str, str | None]] = {}
    for line in (support.ROOT / "docs/api.md").read_text(encoding="utf-8").splitlines():
        if heading := _MODULE.match(line):
            names = modules.setdefault(heading[1], {})
        elif entry := _ENTRY.match(line):
            assert entry[1] not in names, f"{entry[1]} is listed twice"
            names[entry[1]] = entry[2]
        else:
            assert not line.startswith(("- ", "## ")), f"docs/api.md has an odd line: {line}"
    return modules


def _public_modules() -> dict[str, types.ModuleType]:
    """tfcert and the modules that its __all__ names."""
    members = (getattr(tfcert, name) for name in tfcert.__all__)
    found = {"tfcert": tfcert}
    for member in members:
        if inspect.ismodule(member):
            found["tfcert." + member.__name__.rpartition(".")[2]] = member
    return found


def _signature(member: object) -> str:
    """The parameters and their defaults, without annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(member).parameters.values()
    ]
    return str(inspect.Signature(parameters)).replace("'", '"')


def _members() -> list[tuple[str, object]]:
    return [
        (f"{module}.{name}", getattr(found, name))
        for module, found in _public_modules().items()
        for name in found.__all__
    ]


def _functions() -> list[tuple[str, object]]:
    """Public functions, public methods and constructors of public classes."""
    found = []
    for name, member in _members():
        if inspect.isfunction(member):
            found.append((name, member))
        if inspect.isclass(member):
            for key in dir(member):
                method = inspect.getattr_static(member, key)
                method = getattr(method, "__func__", method)
                method = method.fget if isinstance(method, property) else method
                ours = (getattr(method, "__module__", None) or "").startswith("tfcert")
                if inspect.isfunction(method) and ours and (key[0] != "_" or key == "__init__"):
                    found.append((f"{name}.{key}", method))
    return found


def test_lists_every_public_name_and_no_other():
    listed = {module: set(names) for module, names in _listed().items()}
    public = {module: set(found.__all__) for module, found in _public_modules().items()}
    assert listed == public


def test_public_names_are_given_once():
    for name, module in _public_modules().items():
        assert len(set(module.__all__)) == len(module.__all__), name


@pytest.mark.parametrize(("name", "member"), _members(), ids=[name for name, _ in _members()])
def test_lists_the_signature(name, member):
    module, _, short = name.rpartition(".")
    expected = _signature(member) if callable(member) else None
    assert _listed()[module][short] == expected, f"docs/api.md: write `{short}{expected or ''}`"


@pytest.mark.parametrize("name", [name for name, _ in _members()])
def test_every_name_can_be_imported_from_where_it_is_listed(name):
    module, _, short = name.rpartition(".")
    assert hasattr(importlib.import_module(_public_modules()[module].__name__), short)


def test_documented():
    undocumented = [
        name
        for name, member in _members()
        if (callable(member) or inspect.ismodule(member)) and not inspect.getdoc(member)
    ]
    classes = {name: member for name, member in _members() if inspect.isclass(member)}
    for name, _ in _functions():
        owner, _, key = name.rpartition(".")
        # The class says what its arguments are, Keras what its own methods do.
        if owner not in classes or key in ("__init__", "get_config", "from_config"):
            continue
        if key in ("build", "call", "compute_output_shape"):
            continue
        # Found by name, so that an override may inherit its docstring.
        if not inspect.getdoc(getattr(classes[owner], key)):
            undocumented.append(name)
    assert undocumented == []


# Words that begin a clause whose subject is missing.
_WITHOUT_SUBJECT = (
    *("As", "For", "How", "It", "Its", "Of", "That", "Then", "These", "This", "Those", "What"),
    *("When", "Where", "Whether", "Which", "Who"),
)


def _fault_of(line: str) -> str:
    """Returns why a docstring's first line cannot be read alone, or ""."""
    words = re.findall(r"[\w`]+", line)
    if not line[0].isupper():
        return "does not begin with a capital letter"
    if not line.endswith("."):
        return "does not end with a full stop"
    if words[0] in _WITHOUT_SUBJECT:
        return f"begins with {words[0]!r}"
    return "" if len(words) > 3 else "has three words or fewer"


def test_first_lines_can_be_read_alone():
    """A list of names and a tooltip show the first line of a docstring, without its neighbours."""
    members = [pair for pair in _members() if callable(pair[1]) or inspect.ismodule(pair[1])]
    faults = [
        f"{name} {fault}: {line}"
        for name, member in [*members, *_functions()]
        if (line := (inspect.getdoc(member) or "").partition("\n")[0])
        and (fault := _fault_of(line))
    ]
    assert faults == []


def test_faults_of_first_lines():
    assert _fault_of("Bounds a model's outputs over all inputs of a region.") == ""
    assert "full stop" in _fault_of("Bounds a model's outputs over all inputs of")
    assert "'What'" in _fault_of("What methods with a backward sweep share.")
    assert "capital" in _fault_of("``f(x)`` at every point of the region.")
    assert "three words" in _fault_of("The bounds.")


# Objectives, methods, schedules, attacks and the functions of tfcert have several arguments each.
_EXPLAINED = ("tfcert", "attacks", "methods", "objectives", "schedules", "smoothing")


@pytest.mark.parametrize(
    ("name", "member"),
    [pair for pair in _members() if callable(pair[1]) and pair[0].split(".")[-2] in _EXPLAINED],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_are_explained_where_they_are(name, member):
    """An editor shows one docstring at a time, so it names every argument and sends nowhere."""
    text = inspect.getdoc(member) or ""
    # The options that all methods share are explained where a method has others, too.
    shared = {"float_safe", "max_memory", "jit_compile"}
    parameters = [
        parameter.name
        for parameter in inspect.signature(member).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    if len(parameters) > 1 and not set(parameters) <= shared:
        explained = re.findall(r"^ {4}\*?(\w+): ", text, re.M)
        assert [key for key in parameters if key not in explained] == []
    assert not re.search(r"^ {4}\*{0,2}\w+: (As (for|in)|See|Likewise)\b", text, re.M)


def test_annotated():
    empty = inspect.Parameter.empty
    missing = []
    for name, function in _functions():
        signature = inspect.signature(function)
        missing += [
            f"{name}({parameter.name})"
            for parameter in signature.parameters.values()
            if parameter.annotation is empty and parameter.name not in ("self", "cls")
        ]
        if signature.return_annotation is empty and not name.endswith(".__init__"):
            missing.append(f"{name} -> ?")
    assert missing == []


# Parameters that may be anything, and why.
_ANYTHING = {
    "tfcert.CertifiedTrainer.export(args)": "what Keras's export takes",
    "tfcert.CertifiedTrainer.log(data)": "a batch as Keras hands it on",
    "tfcert.CertifiedTrainer.test_step(data)": "a batch as Keras hands it on",
    "tfcert.CertifiedTrainer.train_step(data)": "a batch as Keras hands it on",
    "tfcert.logs.Writer.note(value)": "whatever JSON can hold",
    "tfcert.methods.get(method)": "a name or an object; others are refused with a message",
    "tfcert.certification.Certificates.plot(axes)": "matplotlib's, which is imported late",
    "tfcert.reporting.plot_history(axes)": "matplotlib's, which is imported late",
    "tfcert.rules.rearrange(windowed)": "a function or an object of the rules' own",
}


def test_parameters_have_real_types():
    found = {
        f"{name}({parameter.name})"
        for name, function in _functions()
        for parameter in inspect.signature(function).parameters.values()
        if parameter.annotation == "Any"
        and parameter.kind is not parameter.VAR_KEYWORD
        and parameter.name != "self"
    }
    # Settings of objectives are schedules, methods and numbers, which their base class converts.
    found = {name for name in found if not name.startswith("tfcert.objectives.")}
    assert found <= set(_ANYTHING)


def test_annotations_can_be_read():
    for name, function in _functions():
        if not name.startswith("tfcert.objectives."):
            assert typing.get_type_hints(function), name
    assert typing.get_type_hints(tfcert.bound)["return"] is tfcert.Bounds
    for function in (tfcert.bound, tfcert.bound_margins):
        assert _names(typing.get_type_hints(function)["method"]) == set(method.known_names())


def _names(union: object) -> set[object]:
    """The texts among what a union of types allows."""
    (literal,) = (t for t in typing.get_args(union) if typing.get_origin(t) is typing.Literal)
    return set(typing.get_args(literal))


def test_names_are_those_that_are_known():
    assert set(typing.get_args(shared.DatasetName)) == set(datasets.NAMES)
    assert set(typing.get_args(shared.AttackLoss)) == set(losses.LOSSES)
    assert set(typing.get_args(shared.MethodName)) == set(method.known_names())


def test_version_is_the_one_in_the_changelog():
    changelog = (support.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.M)[1] == tfcert.__version__
