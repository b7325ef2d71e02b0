"""Properties in VNN-LIB's format: a box of inputs, and the outputs that break the property."""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert.properties import files, vnnlib_two
from tfcert.properties.cases import Case, Property

__all__ = ["read_vnnlib"]

Array = npt.NDArray[np.float64]

_LARGEST = 1 << 28  # bytes of text
_DEEPEST = 64  # brackets inside of each other
_MOST_CASES = 100_000

_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAME = re.compile(r"([XY])_(\d{1,9})")
# Commands that say nothing about the property.
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}


def read_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Reads a VNN-LIB property from a text file, which may be compressed with gzip.

    The file may contain declarations ``X_i`` and ``Y_i`` of real inputs and outputs, and assertions
    with ``<=``, ``>=``, ``and`` and ``or``. An assertion compares sums of outputs with constant
    factors, or one input with a number. All assertions together describe a counterexample. In
    version 2 of the format, the file declares one network with an input and an output, in place of
    single variables, and may also use ``==``.

    Args:
        path: The file.

    Returns:
        The property, as a list of cases. A counterexample fulfils one of the cases.

    Raises:
        ValueError: The text is not a property, or an input has no limits.
        NotImplementedError: The property cannot be written with boxes and linear rows.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "small.vnnlib"
    >>> _ = path.write_text('''
    ...     (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ...     (assert (<= X_0 1.0)) (assert (>= X_0 -1.0)) (assert (<= Y_0 Y_1))''')
    >>> (case,) = read_vnnlib(path).cases
    >>> case.upper.tolist(), case.rows.tolist()
    ([1.0], [[-1.0, 1.0, 0.0]])
    """
    path = pathlib.Path(path)
    content = files.read(path, _LARGEST)
    try:
        commands = list(_expressions(content.decode("utf-8")))
        if vnnlib_two.is_second(commands):  # The checker of proofs reads version 1.
            return _property(vnnlib_two.translated(commands))
        return _property(commands)._replace(file=path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text. Received: {error}.") from error
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"{path}: {error}") from error


def _property(commands: Iterable[list[Any]]) -> Property:
    variables: set[tuple[str, int]] = set()
    common: list[_Atom] = []  # what every case fulfils
    choices: list[list[tuple[_Atom, ...]]] = []  # of each of these, one alternative
    for command in commands:
        match command:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                variables.add(_variable(name))
            case ["assert", formula]:
                cases = _cases(formula, variables)
                if len(cases) == 1:
                    common += cases[0]
                else:
                    choices.append(cases)
            case [str(word), *_] if word in _IGNORED:
                continue
            case _:
                raise ValueError(
                    f"This is neither a declaration nor an assertion: {_show(command)}."
                )
    sizes = {}
    for kind in "XY":
        sizes[kind] = sum(name == kind for name, _ in variables)
        if {index for name, index in variables if name == kind} != set(range(sizes[kind])):
            raise ValueError(f"The {kind}_i must be declared without gaps, from {kind}_0 on.")
        if not sizes[kind]:
            raise ValueError(f"There is no declaration of {kind}_0.")
    if math.prod(map(len, choices)) > _MOST_CASES:
        raise NotImplementedError(f"The assertions have more than {_MOST_CASES} cases.")
    base = _Limits(sizes["X"])
    shared_rows = list(base.narrow(common))
    found = []
    for chosen in itertools.product(*choices):
        atoms = [atom for part in chosen for atom in part]
        limits = base.copy() if any(atom.kind == "X" for atom in atoms) else base
        rows = shared_rows + list(limits.narrow(atoms))
        lower, upper = limits.arrays()
        if (lower <= upper).all():
            found.append(Case(lower, upper, _rows(rows, sizes["Y"])))
    return Property(sizes["X"], sizes["Y"], tuple(found))


class _Atom(NamedTuple):
    """``sum of factors * variables + constant >= 0``, of inputs ("X") or outputs ("Y")."""

    kind: str
    factors: dict[int, float]
    constant: float


class _Limits:
    """Limits of the inputs, which assertions make narrower."""

    def __init__(self, size: int):
        self.lower, self.upper = np.full(size, -np.inf), np.full(size, np.inf)

    def copy(self) -> _Limits:
        other = _Limits(0)
        other.lower, other.upper = self.lower.copy(), self.upper.copy()
        return other

    def narrow(self, atoms: Any) -> Iterator[_Atom]:
        """Takes in the limits among some atoms and gives the others."""
        for atom in atoms:
            if atom.kind == "Y":
                yield atom
                continue
            ((index, factor),) = atom.factors.items()
            if factor > 0:
                self.lower[index] = max(self.lower[index], -atom.constant)
            else:
                self.upper[index] = min(self.upper[index], atom.constant)

    def arrays(self) -> tuple[Array, Array]:
        """Lower and upper limits, which must be numbers."""
        for values, what in ((self.lower, "lower"), (self.upper, "upper")):
            without = np.flatnonzero(~np.isfinite(values))
            if len(without):
                raise ValueError(f"Input X_{without[0]} has no {what} limit.")
        return self.lower, self.upper


def _rows(atoms: list[_Atom], outputs: int) -> Array:
    rows = np.zeros((len(atoms), outputs + 1))
    for row, atom in zip(rows, atoms, strict=True):
        row[-1] = atom.constant
        for index, factor in atom.factors.items():
            row[index] = factor
    return rows


def _cases(formula: Any, variables: set[tuple[str, int]]) -> list[tuple[_Atom, ...]]:
    """The formula as alternatives of which each is a conjunction."""
    match formula:
        case ["or", _, *_]:
            return [case for part in formula[1:] for case in _cases(part, variables)]
        case ["and", _, *_]:
            parts = [_cases(part, variables) for part in formula[1:]]
            if math.prod(map(len, parts)) > _MOST_CASES:
                raise NotImplementedError(f"The assertions have more than {_MOST_CASES} cases.")
            return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*parts)]
        case ["<=" | ">=" as sign, left, right]:
            return [(_atom(sign, left, right, variables),)]
        case ["<" | ">" | "=" | "not" | "=>" as word, *_]:
            raise NotImplementedError(
                f"Conditions must use <=, >=, and, or. Received: {word} in {_show(formula)}."
            )
    raise ValueError(f"This is not a condition: {_show(formula)}.")


def _atom(sign: str, left: Any, right: Any, variables: set[tuple[str, int]]) -> _Atom:
    first, second = (left, right) if sign == ">=" else (right, left)
    terms = _linear(first, variables)
    for name, factor in _linear(second, variables).items():
        terms[name] = terms.get(name, 0.0) - factor
    constant = terms.pop(None, 0.0)
    terms = {name: factor for name, factor in terms.items() if factor}
    if not all(map(math.isfinite, (constant, *terms.values()))):
        raise ValueError(f"A number is too large in {_show([sign, left, right])}.")
    kinds = {name[0] for name in terms if name}
    if not kinds:
        raise ValueError(f"There is no variable in {_show([sign, left, right])}.")
    if "X" in kinds and (len(terms) > 1 or set(terms.values()) not in ({1.0}, {-1.0})):
        raise NotImplementedError(
            "A condition on an input must compare this input alone with a number. Received: "
            f"{_show([sign, left, right])}."
        )
    factors = {name[1]: factor for name, factor in terms.items() if name}
    return _Atom(kinds.pop(), factors, constant)


# A linear expression: variable -> factor, None -> constant.
_Terms = dict[tuple[str, int] | None, float]


def _linear(expression: Any, variables: set[tuple[str, int]]) -> _Terms:
    match expression:
        case str() if _NUMBER.fullmatch(expression):
            return {None: float(expression)}
        case str():
            name = _variable(expression)
            if name not in variables:
                raise ValueError(f"{expression} is not declared before it is used.")
            return {name: 1.0}
        case ["+", _, *_]:
            return _sum([(1.0, _linear(part, variables)) for part in expression[1:]])
        case ["-", only]:
            return _sum([(-1.0, _linear(only, variables))])
        case ["-", first, *others]:
            parts = [(-1.0, _linear(part, variables)) for part in others]
            return _sum([(1.0, _linear(first, variables)), *parts])
        case ["*", first, second]:
            a, b = _linear(first, variables), _linear(second, variables)
            for factor, terms in ((a, b), (b, a)):
                if set(factor) <= {None}:
                    return _sum([(factor.get(None, 0.0), terms)])
            raise NotImplementedError(f"This is not linear: {_show(expression)}.")
    raise ValueError(f"This is not a sum of variables: {_show(expression)}.")


def _sum(parts: list[tuple[float, _Terms]]) -> _Terms:
    total: _Terms = {}
    for factor, terms in parts:
        for name, value in terms.items():
            total[name] = total.get(name, 0.0) + factor * value
    return total


def _variable(name: str) -> tuple[str, int]:
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"Variables are called X_i and Y_i. Received: {name[:80]!r}.")
    return match[1], int(match[2])


def _expressions(text: str) -> Iterator[list[Any]]:
    """The bracketed expressions of a text, as nested lists of words."""
    stack: list[list[Any]] = []
    for token in _TOKEN.findall(vnnlib_two.glued(_COMMENT.sub("", text))):
        if token == "(":
            stack.append([])
            if len(stack) > _DEEPEST:
                raise ValueError(f"More than {_DEEPEST} brackets are nested.")
        elif not stack:
            raise ValueError(f"{token[:80]!r} is outside all brackets.")
        elif token == ")":
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        else:
            stack[-1].append(token)
    if stack:
        raise ValueError("The text ends inside a bracket.")


def _show(expression: Any) -> str:
    """The expression as text, not too long."""
    if isinstance(expression, str):
        return expression
    text = " ".join(map(_show, expression[:6]))
    return f"({text[:200]}{' ...' if len(expression) > 6 or len(text) > 200 else ''})"
