"""Reads and checks what users give to objectives."""

from __future__ import annotations

import inspect
import math
import numbers
import sys
from typing import Any

import numpy as np

from tfcert.schedules import Constant

__all__ = [
    "as_choice",
    "as_count",
    "as_positive",
    "as_switch",
    "in_full",
    "settings_shown",
    "user_stacklevel",
]


def as_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of several names."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}.")
    return value


def as_count(name: str, value: Any) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)


def as_positive(name: str, value: Any) -> float:
    """A positive finite number."""
    number = float(value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"`{name}` must be > 0 and finite. Received: {name}={value!r}.")
    return number


def as_switch(name: str, value: Any) -> bool:
    """True or False; of a text, such as "false", either would be a guess."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)


def in_full(kind: type) -> inspect.Signature:
    """The signature of a constructor, with the arguments that it hands on to its parent's.

    A constructor lists its own arguments and takes the shared ones as ``**shared``. Help texts,
    editors and the program ``tfcert-train`` read this signature, which names all of them.
    """
    own = inspect.signature(kind.__init__)  # type: ignore[misc]
    *listed, last = own.parameters.values()
    if last.kind is not inspect.Parameter.VAR_KEYWORD:
        return own
    parent = next(base for base in kind.__mro__[1:] if "__init__" in vars(base))
    handed_on = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(parent.__init__).parameters.items()  # type: ignore[misc]
        if name not in own.parameters and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return own.replace(parameters=[*listed, *handed_on])


def settings_shown(kind: type, config: dict[str, Any]) -> str:
    """The arguments of a constructor that differ from their defaults, as code.

    The first argument is shown in any case and without its name.
    """
    parts = []
    for place, (name, parameter) in enumerate(inspect.signature(kind).parameters.items()):
        if name not in config:
            continue
        value = _as_given(config[name])
        if place == 0:
            parts.append(repr(value) if name == "region" else f"{name}={value!r}")
        elif value != _as_given(parameter.default):
            parts.append(f"{name}={value!r}")
    return ", ".join(parts)


def _as_given(value: Any) -> Any:
    """A setting as people write it: a tuple for a list, a number for a constant schedule."""
    if isinstance(value, (tuple, list)):
        return tuple(_as_given(entry) for entry in value)
    return value.value if isinstance(value, Constant) else value


def user_stacklevel() -> int:
    """The ``stacklevel`` of a warning that points at the code that calls this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(__package__):
        frame, level = frame.f_back, level + 1
    return level
