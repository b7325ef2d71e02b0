"""Facts about hidden values that are known before a method runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tfcert.types import Bounds, Tensor

__all__ = ["Known"]


@dataclasses.dataclass(frozen=True)
class Known:
    """Facts about the nodes of a network, by their places in ``network.nodes``.

    Places are plain numbers, so that the tensors can be arguments of a compiled program and what
    one program finds can be given to another.

    Attributes:
        intervals: Bounds that hold already, as those of the whole region hold for a part of it:
            each of the shape of the node with a batch axis.
        signs: Of the values that elementwise functions read: 1 where only values >= 0 are asked
            about, -1 where only values <= 0, 0 where both. The region then stands for its part
            with these signs, which may be empty (``Evaluation.empty``). As long as the batch.
        points: What the signs compare values with in place of 0, in the shape of the signs.
        starts: Nodes at which the network is taken to start: of their values nothing but the known
            interval is used, and sweeps end there. Every path from the input to an output has to
            pass one of them, or the input.
        settled: Whether nodes with a known interval keep it, without sweeps to tighten it. The
            intervals then have to be those of the very region, where interval arithmetic gives the
            range of a node: they are taken as they are there.
    """

    intervals: Mapping[int, Bounds] = dataclasses.field(default_factory=dict)
    signs: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    points: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    starts: frozenset[int] = frozenset()
    settled: bool = False

    def __post_init__(self) -> None:
        if set(self.points) - set(self.signs):
            raise ValueError(
                "`points` must be of nodes with signs. "
                f"Received: points of {sorted(self.points)}, signs of {sorted(self.signs)}."
            )
        unknown = self.starts - set(self.intervals)
        if unknown:
            raise ValueError(
                "`starts` must be nodes with a known interval. "
                f"Received: starts={sorted(self.starts)} without intervals of {sorted(unknown)}."
            )
