"""The networks that the benchmark of the bounds runs on, and their inputs.

A network is a small graph with weights, from a reference file or built in. Both sides of the
benchmark build their own model from it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import graphs
import numpy as np

__all__ = [
    "METHODS",
    "Case",
    "Network",
    "build_keras",
    "find",
    "inputs_of",
    "random_network",
    "read_reference",
]

# Name in the table -> name in the reference files; a forward pass has no stored bounds.
METHODS = {
    "forward": None,
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "CROWN-Optimized-fixed",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A graph with weights, inputs for it, and bounds that were computed elsewhere, if any."""

    name: str
    source: str  # "reference" or "random weights"
    graph: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]  # "node/kernel" and the like
    inputs: np.ndarray  # (n, height, width, channels), in [0, 1]
    eps: float
    stored: Mapping[str, tuple[np.ndarray, np.ndarray]]  # method -> lower, upper of `inputs`

    @property
    def is_convolutional(self) -> bool:
        """Whether any node is a convolution."""
        return any(node["op"] == "conv2d" for node in self.graph["nodes"])


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: what one process measures."""

    network: Network
    method: str
    batch: int
    seed: int
    iterations: int  # of alpha-CROWN
    learning_rate: float  # of the peer's alpha-CROWN
    jit_compile: bool | None  # of tfcert


def read_reference(path: pathlib.Path, setting: str) -> Network:
    """A network of the reference set, with the bounds stored for one of its settings."""
    with np.load(path, allow_pickle=False) as file:
        members = {name: file[name] for name in file.files}
    meta = json.loads(str(members["meta"]))
    settings = {entry["name"]: entry for entry in meta["settings"]}
    if setting not in settings:
        raise ValueError(f"{path.name} has no setting {setting!r}, only {sorted(settings)}.")
    chosen = settings[setting]
    if chosen["norm"] != "linf" or chosen["clip"]:
        raise ValueError(f"The benchmark runs unclipped linf settings. Received: {setting!r}.")
    prefix = "weights/"
    return Network(
        name=path.stem,
        source="reference",
        graph=json.loads(str(members["architecture"])),
        weights={k.removeprefix(prefix): v for k, v in members.items() if k.startswith(prefix)},
        inputs=members["inputs"],
        eps=float(chosen["eps"]),
        stored={
            method: (members[f"{setting}/{method}/lower"], members[f"{setting}/{method}/upper"])
            for method in chosen["methods"]
        },
    )


def random_network(name: str, seed: int) -> Network:
    """A built-in graph with random weights, and smooth random images as its inputs."""
    graph, eps = graphs.GRAPHS[name]
    random = np.random.default_rng([seed, *name.encode()])
    return Network(
        name=name,
        source="random weights",
        graph=graph,
        weights=graphs.random_weights(graph, random),
        inputs=graphs.smooth_images(64, graph["input_shape"], random),
        eps=eps,
        stored={},
    )


def find(names: Sequence[str], folder: str, setting: str, seed: int) -> list[Network]:
    """The named networks, from the reference folder where it has them, else built in.

    Without names: every convolutional network of the folder, or all built-in ones without a folder.
    """
    files = {path.stem: path for path in sorted(pathlib.Path(folder).glob("bounds/*.npz"))}
    if not names and files:
        networks = [read_reference(path, setting) for path in files.values()]
        return [network for network in networks if network.is_convolutional]
    networks = []
    for name in names or graphs.GRAPHS:
        if name in files:
            networks.append(read_reference(files[name], setting))
        elif name in graphs.GRAPHS:
            networks.append(random_network(name, seed))
        else:
            known = sorted({*files, *graphs.GRAPHS})
            raise ValueError(f"Unknown network {name!r}. Known: {', '.join(known)}.")
    return networks


def inputs_of(network: Network, batch: int, seed: int) -> np.ndarray:
    """`batch` distinct inputs: the network's own first, then shifted and mirrored copies.

    Copies of one input would favour tools that bound the union of a batch's unstable neurons.
    """
    own = network.inputs
    random = np.random.default_rng(seed)
    images = list(own[:batch])
    while len(images) < batch:
        image = own[len(images) % len(own)]
        shift = tuple(int(step) for step in random.integers(-3, 4, size=2))
        image = np.roll(image, shift, axis=(0, 1))
        images.append(image[:, ::-1] if random.integers(2) else image)
    return np.ascontiguousarray(np.stack(images), dtype="float32")


def build_keras(network: Network) -> Any:
    """The network as a functional Keras model of stock layers."""
    import keras
    from keras import layers

    shapes = graphs.node_shapes(network.graph)
    values = {"input": keras.Input(shapes["input"], name="input")}
    for node in network.graph["nodes"]:
        name, op = node["name"], node["op"]
        inputs = [values[source] for source in node["inputs"]]
        value = inputs[0]
        if op == "conv2d":
            padding = "valid"
            if _is_same(node, shapes[node["inputs"][0]]):
                padding = "same"
            elif any(map(any, node["pad"])):
                value = layers.ZeroPadding2D(node["pad"], name=f"{name}_pad")(value)
            layer = layers.Conv2D(
                node["filters"], node["kernel_size"], node["strides"], padding, name=name
            )
        elif op == "dense":
            layer = layers.Dense(node["units"], name=name)
        elif op == "batchnorm":
            layer = layers.BatchNormalization(epsilon=node["epsilon"], name=name)
        elif op == "maxpool2d":
            layer = layers.MaxPooling2D(node["pool_size"], node["strides"], name=name)
        elif op == "avgpool2d":
            layer = layers.AveragePooling2D(node["pool_size"], node["strides"], name=name)
        elif op == "flatten":
            layer = layers.Flatten(name=name)
        elif op == "add":
            layer, value = layers.Add(name=name), inputs
        elif op == "concat":
            layer, value = layers.Concatenate(name=name), inputs
        elif op == "tokens":
            layer = layers.Reshape((-1, shapes[name][-1]), name=name)
        elif op == "layernorm":
            layer = layers.LayerNormalization(epsilon=node["epsilon"], name=name)
        elif op == "centering":
            layer = layers.Identity(name=name)
            value = value - keras.ops.mean(value, axis=-1, keepdims=True)
        elif op == "rows":
            layer = layers.Reshape(shapes[name], name=name)
        elif op in ("lstm", "gru"):
            layer = (layers.LSTM if op == "lstm" else layers.GRU)(node["units"], name=name)
        elif op == "attention":
            size = shapes[name][-1] // node["heads"]
            layer = layers.MultiHeadAttention(node["heads"], size, name=name)
        elif op == "first":
            layer = layers.Flatten(name=name)
            value = value[:, 0]
        elif op == "relu":
            layer = layers.ReLU(name=name)
        elif op == "gelu":
            layer = layers.Activation("gelu", name=name)
        elif op in ("tanh", "sigmoid"):
            layer = layers.Activation(op, name=name)
        else:
            raise ValueError(f"Unknown op {op!r} in node {name!r}.")
        values[name] = layer(inputs[0], inputs[0]) if op == "attention" else layer(value)
        if op == "tokens":
            # Zeros in the place of the class token, which is in the first line of the table.
            behind = keras.ops.pad(values[name], ((0, 0), (1, 0), (0, 0)))
            values[name] = behind + network.weights[f"{name}/table"][None]
        if op in graphs.WEIGHTS:
            layer.set_weights([network.weights[f"{name}/{field}"] for field in graphs.WEIGHTS[op]])
    return keras.Model(values["input"], values[network.graph["output"]], name=network.name)


def _is_same(node: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Whether padding="same" puts exactly the node's zeros, and any at all."""
    for axis in (0, 1):
        stride = node["strides"][axis]
        outputs = -(-shape[axis] // stride)
        total = max((outputs - 1) * stride + node["kernel_size"][axis] - shape[axis], 0)
        if list(node["pad"][axis]) != [total // 2, total - total // 2]:
            return False
    return any(map(any, node["pad"]))
