"""The peer's side of the training benchmark: the same step with auto_LiRPA on PyTorch.

Intervals, or intervals and one backward pass, of the margins of all classes but the label's, by the
matrix of specifications that the peer folds into the last layer; cross-entropy of the worst-case
logits mixed half and half with that of the clean ones, backward pass and Adam. The losses between
an attack and intervals take eight signed gradient steps of the plain torch module, and have no
clean pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peer

__all__ = ["OBJECTIVES", "device_peak_bytes", "facts", "prepare"]

# The bounds of each objective.
OBJECTIVES = {
    "plain": None,
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    **dict.fromkeys(("sabr", "mtl-ibp", "cc-ibp", "exp-ibp"), "IBP"),
}
# tfcert's defaults: steps of the attack, width of SABR's box, share of the loss of intervals.
_STEPS, _RATIO, _ALPHA = 8, 0.4, 0.5
facts = peer.facts
device_peak_bytes = peer.device_peak_bytes


def _dm_small() -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 1, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 13 * 13, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


def _attacked(network: Any, x: Any, y: Any, lower: Any, upper: Any, eps: float) -> Any:
    """The end of projected gradient ascent from a random start; no gradients of weights."""
    import torch
    from torch.nn import functional

    points = lower + (upper - lower) * torch.rand_like(x)
    for _ in range(_STEPS):
        points.requires_grad_(True)
        loss = functional.cross_entropy(network(points), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        points = points.detach() + 0.25 * eps * gradient.sign()
        points = torch.minimum(torch.maximum(points, lower), upper)
    return points


def _small_box(points: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
    """SABR's box around points, moved inside the region."""
    import torch

    width = _RATIO * (upper - lower)
    low = torch.minimum(torch.maximum(points - width / 2, lower), upper - width)
    return low, low + width


def _between(objective: str, worst: Any, scores: Any, y: Any) -> Any:
    """A loss between that of worst-case logits, whose label is 0, and that of an attack."""
    from torch.nn import functional

    first = worst.new_zeros(len(worst), dtype=y.dtype)
    own = scores.gather(1, y[:, None])
    if objective == "cc-ibp":
        others = ~functional.one_hot(y, scores.shape[1]).bool()
        rest = (scores - own)[others].reshape(len(worst), -1)
        found = functional.pad(rest, (1, 0))  # The label in front, as in `worst`.
        return functional.cross_entropy(_ALPHA * worst + (1 - _ALPHA) * found, first)
    losses = functional.cross_entropy(worst, first), functional.cross_entropy(scores, y)
    if objective == "mtl-ibp":
        return _ALPHA * losses[0] + (1 - _ALPHA) * losses[1]
    return losses[0] ** _ALPHA * losses[1] ** (1 - _ALPHA)


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

    def worst_case(low: Any, high: Any) -> Any:
        """Worst-case logits over a box; the label's comes first."""
        ball = PerturbationLpNorm(norm=np.inf, eps=case.eps, x_L=low, x_U=high)
        middle = x if low is lower else (low + high) / 2
        margins, _ = model.compute_bounds(
            x=(BoundedTensor(middle, ball),),
            method=method,
            C=specification,
            bound_lower=True,
            bound_upper=False,
        )
        return torch.cat([torch.zeros(case.batch, 1), -margins], dim=1)

    first = torch.zeros(case.batch, dtype=torch.long)

    def loss_of() -> Any:
        if method is None:
            return functional.cross_entropy(model(x), y)
        if case.objective in ("ibp", "crown-ibp"):
            natural = functional.cross_entropy(model(x), y)
            return 0.5 * natural + 0.5 * functional.cross_entropy(worst_case(lower, upper), first)
        points = _attacked(network, x, y, lower, upper, case.eps)
        if case.objective == "sabr":
            box = _small_box(points, lower, upper)
            return functional.cross_entropy(worst_case(*box), first)
        return _between(case.objective, worst_case(lower, upper), network(points), y)

    def step() -> tuple[np.ndarray, np.ndarray]:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        value = loss.detach().numpy()
        return value, value

    return step
