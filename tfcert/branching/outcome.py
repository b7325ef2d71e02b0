"""The outcome of a verification."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Counterexample", "Outcome", "Reason", "within_rounding"]


class Reason(NamedTuple):
    """Why a verdict is unknown.

    Attributes:
        kind: "time" or "memory": this limit was reached; "rounding": what is open cannot be split
            any further; "splitting": there is no way to split this problem.
        text: The same with figures, and what to try.
    """

    kind: Literal["time", "memory", "rounding", "splitting"]
    text: str


def within_rounding(count: int) -> Reason:
    """The reason where parts are as small as numbers allow."""
    text = f"{count} parts cannot be split any further, and are not decided up to rounding."
    return Reason("rounding", f"{text} Try the network as float64.")


@dataclasses.dataclass(frozen=True, repr=False)
class Counterexample:
    """An input that breaks a property.

    Attributes:
        point: The input, in the shape of the model's inputs without a batch axis, float64; several
            inputs in their structure. It lies in the region; the model is given the nearest numbers
            of its own type.
        outputs: The model's outputs at the point, as executed. For a property of the outputs'
            order, the scores before a final softmax, or 0 and z for a single output z.
        exact: The outputs of the same network in float64; None if float64 is not available.
    """

    point: npt.NDArray[np.float64]
    outputs: npt.NDArray[Any]
    exact: npt.NDArray[np.float64] | None

    def __repr__(self) -> str:
        outputs = np.array2string(np.asarray(self.outputs), precision=4, threshold=10)
        return f"<Counterexample with outputs {outputs}>"

    def with_point(self, change: Callable[[Any], Any]) -> Counterexample:
        """Returns the counterexample with another form of the point."""
        return dataclasses.replace(self, point=change(self.point))


@dataclasses.dataclass(frozen=True, repr=False)
class Outcome:
    """Result of a search: the verdict on a property.

    Attributes:
        verdict: "holds": the property holds for all inputs of the region. "violated":
            ``counterexample`` breaks the property. "unknown": the search found neither a proof nor
            a counterexample, see ``reason``.
        counterexample: An input that breaks the property, in the model's input shape, or None.
        bound: A lower bound of the property's value on the whole region. If all margins must be
            positive, the value is the least margin. The bound is above 0 if the property holds. For
            a counterexample, it is the model's value there.
        domains: The number of bounded parts of the region.
        seconds: The time of the search.
        method: The step that decided: "attack", or the name of a method or of a way of splitting.
        reason: The reason for an unknown verdict, and what to try; otherwise empty.
        limit: The reason for an unknown verdict in one word: "time", "memory", "rounding" or
            "splitting"; otherwise empty.
        first_bound: Seconds until the first bound; None if an attack decided first.
        found: The counterexample with the outputs there.
        notes: Texts about points that break the property in float32 or float64 only, and about a
            certificate that could not be written.
        certificate: The file of the proof, or None.
    """

    verdict: Literal["holds", "violated", "unknown"]
    bound: float
    domains: int
    seconds: float
    method: str
    reason: str = ""
    limit: str = ""
    first_bound: float | None = None
    found: Counterexample | None = None
    notes: tuple[str, ...] = ()
    certificate: pathlib.Path | None = None

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        by = f" by {self.method}" if self.method else ""
        return f"<Outcome {self.verdict}{by}: bound {self.bound:.6g}, {self.seconds:.2f} s>"

    @property
    def counterexample(self) -> npt.NDArray[np.float64] | None:
        """The input that breaks the property."""
        return None if self.found is None else self.found.point

    def with_points(self, change: Callable[[Any], Any]) -> Outcome:
        """Returns the outcome with another form of the counterexample's point."""
        if self.found is None:
            return self
        return dataclasses.replace(self, found=self.found.with_point(change))

    def summary(self) -> str:
        """Returns the outcome as text."""
        lines = [
            f"{self.verdict}, by {self.method}" if self.method else self.verdict,
            f"  bound {self.bound:.6g}, {self.domains} domains, {self.seconds:.2f} s",
        ]
        if self.first_bound is not None:
            lines.append(f"  first bound after {self.first_bound:.2f} s")
        if self.found is not None:
            lines.append(f"  {self.found!r}")
        return "\n".join([*lines, *([f"  {self.reason}"] if self.reason else []), *self.notes])
