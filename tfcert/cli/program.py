"""The start, the help and the end of every program.

Nothing here needs TensorFlow. A program's ``main`` calls `load_library` when its flags are found to
be right, and imports what does the work after that.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags

from tfcert.cli import choices, help_text
from tfcert.cli.values import NameParser

__all__ = ["check_file", "load_library", "mistakes", "no_arguments", "section", "start"]

section = help_text.section


def start(
    main: Callable[[Sequence[str]], None],
    define_flags: Callable[[], None],
    description: str,
    stopped: str = "Nothing was written. Start the same command again.",
) -> None:
    """Defines the flags, parses them and runs `main`; never returns.

    The flags are defined here and not when a program's module is imported, so that two programs
    with a flag of the same name can be imported together.

    Args:
        main: The program; it gets the arguments that are no flags.
        define_flags: Defines the flags.
        description: What the program does; the first line is its summary.
        stopped: What to do after Ctrl-C, where `main` does not say so itself.

    Example: ``start(main, define_flags, __doc__)``
    """
    before = set(flags.FLAGS)
    help_text.forget_sections()
    define_flags()
    own = [name for name in flags.FLAGS if name not in before]
    for name in own:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, flags.EnumParser):
            flag.parser = NameParser(flag.parser.enum_values)
    if help_text.asked_for(sys.argv):
        print(help_text.page(description, own))
        sys.exit(0)

    def show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
        print(f"{_name()}: Note: {with_flags(str(message), own)}", file=sys.stderr)

    warnings.showwarning = show_warning

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except app.UsageError as error:
            _fail(with_flags(str(error), own))
        except KeyboardInterrupt:
            print(f"\n{_name()}: Stopped. {stopped}", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=lambda argv: _parse(argv, own))


def load_library() -> None:
    """Executes the package ``tfcert``, which registers its classes, where that was put off.

    What TensorFlow says when it starts is shown with --verbosity=1 alone.
    """
    package = sys.modules["tfcert"]
    if hasattr(package, "__all__"):
        return
    quiet = flags.FLAGS.verbosity < 1
    if quiet:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _no_messages() if quiet else contextlib.nullcontext():
        assert package.__spec__ is not None and package.__spec__.loader is not None
        package.__spec__.loader.exec_module(package)


@contextlib.contextmanager
def _no_messages() -> Iterator[None]:
    """Keeps messages from the terminal, those of C++ too; they are shown if an error follows."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turns errors in what the user gave into ``app.UsageError``, which ends the program."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        raise app.UsageError(where + (error.strerror or str(error))) from error
    except (ValueError, NotImplementedError) as error:
        raise app.UsageError(str(error)) from error


def no_arguments(argv: Sequence[str]) -> None:
    """Raises where the command line has words that are no flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}. Flags begin with --.")


def check_file(flag: str, path: str) -> None:
    """Raises where a flag names a file that is not there."""
    if pathlib.Path(path).is_file():
        return
    inside = pathlib.Path(path, "model.keras")
    hint = f" Did you mean --{flag}={inside}?" if inside.is_file() else ""
    what = "This is a folder." if pathlib.Path(path).is_dir() else "There is no such file."
    raise FileNotFoundError(f"--{flag}={path}: {what}{hint}")


def with_flags(message: str, known: Sequence[str]) -> str:
    """A message of the library with names of flags in the place of arguments."""

    def name(found: re.Match[str]) -> str:
        return f"--{found[1]}" if found[1] in known else found[0]

    message = re.sub(r"`(\w+)`", name, message)
    return re.sub(r"(?<=Received: )(\w+)(?==)", name, message)


def _parse(argv: Sequence[str], own: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [*own, "flagfile", "verbosity"]
        near = choices.suggestion(error.flagname, known, "--")
        _fail(f"There is no flag --{error.flagname}.{near or f' {_name()} --help lists them.'}")
    except flags.Error as error:
        missing = [name for name in own if help_text.is_required(name) and _value(name) is None]
        if "must have a value other than None" in str(error) and missing:
            _fail(" ".join(f"--{name} is missing: {_beginning(name)}" for name in missing))
        _fail(re.sub(r"^flag (?=--)", "", str(error)))


def _value(name: str) -> Any:
    return flags.FLAGS[name].value


def _beginning(name: str) -> str:
    """The first sentence of a flag's help."""
    return help_text.own_help(name).partition(". ")[0].rstrip(".") + "."


def _name() -> str:
    return pathlib.Path(sys.argv[0]).stem


def _fail(message: str) -> NoReturn:
    """Ends the program: one line about a mistake, exit code 2."""
    print(f"{_name()}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
