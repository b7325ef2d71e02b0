"""Reads proofs and checks them against a network and a property."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert_check.bounds import ENTRIES, Enclosure, Tables
from tfcert_check.networks import Network
from tfcert_check.operators import Array
from tfcert_check.properties import Case, Property
from tfcert_check.refusal import need
from tfcert_check.rounding import down, outward

__all__ = ["FORMAT", "INPUT", "LEAF", "NODES", "UNIT", "Margin", "Proof"]
__all__ += ["check", "margins", "read_proof"]

FORMAT = "tfcert proof 1"
LEAF, INPUT, UNIT = 0, 1, 2
# The arrays of nodes and their types.
NODES = {"kind": "i", "child": "i", "layer": "i", "index": "i", "point": "f", "slopes": "i"}
NODES["sweep"] = "b"


class Proof(NamedTuple):
    """The arrays of a file; docs/proofs.md tells what they mean.

    Attributes:
        arrays: By name.
        tables: Slopes, NaN where they are by rule: of one layer with a row for each set, and of
            the second of two layers for bounds of the first one on whole boxes of cases.
    """

    arrays: dict[str, npt.NDArray[Any]]
    tables: dict[tuple[int, ...], Array]


class Margin(NamedTuple):
    """The result of one leaf: minus the row of the case is at least ``bound``."""

    case: int
    node: int
    bound: float


class _Leaf(NamedTuple):
    """A leaf; leaves of the same path below the same box are about the same inputs."""

    case: int
    node: int
    row: Array
    lower: Array
    upper: Array
    path: tuple[tuple[int, int, float, int], ...]  # Layer or -1, index, point, and which child.


def read_proof(path: str | os.PathLike[str] | IO[bytes]) -> Proof:
    """Reads a file and checks that its arrays fit together."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    need(str(arrays.get("format")) == FORMAT, f"the proof's format is not {FORMAT!r}")
    for name, kind in {"roots": "i", "starts": "i", "multipliers": "f", **NODES}.items():
        right = name in arrays and (arrays[name].dtype.kind, arrays[name].ndim) == (kind, 1)
        need(right, f"the proof has no array {name!r} of the right type")
    starts, multipliers = arrays["starts"], arrays["multipliers"]
    lengths = {len(arrays[name]) for name in NODES} | {len(starts) - 1}
    need(len(lengths) == 1, "the proof's arrays have different lengths")
    fit = starts[0] == 0 and starts[-1] == len(multipliers) and (np.diff(starts) >= 0).all()
    need(fit, "the proof's multipliers do not fit the nodes")
    fit = (np.isfinite(multipliers) & (multipliers >= 0)).all()
    need(fit, "the proof has a multiplier that is negative or not a number")
    tables = {}
    for name in arrays:
        if match := re.fullmatch(r"slopes_(\d+)|hidden_(\d+)_(\d+)", name):
            table = arrays[name]
            need(table.dtype.kind == "f", f"the proof's slopes {name!r} are no numbers")
            need(not np.isnan(table).any(), f"the proof's slopes {name!r} are no numbers")
            layers = tuple(int(layer) for layer in match.groups() if layer is not None)
            tables[layers] = np.where(table == -1, np.nan, table)
    return Proof(arrays, tables)


def check(network: Network, asked: Property, proof: Proof) -> int:
    """Raises Refused unless a proof shows that no input fulfils any case.

    Returns:
        How many leaves the proof has.
    """
    for what, sha256 in (("network", network.sha256), ("property", asked.sha256)):
        same = str(proof.arrays.get(what)) == sha256
        need(same, f"the proof is about another {what}: its SHA-256 is not that of this file")
    leaves = list(margins(network, asked, proof))
    for case, node, bound in leaves:
        need(bound > 0, f"leaf {node} of case {case} is not proved: its bound is {bound:.6g}")
    return len(leaves)


