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
    """Refutation of one case on the part of one node.

    Attributes:
        row: The row of the case that stays below 0.
        slopes: The entry of ``Tree.slopes``; -1 stands for slopes by rule.
        multipliers: One multiplier for each split of a unit on the way from the root, in this
            order; or an empty list.
        sweep: Whether the checker bounds hidden values anew on this part. Otherwise it uses the
            bounds on the whole box of the case. None: True if inputs were split.
    """

    row: int
    slopes: int
    multipliers: tuple[float, ...]
    sweep: bool | None


class Tree:
    """Records the splits of the cases' boxes, and the refutation of the cases on every part.

    Nodes are numbers. All methods take one node (numbers) or many nodes (arrays with one entry per
    node). ``place`` is a position in ``network.nodes`` of tfcert's network, as in
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
        """Adds the whole box of one or several cases, and returns its node.

        Args:
            case: The position of a case in the property's list of cases. Or the positions of
                several cases with the same box, which are then split together.
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
            node: Nodes that are not split yet, ``()`` or ``(n,)``.
            axis: The inputs to split, by their positions in the flat input.
            point: The points of the splits.

        Returns:
            The children, ``(2,)`` or ``(n, 2)``: first inputs ``<= point``, then inputs
            ``>= point``.
        """
        return self._split(_INPUT, node, -1, axis, point)

    def split_unit(self, node: npt.ArrayLike, place: npt.ArrayLike, unit: npt.ArrayLike) -> Ids:
        """Cuts the parts of nodes in two, by the sign of the input of a two-piece function.

        Args:
            node: Nodes that are not split yet, ``()`` or ``(n,)``.
            place: The position of this input in ``network.nodes``, as in the keys of
                ``Known.signs``.
            unit: The entries to split, by their positions in the flat value.

        Returns:
            The children, ``(2,)`` or ``(n, 2)``: first values ``>= 0``, then values ``<= 0``.
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
        """Records that one row of a case stays below 0 on the parts of nodes.

        Args:
            node: Nodes, ``()`` or ``(n,)``. They need not be leaves: a case refuted on a node is
                refuted on all its parts.
            row: The row of the case for each node.
            slopes: The slopes of the lower lines of a two-piece function's units, by the position
                of the function: ``(n, ...)``, or the shape of the value if ``node`` is a number.
                With n = 1 all nodes share the slopes. Default: the rule of CROWN, which is 1 if the
                upper limit is larger than minus the lower limit, else the slope of the negative
                piece.
            multipliers: The multipliers of a value's units, by the position of the value, in the
                shapes of slopes. The tree keeps only multipliers of split units. Default: 0.
            case: The case. Default: the only case of the root.
            sweep: Whether the checker bounds hidden values anew on each part, which takes longer.
                Otherwise it uses the bounds on the whole box of the case. Default: True if inputs
                were split.
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
        """Returns whether a split cut some box."""
        return _INPUT in self.kind

    def is_split(self, node: int) -> bool:
        """Returns whether a node has children."""
        return self.kind[node] != _WHOLE

    def box(
        self, node: int, lower: npt.NDArray[Any], upper: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
        """Returns the box of a node, or None if no input, or a unit, was split."""
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
        """Returns the nodes without children on which some case is not refuted."""
        found = {
            node
            for case in self.roots
            for node, inner, end in self.walk(case)
            if not inner and end is None
        }
        return np.array(sorted(found), np.int64)

    def walk(self, case: int) -> list[tuple[int, bool, Closing | None]]:
        """Yields the nodes of a case, parents first, with their splits and closings.

        Each item is a node, whether it is split, and its closing. Nodes below a refuted node are
        left out.
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
                "Slopes and multipliers must have one entry per node, or one for all nodes. "
                f"Received: {len(values)} entries of place {place} for {count} nodes."
            )
        found[int(place)] = values
    return found
