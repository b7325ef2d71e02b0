"""What stands for a region where one is asked for."""

from __future__ import annotations

import numbers
from typing import Any

from tfcert.regions.region import Region

__all__ = ["check_region"]


def check_region(region: Any) -> None:
    """Raises unless the argument is a region; says how to write one where it is a number."""
    if isinstance(region, Region):
        return
    hint = f" Did you mean tfcert.LpBall({region})?" if isinstance(region, numbers.Real) else ""
    raise ValueError(
        f"`region` must be a tfcert.LpBall or tfcert.Box. Received: region={region!r}.{hint}"
    )
