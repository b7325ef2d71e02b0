"""How the programs start: alike from a console entry point and from ``trainers/*.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

__all__ = ["start"]


def start(
    main: Callable[[Sequence[str]], None], define_flags: Callable[[], None], description: str
) -> None:
    """Defines the flags, parses them and runs `main`; never returns.

    The flags are defined here and not when a program's module is imported, so that two programs
    with a flag of the same name can be imported together.

    Example: ``start(main, define_flags, __doc__)``
    """
    before = set(flags.FLAGS)
    define_flags()
    # absl's --help shows the docstring and the flags of the script alone, which a console entry
    # point has not; these are the program's.
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    script = sys.modules["__main__"]
    script.__doc__ = script.__doc__ or description
    app.run(main)
