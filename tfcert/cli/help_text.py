"""The text of --help: the required flags, then the other flags by subject."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

from absl import flags

__all__ = ["asked_for", "forget_sections", "is_required", "own_help", "page", "section"]

_HELP = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")
# Titles, and the flags that were there before.
_sections: list[tuple[str, frozenset[str]]] = []
_KINDS = {
    "float": "NUMBER",
    "int": "INTEGER",
    "string": "TEXT",
    "string enum": "NAME",
    "comma separated list of strings": "A,B,...",
    "multi string": "TEXT",
    "norm": "NORM",
    "size": "NUMBER",
}


def section(title: str) -> None:
    """Opens a section of --help: the flags that are defined after this belong to it."""
    _sections.append((title, frozenset(flags.FLAGS)))


def forget_sections() -> None:
    """Forgets the sections of another program."""
    _sections.clear()


def asked_for(argv: Sequence[str]) -> bool:
    """Whether the command line asks for help."""
    words = list(argv[1:])
    return any(word in _HELP for word in words[: words.index("--") if "--" in words else None])


def is_required(name: str) -> bool:
    """Whether a flag has to be given."""
    return any("other than None" in known.message for known in flags.FLAGS[name].validators)


def page(description: str, names: Sequence[str]) -> str:
    """The whole help of a program."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    required = [name for name in names if is_required(name)]
    left = [name for name in names if name not in required]
    parts = [description.strip(), _part("Required", required, width)]
    opened = {"Options": frozenset[str](), **dict(_sections)}
    ends = [*list(opened.values())[1:], frozenset(names)]
    for (title, before), after in zip(opened.items(), ends, strict=True):
        part = [name for name in left if name in after and name not in before]
        parts.append(_part(title, part, width))
    parts.append(
        "--flagfile=FILE reads flags from a file, one a line. --verbosity=1 shows what TensorFlow "
        "logs.\n--helpfull lists the flags of the libraries, too."
    )
    return "\n\n".join(part for part in parts if part)


def _part(title: str, names: Sequence[str], width: int) -> str:
    return "\n".join([f"{title}:", *(_entry(name, width) for name in names)]) if names else ""


def _entry(name: str, width: int) -> str:
    flag = flags.FLAGS[name]
    kind = _KINDS.get(flag.flag_type(), "TEXT")
    head = f"  --[no]{name}" if flag.boolean else f"  --{name}={kind}"
    lines = textwrap.wrap(_description(name), width - 30, break_on_hyphens=False)
    if len(head) > 28:
        lines = ["", *lines]
    first, *more = lines
    return "\n".join([f"{head:<28}  {first}".rstrip(), *(" " * 30 + line for line in more)])


def _description(name: str) -> str:
    """The help of a flag with its choices and its default."""
    flag = flags.FLAGS[name]
    text = own_help(name)
    if isinstance(flag.parser, flags.EnumParser):
        text, mark, default = text.partition(" Default:")
        text += f" One of {', '.join(flag.parser.enum_values)}.{mark}{default}"
    switched_off = flag.boolean and not flag.default
    if flag.default not in (None, []) and not switched_off and "Default:" not in text:
        text += f" Default: {str(flag.default_as_str).strip(chr(39))}."
    return text


def own_help(name: str) -> str:
    """The help of a flag as it was written, without what absl adds."""
    text = " ".join((flags.FLAGS[name].help or "").split())
    text = re.sub(r"^<\S*>: ", "", text)
    return text.removesuffix("; repeat this option to specify a list of values")
