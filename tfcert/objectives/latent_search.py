"""Margins estimated by attacks inside the box that intervals give an inner value."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcert.attacks import PGD
from tfcert.bounds.method import rival_rows
from tfcert.objectives.attacking import Place
from tfcert.objectives.batch import Batch
from tfcert.regions import Box, Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.schedules import Constant, Piecewise, Schedule
from tfcert.types import Tensor

__all__ = ["LatentSearch", "linked"]

# Of boxes up to this width each end gets half of a gradient.
_NARROW = 1e-5
# From so many steps on, the last three tenths of them are a fifth as long.
_REFINED_FROM = 10


class LatentSearch:
    """For every rival class the point of a latent box that is worst for its margin.

    Args:
        region: Any region: the attack's own is replaced by the latent box.
        steps: Gradient steps of each search.
        restarts: Random starts of each.
        link: How far into the box points hand their gradient to its ends, see ``linked``.
    """

    def __init__(self, region: Region, steps: int, restarts: int, link: float):
        self.link = float(link)
        if not 0.0 < self.link <= 1.0:
            raise ValueError(f"`link` must lie in (0, 1]. Received: link={link!r}.")
        size = _step_size(steps) if isinstance(steps, int) else None
        self.pgd = PGD(region, steps, size, restarts, loss="margin", early_stop=False)

    def worst_logits(self, batch: Batch, node: Node, interval: Interval) -> Tensor:
        """``z_j - z_y`` at the point that was found for each j, ``(batch, classes)``; 0 for y.

        Gradients reach the layers behind the node, and through the ends of the box those before it.

        Args:
            batch: The batch.
            node: A node that every path to the outputs passes.
            interval: Its bounds.
        """
        classes = batch.logits.shape[-1]
        rivals = classes - 1
        rows = rival_rows(batch.y, classes, batch.logits.dtype)
        place = self._place(batch, node, interval, ops.reshape(rows, (-1, classes)))
        points = place.strongest(self.pgd)
        lower, upper = (_repeated(end, rivals) for end in interval.bounds)
        margins = -place.scores(linked(points, lower, upper, self.link))[:, 0]
        margins = ops.reshape(margins, (-1, rivals))
        # The k-th rival is class k before the label and class k + 1 from it on.
        label, y = ops.arange(classes, dtype="int32")[None], ops.cast(batch.y, "int32")[:, None]
        below, above = ops.pad(margins, ((0, 0), (0, 1))), ops.pad(margins, ((0, 0), (1, 0)))
        found = ops.where(label < y, below, above)
        return ops.where(label == y, ops.zeros_like(found), found)

    def _place(self, batch: Batch, node: Node, interval: Interval, rows: Tensor) -> Place:
        """All searches of a batch at once, each with the two scores (f_y - f_j, 0) and label 0."""
        inner = batch.at_node(node, interval)
        rivals = batch.logits.shape[-1] - 1
        limits = inner.region.inner_limits(inner.center)
        lower, upper, center = (_repeated(t, rivals) for t in (*limits, inner.center))

        def scores(values: Tensor) -> Tensor:
            margin = ops.sum(rows * inner.scores(values), axis=-1)
            return ops.stack([margin, ops.zeros_like(margin)], axis=-1)

        label = ops.zeros((ops.shape(center)[0],), dtype="int32")
        return Place(Box(lower, upper), center, label, batch.seed, scores)

    def get_config(self) -> dict[str, Any]:
        """The arguments but for the region, under the names that objectives give them."""
        return {
            "search_steps": self.pgd.steps,
            "search_restarts": self.pgd.restarts,
            "link": self.link,
        }


def linked(points: Tensor, lower: Tensor, upper: Tensor, link: float) -> Tensor:
    """The points of a box, with a gradient that reaches the ends of the box close to them.

    The upper end gets the share ``(x - (u - w)) / w`` of a point's gradient, with ``w = link (u -
    l)``, where that is above 0; the lower end likewise. A point in a corner hands all of its
    gradient to the corner. In a box without width each end gets half.

    Args:
        points: Points x between the ends, without gradients.
        lower: l, of the same shape.
        upper: u.
        link: From above 0 to 1.

    Reference: Mao et al., 2023, https://arxiv.org/abs/2305.04574, section 3.2.
    """
    width = link * (upper - lower)
    near_upper, near_lower = points - (upper - width), (lower + width) - points

    def attached(end: Tensor, inside: Tensor) -> Tensor:
        share = ops.relu(inside) / ops.maximum(width, _NARROW)
        share = ops.where(width > _NARROW, share, ops.full_like(share, 0.5))
        return ops.stop_gradient(share) * (end - ops.stop_gradient(end))

    return ops.stop_gradient(points) + attached(upper, near_upper) + attached(lower, near_lower)


def _step_size(steps: int) -> Schedule:
    """As a fraction of half of the box: wide enough that the steps cross it."""
    size = max(0.4, 4.0 / max(steps, 1))
    if steps < _REFINED_FROM:
        return Constant(size)
    return Piecewise([int(0.7 * steps)], [size, 0.2 * size])


def _repeated(values: Tensor, count: int) -> Tensor:
    """Each entry of the batch ``count`` times in a row."""
    # XLA compiles no gradient of Keras's repeat inside of a condition.
    return ops.reshape(ops.stack([values] * count, axis=1), (-1, *values.shape[1:]))
