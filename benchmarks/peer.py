"""The peer's side of the benchmark: auto_LiRPA (BSD 3-Clause) on PyTorch.

The reference network is built again as a torch module. Every method is called the fastest way that
the peer's interface offers for the same bounds:

- IBP, CROWN-IBP and CROWN without gradients;
- alpha-CROWN with fixed intermediate bounds from one CROWN pass (`init_alpha`), whose result is
  handed to the two optimisations (lower and upper) so that neither repeats that pass.

Weights take no gradients. The perturbed input is made before the clock starts.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any

import cases
import graphs
import numpy as np
import peer_layers

__all__ = ["bounded_module", "facts", "prepare", "torch_module"]

_PERMUTE_KERNEL = (3, 2, 0, 1)  # (height, width, in, out) -> (out, in, height, width)


def facts() -> dict[str, str]:
    """Versions and device, or an ImportError where the peer cannot run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import auto_LiRPA
        import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "auto_LiRPA": getattr(auto_LiRPA, "__version__", None)
        or importlib.metadata.version("auto_LiRPA"),
        "torch": torch.__version__,
        "peer device": device,
    }


def torch_module(network: cases.Network) -> Any:
    """The network as a torch module in evaluation mode."""
    import torch
    from torch import nn

    shapes = graphs.node_shapes(network.graph)
    producers = {node["name"]: node for node in network.graph["nodes"]}

    def weight(node: Any, field: str) -> Any:
        return torch.tensor(np.asarray(network.weights[f"{node['name']}/{field}"]))

    def layer_of(node: Any) -> Any:
        op, source = node["op"], node["inputs"][0]
        if op == "conv2d":
            if any(low != high for low, high in node["pad"]):
                raise NotImplementedError(f"Asymmetric padding in node {node['name']!r}.")
            padding = tuple(low for low, _ in node["pad"])
            layer: Any = nn.Conv2d(
                shapes[source][-1], node["filters"], node["kernel_size"], node["strides"], padding
            )
            layer.weight.data = weight(node, "kernel").permute(_PERMUTE_KERNEL).contiguous()
            layer.bias.data = weight(node, "bias")
            return layer
        if op == "dense":
            kernel = weight(node, "kernel")
            producer = producers.get(source)
            if producer is not None and producer["op"] == "flatten":
                shape = shapes[producer["inputs"][0]]
                if len(shape) == 3:  # Flattened channels first here, channels last there.
                    kernel = kernel.reshape(*shape, -1).permute(2, 0, 1, 3).flatten(0, 2)
            layer = nn.Linear(*kernel.shape)
            layer.weight.data = kernel.T.contiguous()
            layer.bias.data = weight(node, "bias")
            return layer
        if op == "batchnorm":
            layer = nn.BatchNorm2d(shapes[source][-1], eps=node["epsilon"])
            layer.weight.data, layer.bias.data = weight(node, "gamma"), weight(node, "beta")
            layer.running_mean = weight(node, "moving_mean")
            layer.running_var = weight(node, "moving_variance")
            return layer
        if op == "maxpool2d":
            return nn.MaxPool2d(node["pool_size"], node["strides"])
        if op == "avgpool2d":
            return nn.AvgPool2d(node["pool_size"], node["strides"])
        if op in peer_layers.OPS:
            fields = {
                field: torch.tensor(np.asarray(network.weights[f"{node['name']}/{field}"]))
                for field in ("table",) * (op == "tokens") + graphs.WEIGHTS.get(op, ())
            }
            return peer_layers.layer(node, fields)
        simple = {"flatten": nn.Flatten, "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
        return simple[op]()

    class Module(nn.Module):
        """Runs the nodes of the graph in order."""

        def __init__(self) -> None:
            super().__init__()
            nodes = [n for n in network.graph["nodes"] if n["op"] not in ("add", "concat")]
            self.layers = nn.ModuleDict({node["name"]: layer_of(node) for node in nodes})

        def forward(self, x: Any) -> Any:
            values = {"input": x}
            for node in network.graph["nodes"]:
                inputs = [values[name] for name in node["inputs"]]
                if node["op"] == "add":
                    value = inputs[0] + inputs[1]
                elif node["op"] == "concat":
                    value = torch.cat(inputs, dim=1)
                else:
                    value = self.layers[node["name"]](inputs[0])
                values[node["name"]] = value
            return values[network.graph["output"]]

    return Module().eval().requires_grad_(False)


def bounded_module(module: Any, x: Any, eps: float, **options: Any) -> tuple[Any, Any]:
    """The peer's form of a module, and its inputs with an l-inf ball around them.

    Args:
        module: From ``torch_module``.
        x: Inputs, channels first.
        eps: The radius.
        **options: ``bound_opts`` of the peer.
    """
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm

    bounded = BoundedModule(module, x, bound_opts=options, device=x.device)
    return bounded, BoundedTensor(x, PerturbationLpNorm(norm=np.inf, eps=eps))


def prepare(case: cases.Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function of no arguments that computes the case's bounds once."""
    warnings.simplefilter("ignore")  # Deprecated calls inside the peer, one per operator.
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = torch_module(case.network).to(device)
    images = cases.inputs_of(case.network, case.batch, case.seed)
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device)

    def to_numpy(lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
        return lower.detach().cpu().numpy(), upper.detach().cpu().numpy()

    if case.method == "forward":

        def forward() -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                logits = module(x)
            return to_numpy(logits, logits)

        return forward

    options = {"iteration": case.iterations, "lr_alpha": case.learning_rate}
    bounded, perturbed = bounded_module(module, x, case.network.eps, optimize_bound_args=options)

    if case.method == "alpha-crown":
        bounded.set_bound_opts({"optimize_bound_args": {"init_alpha": False}})

        def optimise() -> tuple[np.ndarray, np.ndarray]:
            _, _, intermediate = bounded.init_alpha((perturbed,))
            return to_numpy(
                *bounded.compute_bounds(
                    x=(perturbed,), method="CROWN-Optimized", interm_bounds=intermediate
                )
            )

        return optimise

    method = cases.METHODS[case.method]

    def bound() -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            return to_numpy(*bounded.compute_bounds(x=(perturbed,), method=method))

    return bound


def device_peak_bytes() -> int | None:
    """Most memory that was in use on an accelerator since the process started, if there is one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
