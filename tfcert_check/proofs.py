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
    leaves: dict[tuple[bytes, ...], list[_Leaf]] = {}  # By the boxes of cases.
    for number, (case, root) in enumerate(zip(asked.cases, proof.roots.tolist(), strict=True)):
        if network.float_safe:  # An execution rounds its inputs.
            case = Case(*outward(case.lower, case.upper), case.rows)
        box = case.lower.tobytes(), case.upper.tobytes()
        leaves.setdefault(box, []).extend(_leaves(network, proof, number, case, root, seen))
    for box, found in leaves.items():
        for sweep in (False, True):
            parts: dict[Any, list[_Leaf]] = {}
            for leaf in found:
                if proof.nodes["sweep"][leaf.node] == sweep and leaf.node not in known:
                    parts.setdefault(leaf.path, []).append(leaf)
            whole = None
            if parts and not sweep:
                ends = (np.frombuffer(end)[None] for end in box)
                whole = Enclosure(network, *ends, hidden=proof.hidden)
            yield from _bounded(network, proof, list(parts.values()), whole)


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


def _leaves(
    network: Network,
    proof: Proof,
    number: int,
    case: Case,
    root: int,
    seen: npt.NDArray[np.bool_],
) -> Iterator[_Leaf]:
    """The leaves below a root. Together they cover its box, whatever the proof says."""
    nodes, layers = proof.nodes, network.layers
    stack: list[tuple[int, Array, Array, tuple[Any, ...]]] = [(root, case.lower, case.upper, ())]
    while stack:
        node, lower, upper, path = stack.pop()
        new = 0 <= node < len(seen) and not seen[node]
        need(new, f"node {node} is missing, or in two places of the tree")
        seen[node] = True
        kind, child, index, layer, point = (
            nodes[name][node].item() for name in ("kind", "child", "index", "layer", "point")
        )
        if kind == LEAF:
            row = 0 <= index < len(case.rows)
            need(row, f"leaf {node} is about row {index}, which its case does not have")
            yield _Leaf(number, node, case.rows[index], lower, upper, path)
        elif kind == INPUT:
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
        if kind != LEAF:
            for side in (1, 0):
                split = layer, index, point, side
                stack.append((child + side, *halves[side], (*path, split)))


def _bounded(
    network: Network, proof: Proof, parts: list[list[_Leaf]], whole: Enclosure | None
) -> Iterator[Margin]:
    """Bounds of the leaves of parts; without the whole box, hidden values are bounded anew."""
    rows = 1 if whole else 2 * max((layer.size for layer in network.layers), default=1)
    count = ENTRIES // (max(step.size for step in network.steps) * rows)
    count = max(1, min(1024, count))
    for start in range(0, len(parts), count):
        batch = parts[start : start + count]
        bounds = _bounds(network, proof, batch, whole).tolist()
        for part, found in zip(batch, bounds, strict=True):
            for leaf, bound in zip(part, found, strict=False):
                yield Margin(leaf.case, leaf.node, bound)


def _bounds(
    network: Network, proof: Proof, parts: list[list[_Leaf]], whole: Enclosure | None
) -> Array:
    """Bounds of the leaves of some parts, ``(parts, most leaves of a part)``."""
    most = max(map(len, parts))
    padded = [part + part[-1:] * (most - len(part)) for part in parts]
    ids, rows = (np.array([[leaf[at] for leaf in part] for part in padded]) for at in (1, 2))
    lower, upper = (np.stack([part[0][at] for part in padded]) for at in (3, 4))
    signs, multipliers = _split_units(network, proof, padded)
    enclosure = Enclosure(network, lower, upper, signs, whole, sweep=whole is None)
    slopes = _slopes(proof, ids)
    found = enclosure.lower_bounds(network.output, -rows[..., :-1], slopes, multipliers)
    bounds = down(found - rows[..., -1])
    # Infinite bounds come from overflow, and say nothing.
    bounds = np.where(np.isfinite(bounds), bounds, -np.inf)
    return np.where(enclosure.empty[:, None], np.inf, bounds)


def _split_units(
    network: Network, proof: Proof, parts: list[list[_Leaf]]
) -> tuple[dict[int, Any], dict[int, Any]]:
    """The signs of split units of parts, and multipliers of leaves times the signs, by layer."""
    signs: dict[int, Any] = {}
    multipliers: dict[int, Any] = {}
    for i, part in enumerate(parts):
        splits = [split for split in part[0].path if split[0] >= 0]
        for k, leaf in enumerate(part):
            given = proof.multipliers[proof.starts[leaf.node] : proof.starts[leaf.node + 1]]
            fit = len(given) in (0, len(splits))
            need(fit, f"leaf {leaf.node} has {len(given)} multipliers for its splits of units")
            betas = given if len(given) else [0.0] * len(splits)
            for (layer, unit, _, side), beta in zip(splits, betas, strict=True):
                if layer not in signs:
                    size = network.layers[layer].size
                    signs[layer] = np.zeros((len(parts), size))
                    multipliers[layer] = np.zeros((len(parts), len(part), size))
                signs[layer][i, unit] = 1 - 2 * side
                multipliers[layer][i, k, unit] += (1 - 2 * side) * beta
    return signs, multipliers


def _slopes(proof: Proof, ids: npt.NDArray[np.int64]) -> dict[int, Array]:
    """The slopes of leaves by layer; those of leaves without any are by rule, as NaN."""
    entries = proof.nodes["slopes"][ids][..., None]
    sets = max((len(table) for table in proof.slopes.values()), default=0)
    there = ((entries >= -1) & (entries < sets)).all()
    need(there, f"a leaf has slopes that the proof does not contain: {entries.max()}")
    if (entries < 0).all():
        return {}
    return {
        layer: np.where(entries < 0, np.nan, table[entries[..., 0]])
        for layer, table in proof.slopes.items()
    }
