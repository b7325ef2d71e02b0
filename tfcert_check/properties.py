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
from tfcert_check.refusal import Refused, content_of, need

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
                raise Refused(f"the checker does not know the command {command!r:.80}")
    inputs, outputs = (sum(name.startswith(kind) for name in declared) for kind in "XY")
    expected = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    need(sorted(declared) == sorted(expected), "the property must declare X_i and Y_i without gaps")
    alternatives = [_alternatives(formula, set(declared)) for formula in formulas]
    cases = [_case(parts, inputs, outputs) for parts in _combined(alternatives)]
    return Property(inputs, outputs, [case for case in cases if case is not None], sha256)


def _case(conditions: list[_Terms], inputs: int, outputs: int) -> Case | None:
    ends: tuple[dict[int, Fraction], dict[int, Fraction]] = ({}, {})  # Lower and upper limits.
    rows = []
    for terms in conditions:
        constant = terms.get(None, Fraction(0))
        factors = {name: factor for name, factor in terms.items() if name and factor}
        if any(name[0] == "X" for name in factors):
            need(len(factors) == 1, "the property has a condition on more than one input")
            ((name, factor),) = factors.items()
            side, place, limit = int(factor < 0), int(name[2:]), -constant / factor
            ends[side][place] = (max, min)[side](limit, ends[side].get(place, limit))
            continue
        rows.append(np.zeros(outputs + 1))
        for name, factor in factors.items():
            rows[-1][int(name[2:])] = float(factor)
            exact = Fraction(float(factor)) == factor
            need(exact, f"the property has a factor that is no float64 number: {factor}")
        rows[-1][-1] = _rounded(constant, math.inf)
    need(all(len(end) == inputs for end in ends), "the property has an input without limits")
    if any(ends[0][i] > ends[1][i] for i in range(inputs)):
        return None
    lower = np.array([_rounded(ends[0][i], -math.inf) for i in range(inputs)])
    upper = np.array([_rounded(ends[1][i], math.inf) for i in range(inputs)])
    return Case(lower, upper, np.reshape(rows, (-1, outputs + 1)))


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
            return _combined([_alternatives(part, declared) for part in formula[1:]])
        case ["<=", low, high] | [">=", high, low]:
            return [[_sum((1, _linear(high, declared)), (-1, _linear(low, declared)))]]
    raise Refused(f"the property has a condition that the checker does not know: {formula!r:.80}")


def _combined(parts: list[list[list[_Terms]]]) -> list[list[_Terms]]:
    """The alternatives of parts that hold together; those of the last part change first."""
    need(math.prod(map(len, parts)) <= _MOST_CASES, "the property has too many cases")
    return [list(itertools.chain(*chosen)) for chosen in itertools.product(*parts)]


def _linear(expression: Any, declared: set[str]) -> _Terms:
    match expression:
        case str() if expression in declared:
            return {expression: Fraction(1)}
        case str() if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", expression):
            return {None: Fraction(expression)}
        case ["+" | "-" as sign, _, *others]:
            rest = 1 if sign == "+" else -1
            signs = [1 if others else rest, *[rest] * len(others)]
            parts = [_linear(part, declared) for part in expression[1:]]
            return _sum(*zip(signs, parts, strict=True))
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
            need(len(stack) > 1, "the property has a bracket too many")
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(token)
    need(len(stack) == 1, "the property ends inside a bracket")
    return stack[0]
