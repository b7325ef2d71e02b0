"""Smaller leaves for parts on which the checker's own bounds are too loose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import tfcert_check
from tfcert.proofs.tree import Tree

__all__ = ["mend"]


def mend(tree: Tree, cases: Sequence[tfcert_check.Case], weak: Sequence[tuple[int, int]]) -> bool:
    """Cuts leaves in halves and closes the halves by the same rows.

    Args:
        tree: The tree.
        cases: The cases of the property.
        weak: Which case is not refuted on which leaf.

    Returns:
        Whether all of these leaves could be cut; if not, nothing is changed. Only boxes are cut:
        slopes and multipliers would have to be found anew.
    """
    cuts = [_Cut.of(tree, case, cases[case], node) for case, node in weak]
    if not all(cuts):
        return False
    for (case, node), cut in zip(weak, cuts, strict=True):
        assert cut is not None
        closing = tree.closings[node].pop(case)
        if not tree.is_split(node):  # Another case may have cut it already.
            tree.split_input(node, cut.axis, cut.point)
        first = tree.child[node]
        tree.close([first, first + 1], [closing.row] * 2, case=case)
    return True


class _Cut:
    """Where a box is cut: across its longest edge, as a share of that of the whole box."""

    def __init__(self, axis: int, point: float):
        self.axis, self.point = axis, point

    @classmethod
    def of(cls, tree: Tree, case: int, whole: tfcert_check.Case, node: int) -> _Cut | None:
        """The cut of a leaf; None where it is no box of its own, or has no middle."""
        closing = tree.closings[node][case]
        box = tree.box(node, whole.lower, whole.upper)
        if box is None or closing.slopes >= 0 or closing.multipliers:
            return None
        lower, upper = box
        middle: npt.NDArray[Any] = lower + (upper - lower) / 2
        width = np.where(whole.upper > whole.lower, whole.upper - whole.lower, 1.0)
        share = np.where((lower < middle) & (middle < upper), (upper - lower) / width, 0.0)
        axis = int(share.argmax())
        return cls(axis, float(middle[axis])) if share[axis] > 0 else None
