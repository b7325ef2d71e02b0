"""The peer's side of the benchmark of margins."""

from __future__ import annotations

import time
import warnings
from typing import Any

import cases
import peer
from sequences_subject import Question

__all__ = ["measure"]


def measure(question: Question) -> list[dict[str, Any]]:
    """By radius: the least margin of each input by method and its seconds, or why there is none."""
    warnings.simplefilter("ignore")
    import torch

    dtype = getattr(torch, question.dtype)
    torch.set_default_dtype(dtype)
    module = peer.torch_module(question.network).to(dtype)
    images = torch.tensor(question.network.inputs[: question.inputs]).to(dtype)
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
        row: dict[str, Any] = {}
        for method in question.methods:
            begin = time.process_time()
            try:
                with torch.no_grad():
                    lower, _ = bounded.compute_bounds(
                        x=(perturbed,), C=rows, method=cases.METHODS[method], bound_upper=False
                    )
            except AssertionError as reason:  # "Only positive values ...": it gives no bound here.
                row[f"{method} failure"] = str(reason)
                continue
            row[method] = lower.min(dim=1).values.tolist()
            row[f"{method} cpu"] = [time.process_time() - begin]
        found.append(row)
    return found
