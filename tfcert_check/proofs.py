"""Reads proofs and checks them against a network and a property."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfcert_check.bounds import ENTRIES, Enclosure
from tfcert_check.networks import Network
from tfcert_check.operators import Array
from tfcert_check.properties import Case, Property
from tfcert_check.refusal import Refused
from tfcert_check.rounding import down

__all__ = [
    "FORMAT",
    "INPUT",
    "LEAF",
    "NODES",
    "UNIT",
    "Margin",
    "Proof",
    "check",
    "margins",
    "read_proof",
]

FORMAT = "tfcert proof 1"
LEAF, INPUT, UNIT = 0, 1, 2
# The arrays of nodes and their types.
NODES = {
    "kind": "i",
    "child": "i",
    "layer": "i",
    "index": "i",
    "point": "f",
    "slopes": "i",
    "sweep": "b",
}


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
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise Refused(f"the proof is not a readable npz file: {error}") from error
    if str(arrays.get("format")) != FORMAT:
        raise Refused(f"the proof's format is {str(arrays.get('format'))!r:.60}, not {FORMAT!r}")
    kinds = {"roots": "i", "starts": "i", "multipliers": "f", **NODES}
    for name, kind in kinds.items():
        if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].ndim != 1:
            raise Refused(f"the proof has no array {name!r} of the right type")
    count = len(arrays["kind"])
    if any(len(arrays[name]) != count for name in NODES) or len(arrays["starts"]) != count + 1:
        raise Refused("the proof's arrays have different lengths")
    starts, multipliers = arrays["starts"], arrays["multipliers"].astype(np.float64)
    if starts[0] != 0 or starts[-1] != len(multipliers) or (np.diff(starts) < 0).any():
        raise Refused("the proof's multipliers do not fit the nodes")
    if not (np.isfinite(multipliers) & (multipliers >= 0)).all():
        raise Refused("the proof has a multiplier that is negative or not a number")
    return Proof(
        str(arrays.get("network")),
        str(arrays.get("property")),
        arrays["roots"],
        {name: arrays[name] for name in NODES},
        starts,
        multipliers,
        {int(name[7:]): a for name, a in arrays.items() if name.startswith("slopes_")},
        {
            (int(name.split("_")[1]), int(name.split("_")[2])): np.where(a == -1, np.nan, a)
            for name, a in arrays.items()
            if name.startswith("hidden_")
        },
    )


def check(network: Network, asked: Property, proof: Proof) -> int:
    """Raises Refused unless a proof shows that no input fulfils any case.

    Returns:
        How many leaves the proof has.
    """
    if proof.network != network.sha256:
        raise Refused("the proof is about another network: its SHA-256 is not that of this file")
    if proof.property != asked.sha256:
        raise Refused("the proof is about another property: its SHA-256 is not that of this file")
    count = 0
    for case, node, bound in margins(network, asked, proof):
        if not bound > 0:
            raise Refused(f"leaf {node} of case {case} is not proved: its bound is {bound:.6g}")
        count += 1
    return count


def margins(network: Network, asked: Property, proof: Proof) -> Iterator[Margin]:
    """Returns the bound of each leaf of a proof; inf if the leaf contains no input.

    All cases are covered where the iterator comes to its end. Nothing is said of the SHA-256.
    """
    _check_sizes(network, asked, proof)
    seen = np.zeros(len(proof.nodes["kind"]), bool)
    wholes: dict[bytes, Enclosure] = {}
    for number, (case, root) in enumerate(zip(asked.cases, proof.roots, strict=True)):
        key = case.lower.tobytes() + case.upper.tobytes()
        batch: list[_Leaf] = []
        for leaf in _leaves(network, case, proof, int(root), seen):
            sweeps = proof.nodes["sweep"][leaf.node]
            if batch and sweeps != proof.nodes["sweep"][batch[0].node]:
                yield from _bounds(network, case, number, proof, batch, wholes.get(key))
                batch = []
            if not sweeps and key not in wholes:
                wholes.clear()
                box = case.lower[None], case.upper[None]
                wholes[key] = Enclosure(network, *box, hidden=proof.hidden)
            batch.append(leaf)
            if len(batch) >= _batch(network, bool(sweeps)):
                yield from _bounds(network, case, number, proof, batch, wholes.get(key))
                batch = []
        if batch:
            yield from _bounds(network, case, number, proof, batch, wholes.get(key))


def _check_sizes(network: Network, asked: Property, proof: Proof) -> None:
    steps = network.steps
    if (steps[0].size, steps[network.output].size) != (asked.inputs, asked.outputs):
        raise Refused("the network and the property have different numbers of inputs or outputs")
    if len(proof.roots) != len(asked.cases):
        raise Refused(f"the proof has {len(proof.roots)} roots for {len(asked.cases)} cases")
    for layer, slopes in proof.slopes.items():
        if not 0 <= layer < len(network.layers):
            raise Refused(f"the proof has slopes for layer {layer}, which does not exist")
        step = network.layers[layer]
        if slopes.dtype.kind != "f" or slopes.shape[1:] != (step.size,):
            raise Refused(f"the proof's slopes of layer {layer} do not fit the network")
        if not ((slopes >= step.slope) & (slopes <= 1)).all():
            raise Refused(f"the proof has a slope of layer {layer} that is not between its pieces")
    for (layer, before), slopes in proof.hidden.items():
        if not 0 <= before < layer < len(network.layers):
            raise Refused(f"the proof has slopes of layer {before} for layer {layer}")
        step = network.layers[before]
        if slopes.shape != (2, network.layers[layer].size, step.size):
            raise Refused(f"the proof's slopes of layer {before} for layer {layer} do not fit")
        if not (((slopes >= step.slope) & (slopes <= 1)) | np.isnan(slopes)).all():
            raise Refused(f"the proof has a slope of layer {before} that is not between its pieces")
    if len({len(slopes) for slopes in proof.slopes.values()}) > 1:
        raise Refused("the proof's slopes have different numbers of sets")


def _batch(network: Network, sweeps: bool) -> int:
    """How many leaves are bounded together."""
    widest = max(step.size for step in network.steps)
    rows = (
        2 * max((layer.size for layer in network.layers), default=1)
        if sweeps
        else len(network.steps)
    )
    return max(1, min(1024, ENTRIES // (widest * rows)))


def _leaves(
    network: Network, case: Case, proof: Proof, root: int, seen: npt.NDArray[np.bool_]
) -> Iterator[_Leaf]:
    """The leaves below a root. Together they cover its box, whatever the proof says."""
    nodes, count = proof.nodes, len(seen)
    stack = [_Leaf(root, case.lower, case.upper, ())]
    while stack:
        leaf = stack.pop()
        node, lower, upper, splits = leaf
        if not 0 <= node < count or seen[node]:
            raise Refused(f"node {node} is missing, or in two places of the tree")
        seen[node] = True
        kind, child, index = (int(nodes[name][node]) for name in ("kind", "child", "index"))
        if kind == LEAF:
            if not 0 <= index < len(case.rows):
                raise Refused(f"leaf {node} is about row {index}, which its case does not have")
            yield leaf
        elif kind == INPUT:
            point = float(nodes["point"][node])
            if not 0 <= index < len(lower) or not lower[index] <= point <= upper[index]:
                raise Refused(f"node {node} splits an input outside its box")
            below, above = upper.copy(), lower.copy()
            below[index] = above[index] = point
            stack.append(_Leaf(child + 1, above, upper, splits))
            stack.append(_Leaf(child, lower, below, splits))
        elif kind == UNIT:
            layer = int(nodes["layer"][node])
            layers = network.layers
            if not 0 <= layer < len(layers) or not 0 <= index < layers[layer].size:
                raise Refused(f"node {node} splits a unit that the network does not have")
            stack.append(_Leaf(child + 1, lower, upper, (*splits, (layer, index, -1))))
            stack.append(_Leaf(child, lower, upper, (*splits, (layer, index, 1))))
        else:
            raise Refused(f"node {node} is of the unknown kind {kind}")


def _bounds(
    network: Network,
    case: Case,
    number: int,
    proof: Proof,
    batch: list[_Leaf],
    whole: Enclosure | None,
) -> Iterator[Margin]:
    """Bounds some leaves of a case, all of them with sweeps of their own or none."""
    ids = np.array([leaf.node for leaf in batch])
    sweeps = bool(proof.nodes["sweep"][ids[0]])
    signs, multipliers = _split_units(network, proof, batch)
    lower, upper = np.stack([x.lower for x in batch]), np.stack([x.upper for x in batch])
    enclosure = Enclosure(network, lower, upper, signs, None if sweeps else whole, sweeps)
    rows = case.rows[proof.nodes["index"][ids]]
    margin = enclosure.lower_bounds(
        network.output, -rows[:, None, :-1], _slopes(network, proof, ids), multipliers
    )
    bounds = np.where(enclosure.empty, np.inf, down(margin[:, 0] - rows[:, -1]))
    # Infinite bounds of leaves that are not empty come from overflow, and say nothing.
    bounds = np.where(enclosure.empty | np.isfinite(bounds), bounds, -np.inf)
    yield from map(Margin, [number] * len(batch), ids.tolist(), bounds.tolist())


def _split_units(
    network: Network, proof: Proof, batch: list[_Leaf]
) -> tuple[dict[int, npt.NDArray[np.int8]], dict[int, Array]]:
    """The signs of split units and their multipliers times the signs, by layer."""
    signs: dict[int, npt.NDArray[np.int8]] = {}
    multipliers: dict[int, Array] = {}
    for layer in {layer for leaf in batch for layer, _, _ in leaf.splits}:
        shape = (len(batch), network.layers[layer].size)
        signs[layer], multipliers[layer] = np.zeros(shape, np.int8), np.zeros(shape)
    for i, leaf in enumerate(batch):
        given = proof.multipliers[proof.starts[leaf.node] : proof.starts[leaf.node + 1]]
        if len(given) not in (0, len(leaf.splits)):
            raise Refused(f"leaf {leaf.node} has {len(given)} multipliers for its splits of units")
        betas = given if len(given) else np.zeros(len(leaf.splits))
        for (layer, unit, sign), beta in zip(leaf.splits, betas, strict=True):
            signs[layer][i, unit] = sign
            multipliers[layer][i, unit] += sign * beta
    return signs, multipliers


def _slopes(network: Network, proof: Proof, ids: npt.NDArray[np.int64]) -> dict[int, Array]:
    """The slopes of leaves by layer; those of leaves without any are by rule, as NaN."""
    entries = proof.nodes["slopes"][ids]
    sets = max((len(table) for table in proof.slopes.values()), default=0)
    if ((entries < -1) | (entries >= sets)).any():
        raise Refused(f"a leaf has slopes that the proof does not contain: {entries.max()}")
    if (entries < 0).all():
        return {}
    return {
        layer: np.where(entries[:, None] < 0, np.nan, table[entries])[:, None].astype(np.float64)
        for layer, table in proof.slopes.items()
    }
