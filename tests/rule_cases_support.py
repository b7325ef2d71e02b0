"""What a case of the rules' tests is, and tables of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ALONE, CHAIN, MAP = "alone", "chain", "map"


class Case(NamedTuple):
    """One way to use what is under test.

    Attributes:
        apply: Continues a KerasTensor of ``shape``; returns a KerasTensor or a structure of them.
        shape: Shape of the value, without the batch axis.
        places: Where it is put.
        affine: Whether it is affine, so that bounds must be exact.
        radius: Size of the region around the input in the place "alone".
        coarse: Whether TensorFlow rounds to float32 inside, whatever the model's type.
    """

    apply: Callable[[Any], Any]
    shape: tuple[int, ...]
    places: tuple[str, ...] = (ALONE, CHAIN)
    affine: bool = False
    radius: float = 0.7
    coarse: bool = False


class Cases(dict[str, Case]):
    """Cases by name."""

    def put(self, name: str, case: Case) -> None:
        if name in self:
            raise ValueError(f"Two cases are called {name!r}.")
        self[name] = case

    def add(
        self, name: str, apply: Callable[[Any], Any], shape: Sequence[int], **options: Any
    ) -> None:
        self.put(name, Case(apply, tuple(shape), **options))

    def layer(
        self, name: str, make: Callable[[], Any], shape: Sequence[int], **options: Any
    ) -> None:
        """A case of one layer, made anew for every model."""
        self.add(name, lambda x: make()(x), shape, **options)
