"""Writes proofs in the format of ``tfcert_check``."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

import tfcert_check
from tfcert.proofs.layers import Layer, layers_of
from tfcert.proofs.mending import mend
from tfcert.proofs.tree import Tree
from tfcert_check import proofs as theirs

__all__ = ["write_proof"]

Arrays = dict[str, npt.NDArray[Any]]

# How often leaves are cut in halves until the checker can follow. Where there is a counterexample,
# each round cuts twice as many: no more cuts than leaves, or than this number.
_MENDED = 24
_CUTS = 1024


def write_proof(
    path: str | os.PathLike[str],
    tree: Tree,
    model: keras.Model,
    network: str | os.PathLike[str],
    asked: str | os.PathLike[str],
    float_safe: bool = False,
) -> int:
    """Writes a tree as a proof, after the checker has accepted the proof.

    The checker computes its own bounds of hidden values, in float64 and with all rounding errors
    counted. It may also choose other lines around a function. So the checker may fail at a leaf,
    above all if the leaf's bound was just above 0 in float32. If the tree splits inputs,
    ``write_proof`` cuts such a leaf in half in ``tree``, as often as necessary.

    Args:
        path: The file to write, a ``.npz``.
        tree: A tree whose parts are all closed.
        model: The network of the positions in the tree, from ``load_onnx``, or that of a
            file from ``write_network``.
        network: The file of the network.
        asked: The VNN-LIB file of the property with the tree's cases.
        float_safe: Whether the proof has to hold for the network as executed in float32, as
            ``tfcert-check --float_safe`` checks it.

    Returns:
        The number of leaves of the proof.

    Raises:
        ValueError: The tree is not a proof. The message says why.
    """
    try:
        file = tfcert_check.read_network(network, float_safe)
        question = tfcert_check.read_property(asked)
        proved: set[tuple[int, int]] = set()
        cuts, most = 0, _CUTS
        for last in [*[False] * _MENDED, True]:
            arrays, places = _arrays(tree, model, file, question)
            content = io.BytesIO()
            np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
            content.seek(0)
            proof = tfcert_check.read_proof(content)
            if last:
                proved.clear()
            known = {node for node, part in places.items() if part in proved}
            bounded = list(tfcert_check.margins(file, question, proof, known))
            proved |= {places[leaf.node] for leaf in bounded if leaf.bound > 0}
            weak = [leaf for leaf in bounded if not leaf.bound > 0]
            if not weak and not known:
                break
            if not weak:  # In the end all leaves are checked together, as others will.
                proved.clear()
                continue
            cuts, most = cuts + len(weak), max(most, len(bounded))
            last = last or cuts > most
            if last or not mend(tree, question.cases, [places[leaf.node] for leaf in weak]):
                case, node, bound = weak[0]
                raise ValueError(
                    f"`tree` is not a proof: leaf {node} of case {case} is not proved: its bound "
                    f"is {bound:.6g}."
                )
    except tfcert_check.Refused as error:
        raise ValueError(f"`tree` is not a proof: {error}.") from error
    pathlib.Path(path).write_bytes(content.getvalue())
    return int((arrays["kind"] == theirs.LEAF).sum())


def proof_arrays(
    tree: Tree, model: keras.Model, file: tfcert_check.Network, question: tfcert_check.Property
) -> Arrays:
    """The arrays of the file; docs/proofs.md tells what they mean."""
    return _arrays(tree, model, file, question)[0]


def _arrays(
    tree: Tree, model: keras.Model, file: tfcert_check.Network, question: tfcert_check.Property
) -> tuple[Arrays, dict[int, tuple[int, int]]]:
    """The arrays of the file, and for each of its nodes the case and the node of the tree."""
    if len(tree.open_nodes()) or set(tree.roots) != set(range(len(question.cases))):
        raise ValueError(
            "`tree` must have a root for every case and refute every case on all parts. Received: "
            f"roots for {len(tree.roots)} of {len(question.cases)} cases, "
            f"{len(tree.open_nodes())} open parts."
        )
    layers = layers_of(model, file, question.cases[0]) if question.cases else []
    nodes = _Nodes(tree, {layer.source: layer for layer in layers})
    roots = [nodes.add(case) for case in range(len(question.cases))]
    arrays = {
        "format": np.array(theirs.FORMAT),
        "network": np.array(file.sha256),
        "property": np.array(question.sha256),
        "roots": np.array(roots, np.int64),
        **nodes.arrays(),
        **_slopes(tree, layers),
        **_hidden(tree, layers),
    }
    return arrays, nodes.places


class _Nodes:
    """The nodes of a proof: a tree for each case, as far as there were splits for the case.

    Attributes:
        places: By the number of a node in the proof, its case, and its number in the tree.
    """

    def __init__(self, tree: Tree, layers: dict[int, Layer]):
        self._tree, self._layers = tree, layers
        self._rows: list[tuple[int, int, int, int, float, int, bool]] = []
        self._multipliers: list[tuple[float, ...]] = []
        self.places: dict[int, tuple[int, int]] = {}

    def add(self, case: int) -> int:
        """Adds the tree of a case and gives its root."""
        tree = self._tree
        first = self._reserve(1)
        own = {tree.roots[case]: first}
        swept = {tree.roots[case]: False}
        for node, inner, closing in tree.walk(case):
            self.places[own[node]] = case, node
            if inner:
                child = self._reserve(2)
                own[tree.child[node]], own[tree.child[node] + 1] = child, child + 1
                cuts = swept[node] or tree.kind[node] == theirs.INPUT
                swept[tree.child[node]] = swept[tree.child[node] + 1] = cuts
                self._rows[own[node]] = self._split(node, child)
            else:
                assert closing is not None
                sweep = swept[node] if closing.sweep is None else closing.sweep
                leaf = (theirs.LEAF, -1, -1, closing.row, 0.0, closing.slopes, sweep)
                self._rows[own[node]] = leaf
                self._multipliers[own[node]] = closing.multipliers
        return first

    def _reserve(self, count: int) -> int:
        self._rows += [(theirs.LEAF, -1, -1, -1, 0.0, -1, False)] * count
        self._multipliers += [()] * count
        return len(self._rows) - count

    def _split(self, node: int, child: int) -> tuple[int, int, int, int, float, int, bool]:
        tree, place, index = self._tree, self._tree.place[node], self._tree.index[node]
        if tree.kind[node] == theirs.INPUT:
            return theirs.INPUT, child, -1, index, tree.point[node], -1, False
        if place not in self._layers:
            raise ValueError(
                "`place` of a split must be that of a value that a two-piece function reads. "
                f"Received: place={place}."
            )
        layer = self._layers[place]
        return theirs.UNIT, child, layer.number, int(layer.order[index]), 0.0, -1, False

    def arrays(self) -> Arrays:
        """All nodes and multipliers."""
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(theirs.NODES)
        types = {"i": np.int64, "f": np.float64, "b": np.bool_}
        counts = [len(values) for values in self._multipliers]
        return {
            **{
                name: np.array(column, types[kind])
                for (name, kind), column in zip(theirs.NODES.items(), columns, strict=True)
            },
            "starts": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            "multipliers": np.array([v for part in self._multipliers for v in part], np.float64),
        }


def _slopes(tree: Tree, layers: list[Layer]) -> Arrays:
    """One table a layer, with a row for each set of slopes."""
    found: Arrays = {}
    for layer in layers if tree.slopes else []:
        missing = [i for i, entry in enumerate(tree.slopes) if layer.place not in entry]
        if missing:
            raise ValueError(
                "`slopes` must have all two-piece functions of the network, or none. Received: "
                f"slopes without place {layer.place}."
            )
        given = np.stack([entry[layer.place] for entry in tree.slopes])
        table = np.empty_like(given)
        table[:, layer.order] = np.clip(given, np.float32(layer.slope), np.float32(1))
        found[f"slopes_{layer.number}"] = table
    return found


def _hidden(tree: Tree, layers: list[Layer]) -> Arrays:
    """Slopes for hidden bounds, by the numbers of two layers; -1 stands for the rule."""
    found: Arrays = {}
    sources = {layer.source: layer for layer in layers}
    places = {layer.place: layer for layer in layers}
    for (source, place), given in tree.hidden.items():
        if source not in sources or place not in places:
            continue  # Of a maximum or a clip: the checker's functions are others there.
        layer, before = sources[source], places[place]
        clipped = np.clip(given, np.float32(before.slope), np.float32(1))
        table = np.empty_like(given)
        table[:, layer.order[:, None], before.order] = np.where(given < 0, -1, clipped)
        found[f"hidden_{layer.number}_{before.number}"] = table
    return found
