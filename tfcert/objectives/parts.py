"""Parts of a region: a small box around a point of it, cut down to what lies inside."""

from __future__ import annotations

import math

from keras import ops

from tfcert.regions import Box, Region
from tfcert.types import Tensor

__all__ = ["part_of_region"]


def part_of_region(
    whole: Region, x: Tensor, region: Region, around: Tensor
) -> tuple[Region, Tensor]:
    """What a region around some points and a region around the inputs have in common.

    Args:
        whole: A region that is a box (norm inf).
        x: The inputs that it is put around.
        region: Another such region.
        around: Points that this one is put around; those outside of the whole region are moved to
            its border first.

    Returns:
        The common box and points inside of it, which it is put around. No gradient flows to the
        points.
    """
    for one in (whole, region):
        if one.norm != math.inf:
            raise ValueError(
                f"A part of a region can be bounded for boxes, norm inf. Received: region={one!r}."
            )
    limits = whole.bind(x)
    points = ops.stop_gradient(ops.cast(around, limits.lower.dtype))
    points = ops.clip(points, limits.lower, limits.upper)
    small = region.bind(points)
    lower = ops.maximum(limits.lower, small.lower)
    upper = ops.minimum(limits.upper, small.upper)
    return Box(lower, upper), points
