"""The peer's side of the training benchmark: the same step with auto_LiRPA on PyTorch.

Intervals, or intervals and one backward pass, of the margins of all classes but the label's, by the
matrix of specifications that the peer folds into the last layer; cross-entropy of the worst-case
logits mixed half and half with that of the clean ones, backward pass and Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peer

__all__ = ["OBJECTIVES", "device_peak_bytes", "facts", "prepare"]

OBJECTIVES = {"plain": None, "ibp": "IBP", "crown-ibp": "CROWN-IBP"}
facts = peer.facts
device_peak_bytes = peer.device_peak_bytes


def _dm_small() -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 1, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 13 * 13, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


def prepare(case: Any) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that takes one step on a batch that is there already."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
    from torch.nn import functional

    if case.model != "dm_small":
        raise NotImplementedError("The peer's side has dm_small alone.")
    method = OBJECTIVES[case.objective]
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    x = torch.tensor(generator.uniform(size=(case.batch, 1, 28, 28)).astype("float32"))
    y = torch.tensor(generator.integers(0, 10, size=case.batch))
    network = _dm_small()
    with torch.no_grad():
        for layer in network:
            if hasattr(layer, "weight"):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0.0, (2 * np.pi) ** 0.5 / fan_in)
    model = network if method is None else BoundedModule(network, torch.zeros(2, 1, 28, 28))
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    eye = torch.eye(10)
    specification = eye[y][:, None] - eye[None]
    others = ~torch.eye(10, dtype=torch.bool)[y]
    specification = specification[others].reshape(case.batch, 9, 10)
    lower, upper = (x - case.eps).clamp(min=0), (x + case.eps).clamp(max=1)

    def step() -> tuple[np.ndarray, np.ndarray]:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        if method is not None:
            ball = PerturbationLpNorm(norm=np.inf, eps=case.eps, x_L=lower, x_U=upper)
            margins, _ = model.compute_bounds(
                x=(BoundedTensor(x, ball),),
                method=method,
                C=specification,
                bound_lower=True,
                bound_upper=False,
            )
            worst = torch.cat([torch.zeros(case.batch, 1), -margins], dim=1)
            target = torch.zeros(case.batch, dtype=torch.long)
            loss = 0.5 * loss + 0.5 * functional.cross_entropy(worst, target)
        loss.backward()
        optimizer.step()
        value = loss.detach().numpy()
        return value, value

    return step