def margins(
    network: Network, asked: Property, proof: Proof, known: Container[int] = ()
) -> Iterator[Margin]:
    """Returns the bound of each leaf of a proof; inf if the leaf contains no input.

    All cases are covered where the iterator comes to its end. Nothing is said of the SHA-256, and
    of leaves that are known, which those who write proofs need not bound twice.
    """
    sizes, roots = [network.steps[k].size for k in (0, network.output)], proof.arrays["roots"]
    need(sizes == [asked.inputs, asked.outputs], "the property has other inputs or outputs")
    need(len(roots) == len(asked.cases), "the proof has more or fewer roots than cases")
    checker = _Checker(network, proof)
    # By the boxes of cases and whether to sweep, then by parts.
    leaves: defaultdict[Any, Any] = defaultdict(lambda: defaultdict(list))
    for number, (case, root) in enumerate(zip(asked.cases, roots.tolist(), strict=True)):
        if network.float_safe:  # An execution rounds its inputs.
            case = Case(*outward(case.lower, case.upper), case.rows)
        for leaf in checker.leaves(number, case, root):
            if leaf.node not in known:
                sweep = bool(proof.arrays["sweep"][leaf.node])
                box = case.lower.tobytes(), case.upper.tobytes(), sweep
                leaves[box][leaf.path].append(leaf)
    for (lower, upper, sweep), parts in leaves.items():
        ends = None if sweep else (np.frombuffer(lower), np.frombuffer(upper))
        yield from checker.margins(list(parts.values()), ends)


