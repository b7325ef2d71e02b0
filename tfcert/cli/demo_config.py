"""The settings of the demo."""

from __future__ import annotations

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of the demo, with sizes of changes on the pixel scale 0 to 1."""

    seed: int = 0
    eps: tuple[float, ...] = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
    train_eps: float = 0.1
    epochs: int = 20
    examples: int = 360

    def __post_init__(self) -> None:
        if not self.eps or not all(0 < eps <= 1 for eps in self.eps):
            raise ValueError(f"`eps` must be numbers in (0, 1]. Received: eps={self.eps}.")
        if not 0 < self.train_eps <= 1:
            raise ValueError(
                f"`train_eps` must be a number in (0, 1]. Received: train_eps={self.train_eps}."
            )
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received: epochs={self.epochs}.")
        if not 1 <= self.examples <= 360:
            raise ValueError(f"`examples` must be 1 to 360. Received: examples={self.examples}.")

    @property
    def sizes(self) -> list[float]:
        """All sizes that the networks are certified at, from small to large."""
        return sorted({*self.eps, self.train_eps})
