"""What a verification ends with."""

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
        outputs: What the model returns for it, as executed; for a property of the outputs' order
            the scores before a final softmax, or 0 and z for a single output z.
        exact: What the same network returns in float64; None where there is no float64.
    """

    point: npt.NDArray[np.float64]
    outputs: npt.NDArray[Any]
    exact: npt.NDArray[np.float64] | None

    def __repr__(self) -> str:
        outputs = np.array2string(np.asarray(self.outputs), precision=4, threshold=10)
        return f"<Counterexample with outputs {outputs}>"

    def with_point(self, change: Callable[[Any], Any]) -> Counterexample:
        """The same with another form of the point."""
        return dataclasses.replace(self, point=change(self.point))


@dataclasses.dataclass(frozen=True, repr=False)
class Outcome:
    """What is known of a property in the end.

    Attributes:
        verdict: "holds": for all inputs of the region. "violated": ``counterexample`` breaks the
            property. "unknown": neither was found, see ``reason``.
        counterexample: An input that breaks the property, of the model's input shape; None without.
        bound: A lower bound of the property's value on the whole region: of the least margin where
            all margins must be positive. Above 0 where the property holds; at a counterexample the
            value that the model has there.
        domains: How many parts of the region were bounded.
        seconds: Time that it took.
        method: What decided: "attack", the name of a method, or of a way of splitting.
        reason: Why the verdict is unknown, and what to try; empty otherwise.
        limit: Why the verdict is unknown, in one word: "time", "memory", "rounding" or
            "splitting"; empty otherwise.
        first_bound: Seconds until the first bound was known; None where an attack came first.
        found: The counterexample with the outputs there.
        notes: Points that break the property in one arithmetic only, and why a certificate that was
            asked for was not written, as text.
        certificate: The file of the proof; None where none was written.
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
        """The same with another form of the counterexample's point."""
        if self.found is None:
            return self
        return dataclasses.replace(self, found=self.found.with_point(change))

    def summary(self) -> str:
        """The outcome as text."""
        lines = [
            f"{self.verdict}, by {self.method}" if self.method else self.verdict,
            f"  bound {self.bound:.6g}, {self.domains} domains, {self.seconds:.2f} s",
        ]
        if self.first_bound is not None:
            lines.append(f"  first bound after {self.first_bound:.2f} s")
        if self.found is not None:
            lines.append(f"  {self.found!r}")
        return "\n".join([*lines, *([f"  {self.reason}"] if self.reason else []), *self.notes])
