"""Parts of a region: a small box around a point of it, cut down or moved to what lies inside."""

from __future__ import annotations

import math

from keras import ops

from tfcert.regions import Box, Region
from tfcert.types import Tensor

__all__ = ["attached", "box_inside", "part_of_region"]


def attached(points: Tensor, x: Tensor) -> Tensor:
    """Points without a gradient of their own, which move with what layers made of fixed inputs.

    Inputs are data, and have no gradient. Where some of them are categories, a part of x is what an
    ``Embedding`` gave, and no attack moves that part: through it the layer is trained.
    """
    x = ops.cast(x, points.dtype)
    return ops.stop_gradient(points) + (x - ops.stop_gradient(x))


def part_of_region(
    whole: Region, x: Tensor, region: Region, around: Tensor
) -> tuple[Region, Tensor]:
    """Returns the intersection of a region around some points and a region around the inputs.

    Args:
        whole: A region that is a box (norm inf).
        x: The inputs that it is put around.
        region: Another such region.
        around: Points that this one is put around; those outside of the whole region are moved to
            its border first.

    Returns:
        The common box and points inside of it, which it is put around, as ``attached``.
    """
    for one in (whole, region):
        if one.norm != math.inf:
            raise ValueError(
                f"`around` and `region` need boxes, norm inf. Received: region={one!r}."
            )
    limits = whole.bind(x)
    points = ops.clip(ops.cast(around, limits.lower.dtype), limits.lower, limits.upper)
    points = attached(points, x)
    small = region.bind(points)
    lower = ops.maximum(limits.lower, small.lower)
    upper = ops.minimum(limits.upper, small.upper)
    return Box(lower, upper), points


def box_inside(whole: Region, x: Tensor, around: Tensor, ratio: float) -> tuple[Box, Tensor]:
    """A box of a fraction of a region's width around points, moved to where it lies inside.

    The width is that of the clipped region, coordinate by coordinate, so that a ratio of 1 gives
    the region itself.

    Args:
        whole: A region that is a box (norm inf).
        x: The inputs that it is put around.
        around: Points that the small box has in its middle, or as close as the region allows.
        ratio: The fraction, from 0 to 1.

    Returns:
        The box and its middle, as ``attached``.
    """
    limits = whole.bind(x)
    points = attached(ops.cast(around, limits.lower.dtype), x)
    half = 0.5 * ratio * (limits.upper - limits.lower)
    # Of both ends one is where it is by definition: rounding leaves none outside of the region.
    lower = ops.clip(points - half, limits.lower, limits.upper - 2.0 * half)
    lower = ops.maximum(lower, limits.lower)
    upper = ops.minimum(lower + 2.0 * half, limits.upper)
    return Box(lower, upper), ops.clip(0.5 * (lower + upper), lower, upper)