class _Checker:
    """A network, and a proof with slopes that fit it."""

    def __init__(self, network: Network, proof: Proof):
        self._network, self._arrays, self._tables = network, proof.arrays, proof.tables
        self._seen = np.zeros(len(proof.arrays["kind"]), bool)
        self._sets = {len(table) for layers, table in proof.tables.items() if len(layers) == 1}
        need(len(self._sets) < 2, "the proof's slopes have different numbers of sets")
        layers = network.layers
        for (*bounded, layer), table in proof.tables.items():
            order = [layer, *bounded, len(layers)]
            there = order == sorted(set(order))
            need(
                there, f"the proof has slopes of layer {layer}, which is none, or not before others"
            )
            rows = (2, layers[bounded[0]].size) if bounded else tuple(self._sets)
            fit = table.shape == (*rows, layers[layer].size)
            need(fit, f"the proof's slopes of layer {layer} do not fit")
            inside = ((table >= layers[layer].slope) & (table <= 1)) | np.isnan(table)
            fit = bool(inside.all())
            need(fit, f"the proof has a slope of layer {layer} that is not between its pieces")

    def leaves(self, number: int, case: Case, root: int) -> Iterator[_Leaf]:
        """The leaves below a root. Together they cover its box, whatever the proof says."""
        layers, seen = self._network.layers, self._seen
        stack: list[Any] = [(root, case.lower, case.upper, ())]
        while stack:
            node, lower, upper, path = stack.pop()
            new = 0 <= node < len(seen) and not seen[node]
            need(new, f"node {node} is missing, or in two places of the tree")
            seen[node] = True
            kind, child, layer, index, point, *_ = (self._arrays[k][node].item() for k in NODES)
            if kind == LEAF:
                row = 0 <= index < len(case.rows)
                need(row, f"leaf {node} is about row {index}, which its case does not have")
                yield _Leaf(number, node, case.rows[index], lower, upper, path)
                continue
            if kind == INPUT:
                inside = 0 <= index < len(lower) and lower[index] <= point <= upper[index]
                need(inside, f"node {node} splits an input outside its box")
                below, above = upper.copy(), lower.copy()
                below[index] = above[index] = point
                halves, layer = ((lower, below), (above, upper)), -1
            else:
                need(kind == UNIT, f"node {node} is of the unknown kind {kind}")
                unit = 0 <= layer < len(layers) and 0 <= index < layers[layer].size
                need(unit, f"node {node} splits a unit that the network does not have")
                halves, point = ((lower, upper), (lower, upper)), 0.0
            for side in (1, 0):
                split = layer, index, point, side
                stack.append((child + side, *halves[side], (*path, split)))

    def margins(self, parts: list[list[_Leaf]], box: Any) -> Iterator[Margin]:
        """Bounds of the leaves of parts of a box; None: hidden values are bounded on each part."""
        network, whole = self._network, None
        if box is not None:
            whole = Enclosure(network, box[0][None], box[1][None], hidden=self._tables)
        rows = 1 if whole else 2 * max((layer.size for layer in network.layers), default=1)
        count = ENTRIES // (max(step.size for step in network.steps) * rows)
        count = max(1, min(1024, count))
        for start in range(0, len(parts), count):
            batch = parts[start : start + count]
            for part, bounds in zip(batch, self._bounds(batch, whole).tolist(), strict=True):
                for leaf, bound in zip(part, bounds, strict=False):
                    yield Margin(leaf.case, leaf.node, bound)

    def _bounds(self, parts: list[list[_Leaf]], whole: Enclosure | None) -> Array:
        """Bounds of the leaves of some parts, ``(parts, most leaves of a part)``."""
        most = max(map(len, parts))
        parts = [part + part[-1:] * (most - len(part)) for part in parts]  # None is shorter.
        lower, upper = (np.stack([part[0][at] for part in parts]) for at in (3, 4))
        rows = np.array([[leaf.row for leaf in part] for part in parts])
        signs, multipliers = self._split_units(parts)
        enclosure = Enclosure(self._network, lower, upper, signs, whole, sweep=whole is None)
        found = enclosure.lower_bounds(
            self._network.output, -rows[..., :-1], self._slopes(parts), multipliers
        )
        bounds = down(found - rows[..., -1])
        # Infinite bounds come from overflow, and say nothing.
        bounds = np.where(np.isfinite(bounds), bounds, -np.inf)
        return np.where(enclosure.empty[:, None], np.inf, bounds)

    def _split_units(self, parts: list[list[_Leaf]]) -> tuple[Tables, Tables]:
        """The signs of split units of parts, and multipliers of leaves times signs, by layer."""
        shape, sizes = (len(parts), len(parts[0])), [layer.size for layer in self._network.layers]
        split = {layer for part in parts for layer, *_ in part[0].path if layer >= 0}
        signs = {layer: np.zeros((len(parts), sizes[layer])) for layer in split}
        multipliers = {layer: np.zeros((*shape, sizes[layer])) for layer in split}
        for i, k in np.ndindex(shape):
            leaf = parts[i][k]
            units = [split for split in leaf.path if split[0] >= 0]
            first, end = self._arrays["starts"][leaf.node : leaf.node + 2]
            given = self._arrays["multipliers"][first:end]
            fit = len(given) in (0, len(units))
            need(fit, f"leaf {leaf.node} has {len(given)} multipliers for its splits of units")
            for n, (layer, unit, _, side) in enumerate(units):
                signs[layer][i, unit] = sign = 1 - 2 * side
                multipliers[layer][i, k, unit] += sign * given[n] if len(given) else 0.0
        return signs, multipliers

    def _slopes(self, parts: list[list[_Leaf]]) -> Tables:
        """The slopes of leaves by layer; those of leaves without any are by rule, as NaN."""
        entries = self._arrays["slopes"][[[leaf.node for leaf in part] for part in parts]]
        there = ((entries >= -1) & (entries < max(self._sets, default=0))).all()
        need(there, f"a leaf has slopes that the proof does not contain: {entries.max()}")
        if (entries < 0).all():
            return {}
        return {
            layers[0]: np.where(entries[..., None] < 0, np.nan, table[entries])
            for layers, table in self._tables.items()
            if len(layers) == 1
        }
