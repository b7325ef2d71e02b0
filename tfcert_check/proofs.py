"""Reads proofs and checks them against a network and a property."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert_check.bounds import ENTRIES, Enclosure
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
        network: SHA-256 of the network's file, unpacked.
        property: SHA-256 of the property's file, unpacked.
        roots: The root of each case.
        nodes: By name, one entry a node.
        starts: Where the multipliers of each node begin, and a last entry where they end.
        multipliers: Those of all leaves behind each other.
        slopes: By layer, one row for each set of slopes.
        hidden: By two layers, slopes for bounds of the first one on whole boxes of cases; NaN
            stands for the rule.
    """

    network: str
    property: str
    roots: npt.NDArray[np.int64]
    nodes: dict[str, npt.NDArray[Any]]
    starts: npt.NDArray[np.int64]
    multipliers: Array
    slopes: dict[int, npt.NDArray[Any]]
    hidden: dict[tuple[int, int], Array]


class Margin(NamedTuple):
    """The result of one leaf: minus the row of the case is at least ``bound``."""

    case: int
    node: int
    bound: float


class _Leaf(NamedTuple):
    node: int
    lower: Array
    upper: Array
    splits: tuple[tuple[int, int, int], ...]  # layer, unit, sign


def read_proof(path: str | os.PathLike[str] | IO[bytes]) -> Proof:
    """Reads a file and checks that its arrays fit together."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    need(str(arrays.get("format")) == FORMAT, f"the proof's format is not {FORMAT!r}")
    for name, kind in {"roots": "i", "starts": "i", "multipliers": "f", **NODES}.items():
        right = name in arrays and (arrays[name].dtype.kind, arrays[name].ndim) == (kind, 1)
        need(right, f"the proof has no array {name!r} of the right type")
    starts, multipliers = arrays["starts"], arrays["multipliers"].astype(np.float64)
    lengths = {len(arrays[name]) for name in NODES} | {len(starts) - 1}
    need(len(lengths) == 1, "the proof's arrays have different lengths")
    fit = starts[0] == 0 and starts[-1] == len(multipliers) and (np.diff(starts) >= 0).all()
    need(fit, "the proof's multipliers do not fit the nodes")
    fit = (np.isfinite(multipliers) & (multipliers >= 0)).all()
    need(fit, "the proof has a multiplier that is negative or not a number")
    files = str(arrays.get("network")), str(arrays.get("property"))
    nodes = {name: arrays[name] for name in NODES}
    slopes = {layer: table for (layer,), table in _tables(arrays, "slopes", 1)}
    hidden = dict(_tables(arrays, "hidden", 2))
    return Proof(*files, arrays["roots"], nodes, starts, multipliers, slopes, hidden)


def _tables(arrays: dict[str, Any], kind: str, numbers: int) -> Iterator[tuple[Any, Array]]:
    """The tables of slopes, by the layers in their names; -1, for slopes by rule, becomes NaN."""
    for name, table in arrays.items():
        if (match := re.fullmatch(kind + r"_(\d+)" * numbers, name)) is not None:
            numbers_only = table.dtype.kind == "f" and not np.isnan(table).any()
            need(numbers_only, f"the proof's slopes {name!r} are no numbers")
            yield tuple(map(int, match.groups())), np.where(table == -1, np.nan, table)


def check(network: Network, asked: Property, proof: Proof) -> int:
    """Raises Refused unless a proof shows that no input fulfils any case.

    Returns:
        How many leaves the proof has.
    """
    for what, file in (("network", network), ("property", asked)):
        same = getattr(proof, what) == file.sha256
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
    _check_sizes(network, asked, proof)
    seen = np.zeros(len(proof.nodes["kind"]), bool)
    key, whole = b"", None  # The last box, and all values on it: cases often share their box.
    for number, (case, root) in enumerate(zip(asked.cases, proof.roots, strict=True)):
        if network.float_safe:  # An execution rounds its inputs.
            case = Case(*outward(case.lower, case.upper), case.rows)
        found = _leaves(network, case, proof, int(root), seen)
        leaves = [leaf for leaf in found if leaf.node not in known]
        for sweeps in (False, True):
            own = [leaf for leaf in leaves if proof.nodes["sweep"][leaf.node] == sweeps]
            box = case.lower.tobytes() + case.upper.tobytes()
            if own and not sweeps and key != box:
                key, hidden = box, proof.hidden
                whole = Enclosure(network, case.lower[None], case.upper[None], hidden=hidden)
            size = _batch(network, sweeps)
            for start in range(0, len(own), size):
                batch = own[start : start + size]
                bounds = _bounds(network, case, proof, batch, None if sweeps else whole)
                for leaf, bound in zip(batch, bounds.tolist(), strict=True):
                    yield Margin(number, leaf.node, bound)


def _check_sizes(network: Network, asked: Property, proof: Proof) -> None:
    steps, layers = network.steps, network.layers
    sizes = steps[0].size, steps[network.output].size
    need(sizes == (asked.inputs, asked.outputs), "the property has other inputs or outputs")
    need(len(proof.roots) == len(asked.cases), "the proof has more or fewer roots than cases")
    sets = {len(table) for table in proof.slopes.values()}
    need(len(sets) < 2, "the proof's slopes have different numbers of sets")
    for layer, table in proof.slopes.items():
        _check_slopes(network, layer, table, table.shape[:1])
    for (layer, before), table in proof.hidden.items():
        need(before < layer < len(layers), f"no slopes of layer {before} help layer {layer}")
        _check_slopes(network, before, table, (2, layers[layer].size))


def _check_slopes(network: Network, layer: int, table: Array, rows: tuple[int, ...]) -> None:
    need(layer < len(network.layers), f"the proof has slopes of layer {layer}, which is none")
    step = network.layers[layer]
    need(table.shape == (*rows, step.size), f"the proof's slopes of layer {layer} do not fit")
    fit = (((table >= step.slope) & (table <= 1)) | np.isnan(table)).all()
    need(fit, f"the proof has a slope of layer {layer} that is not between its pieces")


def _batch(network: Network, sweeps: bool) -> int:
    """How many leaves are bounded together."""
    rows = 2 * max((layer.size for layer in network.layers), default=1)
    widest = max(step.size for step in network.steps)
    return max(1, min(1024, ENTRIES // (widest * (rows if sweeps else len(network.steps)))))


def _leaves(
    network: Network, case: Case, proof: Proof, root: int, seen: npt.NDArray[np.bool_]
) -> Iterator[_Leaf]:
    """The leaves below a root. Together they cover its box, whatever the proof says."""
    nodes, count = proof.nodes, len(seen)
    stack = [_Leaf(root, case.lower, case.upper, ())]
    while stack:
        leaf = stack.pop()
        node, lower, upper, splits = leaf
        new = 0 <= node < count and not seen[node]
        need(new, f"node {node} is missing, or in two places of the tree")
        seen[node] = True
        kind, child, index = (int(nodes[name][node]) for name in ("kind", "child", "index"))
        if kind == LEAF:
            row = 0 <= index < len(case.rows)
            need(row, f"leaf {node} is about row {index}, which its case does not have")
            yield leaf
        elif kind == INPUT:
            point = float(nodes["point"][node])
            inside = 0 <= index < len(lower) and lower[index] <= point <= upper[index]
            need(inside, f"node {node} splits an input outside its box")
            below, above = upper.copy(), lower.copy()
            below[index] = above[index] = point
            stack.append(_Leaf(child + 1, above, upper, splits))
            stack.append(_Leaf(child, lower, below, splits))
        else:
            need(kind == UNIT, f"node {node} is of the unknown kind {kind}")
            layer, layers = int(nodes["layer"][node]), network.layers
            unit = 0 <= layer < len(layers) and 0 <= index < layers[layer].size
            need(unit, f"node {node} splits a unit that the network does not have")
            stack.append(_Leaf(child + 1, lower, upper, (*splits, (layer, index, -1))))
            stack.append(_Leaf(child, lower, upper, (*splits, (layer, index, 1))))


def _bounds(
    network: Network, case: Case, proof: Proof, batch: list[_Leaf], whole: Enclosure | None
) -> Array:
    """Bounds of some leaves of a case; without the whole box, hidden values are bounded anew."""
    ids = np.array([leaf.node for leaf in batch])
    signs, multipliers = _split_units(network, proof, batch)
    lower, upper = np.stack([x.lower for x in batch]), np.stack([x.upper for x in batch])
    enclosure = Enclosure(network, lower, upper, signs, whole, sweep=whole is None)
    rows, slopes = case.rows[proof.nodes["index"][ids]], _slopes(proof, ids)
    found = enclosure.lower_bounds(network.output, -rows[:, None, :-1], slopes, multipliers)[:, 0]
    bounds = down(found - rows[:, -1])
    # Infinite bounds come from overflow, and say nothing.
    return np.where(enclosure.empty, np.inf, np.where(np.isfinite(bounds), bounds, -np.inf))


def _split_units(network: Network, proof: Proof, batch: list[_Leaf]) -> tuple[Any, Any]:
    """The signs of split units and their multipliers times the signs, by layer."""
    signs, multipliers = {}, {}
    for layer in {layer for leaf in batch for layer, _, _ in leaf.splits}:
        shape = (len(batch), network.layers[layer].size)
        signs[layer], multipliers[layer] = np.zeros(shape, np.int8), np.zeros(shape)
    for i, leaf in enumerate(batch):
        given = proof.multipliers[proof.starts[leaf.node] : proof.starts[leaf.node + 1]]
        fit = len(given) in (0, len(leaf.splits))
        need(fit, f"leaf {leaf.node} has {len(given)} multipliers for its splits of units")
        betas = given if len(given) else np.zeros(len(leaf.splits))
        for (layer, unit, sign), beta in zip(leaf.splits, betas, strict=True):
            signs[layer][i, unit] = sign
            multipliers[layer][i, unit] += sign * beta
    return signs, multipliers


def _slopes(proof: Proof, ids: npt.NDArray[np.int64]) -> dict[int, Array]:
    """The slopes of leaves by layer; those of leaves without any are by rule, as NaN."""
    entries = proof.nodes["slopes"][ids]
    sets = max((len(table) for table in proof.slopes.values()), default=0)
    there = ((entries >= -1) & (entries < sets)).all()
    need(there, f"a leaf has slopes that the proof does not contain: {entries.max()}")
    if (entries < 0).all():
        return {}
    return {
        layer: np.where(entries[:, None] < 0, np.nan, table[entries])[:, None].astype(np.float64)
        for layer, table in proof.slopes.items()
    }
