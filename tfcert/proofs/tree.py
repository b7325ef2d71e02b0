"""The tree of a search, recorded while the search runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Closing", "Tree"]

Ids = npt.NDArray[np.int64]
_WHOLE, _INPUT, _UNIT = 0, 1, 2


class Closing(NamedTuple):
    """How one case is refuted on the part of one node.

    Attributes:
        row: Which of the rows of the case stays below 0.
        slopes: Which entry of ``Tree.slopes``; -1: slopes by rule.
        multipliers: One for each split of a unit on the way from the root, in this order; or none
            at all.
        sweep: Whether the checker bounds hidden values anew on this part, or takes those on the
            whole box of the case; None: where inputs were split.
    """

    row: int
    slopes: int
    multipliers: tuple[float, ...]
    sweep: bool | None


class Tree:
    """Records how the boxes of cases were split, and what refutes the cases on every part.

    Nodes are numbers. All calls take one node or many: numbers stand for one entry, arrays have
    one entry a node. ``place`` is a place in ``network.nodes`` of tfcert's network, as in
    ``tfcert.bounds.known.Known``.

    Example:

    >>> tree = Tree()
    >>> root = tree.add_root(0)
    >>> left, right = tree.split_input(root, axis=3, point=0.5)
    >>> tree.close(left, row=0)
    >>> tree.open_nodes() == right
    array([ True])
    """

    def __init__(self) -> None:
        self.roots: dict[int, int] = {}  # Case -> node. Cases of one box may share a root.
        self.kind: list[int] = []
        self.child: list[int] = []  # The first of two.
        self.place: list[int] = []
        self.index: list[int] = []  # Of the input or unit that is split.
        self.point: list[float] = []
        self.closings: list[dict[int, Closing]] = []  # By case.
        self.slopes: list[dict[int, npt.NDArray[np.float32]]] = []
        # By the places of a value and of a function before it: see ``record_hidden``.
        self.hidden: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
        self._parent: list[int] = []

    def __len__(self) -> int:
        return len(self.kind)

    def add_root(self, case: npt.ArrayLike) -> int:
        """A whole box, and what is asked about it.

        Args:
            case: The place of a case in the property's list of cases, or those of several cases
                with the same box, which are then split together.
        """
        cases = np.atleast_1d(np.asarray(case, np.int64)).tolist()
        for each in cases:
            if each in self.roots:
                raise ValueError(f"`case` must not have a root yet. Received: case={each}.")
            self.roots[each] = len(self)
        self._add([-1])
        return len(self) - 1

    def split_input(self, node: npt.ArrayLike, axis: npt.ArrayLike, point: npt.ArrayLike) -> Ids:
        """Cuts the boxes of nodes in two.

        Args:
            node: ``()`` or ``(n,)``: nodes that are not split yet.
            axis: Which inputs, by their places in the flat input.
            point: Where.

        Returns:
            The children, ``(2,)`` or ``(n, 2)``: inputs ``<= point``, then those ``>= point``.
        """
        return self._split(_INPUT, node, -1, axis, point)

    def split_unit(self, node: npt.ArrayLike, place: npt.ArrayLike, unit: npt.ArrayLike) -> Ids:
        """Cuts the parts of nodes in two by the sign of a value that a two-piece function reads.

        Args:
            node: ``()`` or ``(n,)``: nodes that are not split yet.
            place: The place of the value that is read, as the keys of ``Known.signs``.
            unit: Which of its entries, by their places in the flat value.

        Returns:
            The children, ``(2,)`` or ``(n, 2)``: values ``>= 0``, then those ``<= 0``.
        """
        return self._split(_UNIT, node, place, unit, 0.0)

    def close(
        self,
        node: npt.ArrayLike,
        row: npt.ArrayLike,
        slopes: Mapping[int, npt.ArrayLike] | None = None,
        multipliers: Mapping[int, npt.ArrayLike] | None = None,
        case: int | None = None,
        sweep: bool | None = None,
    ) -> None:
        """Says how a case is refuted on the parts of nodes: one of its rows stays below 0 there.

        Args:
            node: ``()`` or ``(n,)``: nodes that need not be leaves: a case that is refuted on a
                node is refuted on all parts of it.
            row: Which rows of the case.
            slopes: By the place of a two-piece function, the slopes of the lower lines of its
                units, ``(n, ...)``, or of the shape of the value where ``node`` is a number. With
                n = 1 all nodes share them. Default: the rule of CROWN, 1 where the upper limit
                is larger than minus the lower one, else the slope of the negative piece.
            multipliers: By the place of a value whose units were split, the multipliers of its
                units in the shapes of slopes; only those of split units are kept. Default: 0.
            case: Which case; default: the only one of the root.
            sweep: Whether the checker bounds hidden values anew on each part, which takes longer,
                or takes those on the whole box of the case. Default: where inputs were split.
        """
        nodes = np.atleast_1d(np.asarray(node, np.int64))
        cases = [self._case(int(at), case) for at in nodes]
        entries = self._add_slopes(slopes, len(nodes))
        betas = _flat(multipliers, len(nodes), np.float64)
        rows = np.broadcast_to(row, nodes.shape)
        for i, (at, own) in enumerate(zip(nodes.tolist(), cases, strict=True)):
            values = {place: table[min(i, len(table) - 1)] for place, table in betas.items()}
            path = self._along_path(at, values) if values else ()
            self.closings[at][own] = Closing(int(rows[i]), int(entries[i]), path, sweep)

    @property
    def splits_inputs(self) -> bool:
        """Whether some box was cut."""
        return _INPUT in self.kind

    def is_split(self, node: int) -> bool:
        """Whether a node has children."""
        return self.kind[node] != _WHOLE

    def box(
        self, node: int, lower: npt.NDArray[Any], upper: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
        """The box of a node from that of its root; None where no input, or a unit, was split."""
        lower, upper, at = lower.copy(), upper.copy(), node
        if self._parent[node] < 0:
            return None
        while (above := self._parent[at]) >= 0:
            if self.kind[above] != _INPUT:
                return None
            axis, point = self.index[above], self.point[above]
            if at == self.child[above]:
                upper[axis] = min(upper[axis], point)
            else:
                lower[axis] = max(lower[axis], point)
            at = above
        return lower, upper

    def open_nodes(self) -> Ids:
        """Nodes without children on which some case is not refuted: none where all is proved."""
        found = {
            node
            for case in self.roots
            for node, inner, end in self.walk(case)
            if not inner and end is None
        }
        return np.array(sorted(found), np.int64)

    def walk(self, case: int) -> list[tuple[int, bool, Closing | None]]:
        """The nodes that matter to a case, parents first: node, whether it is split, its closing.

        Nodes below a node on which the case is refuted are left out.
        """
        found, stack = [], [self.roots[case]]
        while stack:
            node = stack.pop()
            closing = self.closings[node].get(case)
            inner = closing is None and self.kind[node] != _WHOLE
            found.append((node, inner, closing))
            if inner:
                stack += [self.child[node] + 1, self.child[node]]
        return found

    def _add(self, parents: list[int]) -> None:
        count = len(parents)
        self._parent += parents
        self.kind += [_WHOLE] * count
        self.child += [-1] * count
        self.place += [-1] * count
        self.index += [-1] * count
        self.point += [0.0] * count
        self.closings += [{} for _ in parents]

    def _split(self, kind: int, node: Any, place: Any, index: Any, point: Any) -> Ids:
        nodes = np.asarray(node, np.int64)
        flat = np.atleast_1d(nodes)
        for at in flat:
            if not 0 <= at < len(self) or self.kind[at] != _WHOLE:
                raise ValueError(f"`node` must be a node without children. Received: node={at}.")
        if len(np.unique(flat)) < len(flat):
            raise ValueError(f"`node` must name each node once. Received: node={flat}.")
        children = len(self) + np.arange(2 * len(flat)).reshape(-1, 2)
        given = np.broadcast_arrays(flat, place, index, point)[1:]
        for at, first, *entries in zip(flat, children[:, 0], *given, strict=True):
            self.kind[at], self.child[at] = kind, int(first)
            self.place[at], self.index[at] = int(entries[0]), int(entries[1])
            self.point[at] = float(entries[2])
        self._add(np.repeat(flat, 2).tolist())
        return children.reshape(*nodes.shape, 2)

    def _case(self, node: int, case: int | None) -> int:
        if not 0 <= node < len(self):
            raise ValueError(f"`node` must be a node of the tree. Received: node={node}.")
        root = node
        while self._parent[root] >= 0:
            root = self._parent[root]
        cases = [own for own, at in self.roots.items() if at == root]
        if case is None and len(cases) == 1:
            return cases[0]
        if case not in cases:
            raise ValueError(f"`case` must be one of {cases} here. Received: case={case}.")
        return case

    def _add_slopes(
        self, slopes: Mapping[int, npt.ArrayLike] | None, count: int
    ) -> npt.NDArray[np.int64]:
        if not slopes:
            return np.full(count, -1)
        flat = _flat(slopes, count, np.float32)
        entries = max(len(values) for values in flat.values())
        first = len(self.slopes)
        for i in range(entries):
            self.slopes.append(
                {place: values[min(i, len(values) - 1)].copy() for place, values in flat.items()}
            )
        return first + np.broadcast_to(np.arange(entries), (count,))

    def _along_path(self, node: int, values: dict[int, npt.NDArray[Any]]) -> tuple[float, ...]:
        """The multipliers of the units that were split on the way to a node, the root's first.

        A unit that was split twice counts once.
        """
        found: list[float] = []
        met: set[tuple[int, int]] = set()
        while (node := self._parent[node]) >= 0:
            if self.kind[node] == _UNIT:
                key = self.place[node], self.index[node]
                known = key[0] in values and key not in met
                found.append(float(values[key[0]][key[1]]) if known else 0.0)
                met.add(key)
        return tuple(found[::-1])


def _flat(
    tables: Mapping[int, npt.ArrayLike] | None, count: int, dtype: Any
) -> dict[int, npt.NDArray[Any]]:
    """Tables as ``(n, units)`` with n = 1 or as many as nodes."""
    found = {}
    for place, table in (tables or {}).items():
        values = np.asarray(table, dtype)
        values = values.reshape(len(values), -1) if count > 1 else values.reshape(1, -1)
        if len(values) not in (1, count):
            raise ValueError(
                "Slopes and multipliers must have one entry a node, or one for all. Received: "
                f"{len(values)} entries of place {place} for {count} nodes."
            )
        found[int(place)] = values
    return found
