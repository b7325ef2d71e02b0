"""The peer's side of the benchmark of margins."""

from __future__ import annotations

import time
import warnings

import cases
import peer
from sequences_subject import Question

__all__ = ["measure"]


def measure(question: Question) -> list[dict[str, list[float]]]:
    """By radius: the least margin of every input by method, with processor seconds."""
    warnings.simplefilter("ignore")
    import torch

    module = peer.torch_module(question.network)
    images = torch.tensor(question.network.inputs[: question.inputs])
    x = images.permute(0, 3, 1, 2).contiguous()
    scores = module(x)
    classes = scores.shape[1]
    y = scores.argmax(dim=1)
    # Rows of the label minus each other class; that of the label itself is left out.
    hot = torch.eye(classes)
    rows = hot[y].unsqueeze(1) - hot.unsqueeze(0)
    rows = rows[torch.arange(classes) != y[:, None]].reshape(len(x), classes - 1, classes)
    found = []
    for eps in question.radii:
        bounded, perturbed = peer.bounded_module(module, x, eps)
        row: dict[str, list[float]] = {}
        for method in question.methods:
            begin = time.process_time()
            with torch.no_grad():
                lower, _ = bounded.compute_bounds(
                    x=(perturbed,), C=rows, method=cases.METHODS[method], bound_upper=False
                )
            row[method] = lower.min(dim=1).values.tolist()
            row[f"{method} cpu"] = [time.process_time() - begin]
        found.append(row)
    return found
