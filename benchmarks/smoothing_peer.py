"""The peer's side of the smoothing benchmark: the procedure of Cohen et al., 2019, on PyTorch.

Copies of one input in batches, normal noise on them, the network, and a count of its answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Case", "device_peak_bytes", "facts", "prepare"]


@dataclasses.dataclass(frozen=True)
class Case:
    """How many noisy samples of one input pass which network, by how many at a time."""

    network: str
    samples: int
    batch: int
    sigma: float


def facts() -> dict[str, str]:
    """What a reader needs to know of this side."""
    import torch

    return {"torch": torch.__version__}


def device_peak_bytes() -> int | None:
    """Not known of a CPU."""
    return None


def _lenet() -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    layers = [
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    ]
    return nn.Sequential(*layers), (1, 28, 28)


def _resnet(depth: int) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    def convolution(inputs: int, outputs: int, stride: int, size: int) -> Any:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.first = convolution(inputs, outputs, stride, 3)
            self.second = convolution(outputs, outputs, 1, 3)
            self.shortcut = convolution(inputs, outputs, stride, 1) if stride > 1 else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = self.second(nn.functional.relu(self.first(x)))
            return nn.functional.relu(y + self.shortcut(x))

    layers = [convolution(3, 16, 1, 3), nn.ReLU()]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        layers += [Block(inputs, outputs, outputs // inputs)]
        layers += [Block(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers), (3, 32, 32)


_BUILDERS: dict[str, Callable[[], tuple[Any, tuple[int, ...]]]] = {
    "lenet": _lenet,
    "resnet20": lambda: _resnet(20),
    "resnet110": lambda: _resnet(110),
}


def prepare(case: Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that puts the samples through the network and counts the answers."""
    import torch

    network, shape = _BUILDERS[case.network]()
    network.eval()
    x = torch.rand(1, *shape)

    def call() -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros(10, int)
        with torch.no_grad():
            for start in range(0, case.samples, case.batch):
                batch = x.repeat((min(case.batch, case.samples - start), 1, 1, 1))
                answers = network(batch + torch.randn_like(batch) * case.sigma).argmax(1)
                counts += np.bincount(answers.numpy(), minlength=10)
        return counts, counts

    return call
