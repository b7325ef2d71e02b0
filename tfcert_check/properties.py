"""Reads properties in VNN-LIB's format, with numbers as exact decimals."""

from __future__ import annotations

import itertools
import math
import os
import re
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tfcert_check.operators import Array
from tfcert_check.refusal import Refused, content_of

__all__ = ["Case", "Property", "read_property"]

_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
_MOST_CASES = 100_000


class Case(NamedTuple):
    """A box of inputs and rows: a counterexample has ``rows @ (*outputs, 1) >= 0``, all of them.

    The box is rounded outward and the constants of the rows upward: no counterexample is lost.
    """

    lower: Array
    upper: Array
    rows: Array


class Property(NamedTuple):
    """No input fulfils any case.

    Attributes:
        inputs: How many there are.
        outputs: How many there are.
        cases: In the order of the file: of several assertions with alternatives, the last one's
            change first; cases whose box is empty are left out.
        sha256: Of the file, unpacked.
    """

    inputs: int
    outputs: int
    cases: list[Case]
    sha256: str


# ``sum of factors * variables + constant >= 0``; the constant belongs to the variable None.
_Terms = dict[str | None, Fraction]


def read_property(path: str | os.PathLike[str]) -> Property:
    """Reads a file, which gzip may have compressed."""
    content, sha256 = content_of(path)
    declared: list[str] = []
    formulas: list[Any] = []
    for command in _expressions(content.decode("utf-8")):
        match command:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                declared.append(name)
            case ["assert", formula]:
                formulas.append(formula)
            case [str(word), *_] if word in _IGNORED:
                continue
            case _:
                raise Refused(
                    f"the property has a command that the checker does not know: {command!r:.80}"
                )
    inputs, outputs = (sum(name.startswith(kind) for name in declared) for kind in "XY")
    expected = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    if sorted(declared) != sorted(expected):
        raise Refused("the property must declare X_0, X_1, ... and Y_0, Y_1, ... without gaps")
    alternatives = [_alternatives(formula, set(declared)) for formula in formulas]
    if math.prod(map(len, alternatives)) > _MOST_CASES:
        raise Refused("the property has too many cases")
    chosen = itertools.product(*alternatives)
    cases = [_case(list(itertools.chain(*parts)), inputs, outputs) for parts in chosen]
    return Property(inputs, outputs, [case for case in cases if case is not None], sha256)


def _case(conditions: list[_Terms], inputs: int, outputs: int) -> Case | None:
    lower: dict[int, Fraction] = {}
    upper: dict[int, Fraction] = {}
    rows = []
    for terms in conditions:
        constant = terms.get(None, Fraction(0))
        factors = {name: factor for name, factor in terms.items() if name and factor}
        if any(name[0] == "X" for name in factors):
            if len(factors) > 1:
                raise Refused("the property has a condition on more than one input")
            ((name, factor),) = factors.items()
            place, limit = int(name[2:]), -constant / factor
            if factor > 0:
                lower[place] = max(limit, lower.get(place, limit))
            else:
                upper[place] = min(limit, upper.get(place, limit))
            continue
        row = np.zeros(outputs + 1)
        for name, factor in factors.items():
            row[int(name[2:])] = float(factor)
            if Fraction(float(factor)) != factor:
                raise Refused(f"the property has a factor that is no float64 number: {factor}")
        row[-1] = _rounded(constant, math.inf)
        rows.append(row)
    if set(lower) != set(range(inputs)) or set(upper) != set(range(inputs)):
        raise Refused("the property has an input without limits")
    if any(lower[i] > upper[i] for i in range(inputs)):
        return None
    box = [[_rounded(ends[i], far) for i in range(inputs)]
           for ends, far in ((lower, -math.inf), (upper, math.inf))]  # fmt: skip
    return Case(np.array(box[0]), np.array(box[1]), np.reshape(rows, (-1, outputs + 1)))


def _rounded(number: Fraction, toward: float) -> float:
    """The nearest float64 number that is not on the other side."""
    near = float(number)
    wrong = Fraction(near) < number if toward > 0 else Fraction(near) > number
    return math.nextafter(near, toward) if wrong else near


def _alternatives(formula: Any, declared: set[str]) -> list[list[_Terms]]:
    """The formula as alternatives, each a list of conditions that hold together."""
    match formula:
        case ["or", _, *_]:
            return [found for part in formula[1:] for found in _alternatives(part, declared)]
        case ["and", _, *_]:
            parts = [_alternatives(part, declared) for part in formula[1:]]
            if math.prod(map(len, parts)) > _MOST_CASES:
                raise Refused("the property has too many cases")
            return [list(itertools.chain(*chosen)) for chosen in itertools.product(*parts)]
        case ["<=", left, right]:
            return [[_sum((1, _linear(right, declared)), (-1, _linear(left, declared)))]]
        case [">=", left, right]:
            return [[_sum((1, _linear(left, declared)), (-1, _linear(right, declared)))]]
    raise Refused(f"the property has a condition that the checker does not know: {formula!r:.80}")


def _linear(expression: Any, declared: set[str]) -> _Terms:
    match expression:
        case str() if expression in declared:
            return {expression: Fraction(1)}
        case str() if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", expression):
            return {None: Fraction(expression)}
        case ["+", _, *_]:
            return _sum(*((1, _linear(part, declared)) for part in expression[1:]))
        case ["-", only]:
            return _sum((-1, _linear(only, declared)))
        case ["-", first, *others]:
            rest = ((-1, _linear(part, declared)) for part in others)
            return _sum((1, _linear(first, declared)), *rest)
        case ["*", first, second]:
            a, b = _linear(first, declared), _linear(second, declared)
            for factor, terms in ((a, b), (b, a)):
                if set(factor) == {None}:
                    return _sum((factor[None], terms))
    raise Refused(f"the property has a term that the checker does not know: {expression!r:.80}")


def _sum(*parts: tuple[Any, _Terms]) -> _Terms:
    total: _Terms = {}
    for factor, terms in parts:
        for name, value in terms.items():
            total[name] = total.get(name, Fraction(0)) + factor * value
    return total


def _expressions(text: str) -> list[Any]:
    """The bracketed expressions of a text, as nested lists of words."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) < 2:
                raise Refused("the property has a bracket too many")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise Refused("the property ends inside a bracket")
    return stack[0]
