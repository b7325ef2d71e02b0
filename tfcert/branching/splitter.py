"""The interface of splitters, which split a problem into parts and bound the parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import numpy.typing as npt

from tfcert.branching.outcome import Reason
from tfcert.properties.questions import Problem

__all__ = ["Bounded", "Domains", "Problem", "Splitter"]


@dataclasses.dataclass
class Domains:
    """A batch of parts of problems. All arrays have one entry a domain.

    Attributes:
        owner: ``(n,)``: of which problem the domain is a part, its place in the list.
        bound: ``(n,)``: a lower bound of the question's value on the domain; -inf: none yet.
        depth: ``(n,)``: how many splits lead to the domain.
        state: What the splitter keeps of each domain: nested lists, tuples and dictionaries of
            arrays. The search looks at no entry.
    """

    owner: npt.NDArray[np.int32]
    bound: npt.NDArray[np.float64]
    depth: npt.NDArray[np.int32]
    state: Any

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: npt.NDArray[Any]) -> Domains:
        """Some of the domains, by their places or by a mask."""
        return self._made(lambda array: array[which])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in keras.tree.flatten(self._fields()))

    @classmethod
    def joined(cls, parts: Sequence[Domains]) -> Domains:
        """Several batches as one; all have states of one structure."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            *keras.tree.map_structure(
                lambda *arrays: np.concatenate(arrays), *(part._fields() for part in parts)
            )
        )

    def _fields(self) -> tuple[Any, ...]:
        return self.owner, self.bound, self.depth, self.state

    def _made(self, change: Any) -> Domains:
        return Domains(*keras.tree.map_structure(change, self._fields()))


class Bounded(NamedTuple):
    """The results of bounding some domains.

    Attributes:
        domains: The same domains in the same order, with a state to go on from. The search fills
            in ``bound``.
        lower: ``(n, rows)``, float64: lower bounds of the margins of the owner's question on the
            domain, the offsets included; rows behind its last one are ignored. All of them are inf
            where the domain was found to be empty.
        points: ``(n, *input_shape)``: inputs of the problem's box that may be counterexamples, one
            a domain, such as where the relaxed problem has its minimum; None where there are none.
    """

    domains: Domains
    lower: npt.NDArray[np.float64]
    points: npt.NDArray[Any] | None


class Splitter(Protocol):
    """A way to split problems, made for one network, one list of problems and one method.

    The search calls ``start`` once. Then it takes the domains with the least bounds from its
    queue, splits them, and bounds the children, ``batch`` of them at most in a call. Domains whose
    owner's question is proved by ``lower`` are done.

    All calls are deterministic: the same calls in the same order return the same.

    Attributes:
        name: Such as "boxes"; for messages and logs.
        batch: The most domains that ``bound`` takes in one call.
    """

    name: str
    batch: int

    def start(self) -> Domains:
        """Domains that together cover every problem, not bounded yet; usually one a problem."""
        ...

    def can_split(self, domains: Domains) -> npt.NDArray[np.bool_]:
        """Returns whether ``split`` can make each domain smaller, ``(n,)``."""
        ...

    def split(self, domains: Domains) -> Domains:
        """Children that together cover each domain, with the owner, bound and depth + 1.

        A child starts with the bound of its parent, which holds for the child, too.
        """
        ...

    def bound(self, domains: Domains) -> Bounded:
        """Bounds some domains, at most ``batch``; no looser than they were bounded before."""
        ...

    def settle(self, domains: Domains, deadline: float) -> Bounded:
        """The last word on domains that cannot be split, such as by a linear program.

        What it does not prove, and where none of its points is a counterexample, makes the verdict
        unknown.

        Args:
            domains: Some domains, any number of them.
            deadline: When to stop, by ``time.monotonic()``; what is not reached keeps its bound.
        """
        ...

    def open_reason(self, count: int) -> Reason:
        """Why ``settle`` may leave so many domains open, and what to try."""
        ...
