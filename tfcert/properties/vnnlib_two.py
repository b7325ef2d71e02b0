"""Version 2 of VNN-LIB, translated into the commands of version 1.

Version 2 declares a network with tensors, and names their entries by indices:

    (vnnlib-version <2.0>)
    (declare-network N (declare-input X float32 [1, 5]) (declare-output Y float32 [1, 5]))
    (assert (<= X[0, 1] 0.5))

Entries become ``X_i`` and ``Y_i``, in the order of their memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["glued", "is_second", "translated"]

_BRACKET = re.compile(r"\s*\[([^\[\]]*)\]")
_INDEXED = re.compile(r"([A-Za-z_]\w*)(?:\[([\d,]*)\])?")
_TYPES = ("real", "Real", "float32", "float64")
_LARGEST = 1 << 24  # entries of a tensor


class _Tensor(NamedTuple):
    """A declared input or output: "X" or "Y", and its shape."""

    kind: str
    shape: tuple[int, ...]


def glued(text: str) -> str:
    """The text with indices and shapes as parts of the words before them, without spaces."""
    return _BRACKET.sub(lambda found: f"[{''.join(found[1].split())}]", text)


def is_second(commands: Sequence[Any]) -> bool:
    """Whether commands are those of version 2."""
    words = {command[0] for command in commands if command and isinstance(command[0], str)}
    return bool(words & {"vnnlib-version", "declare-network"})


def translated(commands: Sequence[Any]) -> Iterator[list[Any]]:
    """The commands of version 1 that say the same."""
    tensors: dict[str, _Tensor] = {}
    for command in commands:
        match command:
            case ["vnnlib-version", str(version)]:
                if not re.fullmatch(r"<2\.\d+>", version):
                    raise NotImplementedError(
                        f"Versions 1 and 2 of VNN-LIB can be read. Received: {version}."
                    )
            case ["declare-network", str(name), *parts]:
                if tensors:
                    raise NotImplementedError(
                        f"The property must be about one network. Received: also {name}."
                    )
                tensors = _tensors(name, parts)
                for tensor in tensors.values():
                    for i in range(math.prod(tensor.shape)):
                        yield ["declare-const", f"{tensor.kind}_{i}", "Real"]
            case ["assert", formula]:
                yield ["assert", _formula(formula, tensors)]
            case _:
                yield command


def _tensors(name: str, parts: Sequence[Any]) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    for part in parts:
        match part:
            case ["declare-input" | "declare-output" as word, str(variable), str(type_)]:
                kind = "X" if word == "declare-input" else "Y"
                found[variable] = _Tensor(kind, _shape(variable, type_))
            case [str(word), *_]:
                raise NotImplementedError(
                    f"Network {name} must be declared by its input and its output alone. "
                    f"Received: {word}."
                )
            case _:
                raise ValueError(f"This is no part of the declaration of network {name}: {part}.")
    if sorted(tensor.kind for tensor in found.values()) != ["X", "Y"] or len(parts) != 2:
        raise NotImplementedError(
            f"Network {name} must have one input and one output. Received: {len(parts)} tensors."
        )
    return found


def _shape(variable: str, type_: str) -> tuple[int, ...]:
    match = _INDEXED.fullmatch(type_)
    if match is None or match[2] is None:
        raise ValueError(f"The shape of {variable} must be numbers in brackets. Received: {type_}.")
    if match[1] not in _TYPES:
        raise NotImplementedError(
            f"The type of {variable} must be one of {', '.join(_TYPES)}. Received: {match[1]}."
        )
    shape = _numbers(match[2])
    if math.prod(shape) not in range(1, _LARGEST + 1):
        raise ValueError(f"{variable} must have 1 to {_LARGEST} entries. Received: {type_}.")
    return shape


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",") if text else []
    if any(not word or len(word) > 9 for word in words):
        raise ValueError(f"Indices must be numbers with commas between them. Received: [{text}].")
    return tuple(map(int, words))


def _formula(formula: Any, tensors: dict[str, _Tensor]) -> Any:
    """A condition with the names of version 1; equality becomes two conditions."""
    if isinstance(formula, str):
        return _word(formula, tensors)
    parts = [formula[0] if i == 0 else _formula(p, tensors) for i, p in enumerate(formula)]
    match parts:
        case ["==", left, right]:
            return ["and", ["<=", left, right], [">=", left, right]]
        case ["!=", *_]:
            raise NotImplementedError(
                "Conditions must use <=, >=, ==, and, or. Received: != in an assertion."
            )
    return parts


def _word(word: str, tensors: dict[str, _Tensor]) -> str:
    match = _INDEXED.fullmatch(word)
    if match is None:
        return word  # A number, or an error that the reader of version 1 names.
    if match[1] not in tensors:
        raise ValueError(f"{match[1]} is not declared before it is used.")
    kind, shape = tensors[match[1]]
    index = _numbers(match[2] or "")
    if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape, strict=True)):
        raise ValueError(f"{word} must be an entry of {match[1]} of shape {list(shape)}.")
    return f"{kind}_{int(np.ravel_multi_index(index, shape)) if shape else 0}"
