"""The calls that make up the file of a network, and the names of the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.network import Network
from tfcert.rules.primitives import Node

__all__ = ["Array", "Writer", "weights_of"]

Array = npt.NDArray[Any]


class Writer:
    """The calls and constants of a network, and the names of its values.

    A value has a name with its axes as in the model and, where a convolution wants it or has made
    it, one with channels first. Moves of entries are written where they are read, as they are.

    Attributes:
        calls: Operators with arguments, result and settings.
        constants: Arrays by name.
        last: Names of values with their axes as in the model.
        first_names: Names of values with channels first.
        moved: Of values that only move entries: a flat value, its size, and their places there.
    """

    def __init__(self, network: Network):
        self.network = network
        self.calls: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, Array] = {}
        self.last: dict[Node, str] = {}
        self.first_names: dict[Node, str] = {}
        self.moved: dict[Node, tuple[str, int, Array]] = {}

    def refusal(self, node: Node, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"Layer {node.name!r} {what} the checker of proofs does not know."
        )

    # Names of values.

    def name(self, node: Node) -> str:
        """The value in the shape ``(1, *shape)``."""
        if node not in self.last:
            if node in self.first_names:
                rank = len(node.shape)
                order = [0, *range(2, rank + 1), 1]
                self.last[node] = self.call("Transpose", [self.first_names[node]], perm=order)
            else:
                self.last[node] = self.pick(*self.moved[node])
        return self.last[node]

    def first(self, node: Node) -> str:
        """The value with its channels first."""
        rank = len(node.shape)
        if rank < 2:
            return self.name(node)
        if node not in self.first_names:
            order = [0, rank, *range(1, rank)]
            self.first_names[node] = self.call("Transpose", [self.name(node)], perm=order)
        return self.first_names[node]

    def flat(self, node: Node) -> str:
        return self.reshaped(self.name(node), (math.prod(node.shape),))

    def moves(self, node: Node) -> tuple[str, int, Array]:
        """A flat value, its size, and the places there of the node's entries, ``(1, *shape)``."""
        if node in self.moved:
            return self.moved[node]
        size = math.prod(node.shape)
        return self.flat(node), size, np.arange(size).reshape(1, *node.shape)

    # What calls are made of.

    def call(self, operator: str, arguments: Sequence[str], **settings: Any) -> str:
        name = f"v{len(self.calls)}"
        self.calls.append((operator, list(arguments), name, settings))
        return name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        return self.call("Reshape", [name, self.constant(np.array([1, *shape], np.int64))])

    def pick(self, flat: str, size: int, places: Array) -> str:
        used = places[places >= 0]
        if len(np.unique(used)) < len(used):
            raise NotImplementedError(
                "The model repeats entries of a value, which the checker of proofs does not know."
            )
        if np.array_equal(places.reshape(-1), np.arange(size)):
            return self.reshaped(flat, places.shape[1:])
        return self.call("Pick", [flat, self.constant(places.astype(np.int64))])

    def elementwise(self, node: Node, write: Callable[[list[str]], str]) -> None:
        """Writes what acts on entries, with axes as most inputs have them."""
        firsts = sum(source in self.first_names for source in node.inputs)
        if firsts and 2 * firsts >= len(node.inputs):
            self.first_names[node] = write([self.first(source) for source in node.inputs])
        else:
            self.last[node] = write([self.name(source) for source in node.inputs])


def weights_of(value: Any) -> Array:
    """An array in its own float type."""
    value = value() if callable(value) else value
    array = np.asarray(ops.convert_to_numpy(value))
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
