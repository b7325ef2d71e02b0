"""The peer's side of the benchmark of branch and bound: auto_LiRPA on the same parts."""

from __future__ import annotations

import gzip
import warnings
from typing import Any

import numpy as np
import peer
from branching_subject import Question, timed

__all__ = ["measure"]

facts = peer.facts


def measure(question: Question) -> dict[str, Any]:
    """Seconds that CROWN bounds of the batch take, and their mean."""
    warnings.simplefilter("ignore")
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.perturbations import PerturbationLpNorm

    assert question.batch is not None
    lower, upper = (torch.tensor(question.batch[end]) for end in ("lower", "upper"))
    rows = torch.tensor(np.asarray(question.batch["rows"], "float32"))
    bounded = BoundedModule(_module(question.network), lower)
    middle = torch.clamp(0.5 * (lower + upper), lower, upper)
    box = PerturbationLpNorm(norm=np.inf, x_L=lower, x_U=upper)
    given: dict[str, Any] = {"x": (BoundedTensor(middle, box),), "C": rows, "bound_upper": False}
    if "ends" in question.batch:
        names = [relu.inputs[0].name for relu in bounded.relus]
        given["interm_bounds"] = {
            name: [torch.tensor(end) for end in pair]
            for name, pair in zip(names, question.batch["ends"], strict=True)
        }

    def crown() -> Any:
        with torch.no_grad():
            return bounded.compute_bounds(**given, method="CROWN")[0].numpy()

    seconds = timed(crown, question.repeats)
    return {"seconds": {"crown": seconds}, "means": {"crown": float(crown().min(axis=1).mean())}}


def _module(path: Any) -> Any:
    """The network of an ONNX file as a torch module; only the operators of the instances."""
    import onnx
    import torch
    from onnx import numpy_helper

    with gzip.open(path, "rb") as file:
        graph = onnx.load_model_from_string(file.read()).graph
    stored = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    first = next(given.name for given in graph.input if given.name not in stored)

    class Module(torch.nn.Module):
        """Runs the nodes of the graph in order."""

        def forward(self, x: Any) -> Any:
            values: dict[str, Any] = {**stored, first: x}
            for node in graph.node:
                inputs = [values[name] for name in node.input]
                settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                values[node.output[0]] = _run(torch, node.op_type, inputs, settings)
            return values[graph.output[0].name]

    return Module().eval()


def _run(torch: Any, kind: str, inputs: list[Any], settings: dict[str, Any]) -> Any:
    """The value of one node."""
    match kind:
        case "Add":
            return inputs[0] + inputs[1]
        case "Sub":
            return inputs[0] - inputs[1]
        case "MatMul":
            return inputs[0].matmul(inputs[1])
        case "Relu":
            return torch.relu(inputs[0])
        case "Flatten":
            return torch.flatten(inputs[0], 1)
        case "Gemm":
            weight = inputs[1] if settings.get("transB") else inputs[1].T
            return torch.nn.functional.linear(inputs[0], weight, inputs[2])
        case "Conv":
            top, left, bottom, right = settings["pads"]
            if (top, left) != (bottom, right):
                raise NotImplementedError(f"Asymmetric padding {settings['pads']}.")
            bias = inputs[2] if len(inputs) > 2 else None
            strides = settings["strides"]
            return torch.nn.functional.conv2d(inputs[0], inputs[1], bias, strides, (top, left))
    raise NotImplementedError(f"The operator {kind}.")
