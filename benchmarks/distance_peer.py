"""The peer's side of the benchmark of distances: ``torch.cdist``, with autograd."""

from __future__ import annotations

from collections.abc import Callable

import distance_subject
import numpy as np

__all__ = ["device_peak_bytes", "facts", "prepare"]

device_peak_bytes = distance_subject.device_peak_bytes


def facts() -> dict[str, str]:
    """What a reader needs to know of this side."""
    import torch

    return {"torch": torch.__version__}


def prepare(case: distance_subject.Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Distances of the rows of x from the columns of w."""
    import torch

    x, w, g = map(torch.tensor, distance_subject.arrays(case))
    rows = w.T.contiguous()

    def call() -> tuple[np.ndarray, np.ndarray]:
        if not case.backward:
            with torch.no_grad():
                return torch.cdist(x, rows, p=case.p).numpy(), np.zeros(())
        inputs, weights = x.clone().requires_grad_(), rows.clone().requires_grad_()
        torch.cdist(inputs, weights, p=case.p).backward(g)
        return inputs.grad.numpy(), np.zeros(())

    return call
