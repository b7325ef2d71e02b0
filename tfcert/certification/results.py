"""The result of ``certify``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcert import logs
from tfcert.certification import showing

__all__ = ["Certificates"]

# The verdict on an input that is wrong itself.
_AT_X = "misclassified"


@dataclasses.dataclass(frozen=True, repr=False)
class Certificates:
    """Verdicts on all inputs, in the order of the inputs.

    Attributes:
        verdict: "verified": the model classifies the input right, and a bound proves that no point
            of the region changes the class. "falsified": the model misclassifies a point of the
            region, see ``counterexamples``. "misclassified": the model misclassifies the input
            itself, or the input itself breaks the property. "unknown": neither a proof nor a
            counterexample was found.
        margin: For verified inputs, the least lower bound of the right score minus another one,
            above 0. For unknown inputs, the best such bound, or -inf if there is none. For
            falsified and misclassified inputs, the model's margin at the counterexample or at the
            input. float64.
        method: The method behind the margin, such as "crown", or "pgd" for an attack; "none" if
            there is none.
        seconds: Time spent on the input, as an equal share of each batch.
        predict: The model's class.
        label: The right class; -1 for properties that name none.
        index: The number of each input in its data set, as in the log.
        counterexamples: The counterexamples, by position in these arrays.
        radius: The largest eps at which the input was verified, or 0. None without ``max_eps``.
        checked: The number of certificates that the self-check attacked.
        rounding: The certificates that the self-check broke in float32, but not in float64.
    """

    verdict: np.ndarray
    margin: np.ndarray
    method: np.ndarray
    seconds: np.ndarray
    predict: np.ndarray
    label: np.ndarray
    index: np.ndarray
    counterexamples: dict[int, np.ndarray]
    radius: np.ndarray | None
    checked: int
    rounding: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """The share of inputs that the model classifies right.

        For a property without labels, the share of inputs at which the property holds.
        """
        return self._share(self._right)

    @property
    def verified_accuracy(self) -> float:
        """The share of verified inputs, a lower limit of the accuracy under any attack."""
        return self._share(self.verdict == "verified")

    @property
    def attacked_accuracy(self) -> float:
        """The share of verified and unknown inputs, on which the attacks failed."""
        return self._share(np.isin(self.verdict, ("verified", "unknown")))

    def per_class(self) -> list[dict[str, Any]]:
        """Returns the counts of each label, as a list of dictionaries.

        A dictionary has the label, the number of inputs, the number of inputs classified right, one
        count per verdict, and, with ``max_eps``, the mean largest eps.
        """
        rows = []
        for label in np.unique(self.label):
            mine = self.label == label
            row: dict[str, Any] = {"label": int(label), "inputs": int(mine.sum())}
            row["right"] = int(self._right[mine].sum())
            row |= {name: int((self.verdict[mine] == name).sum()) for name in logs.VERDICTS}
            if self.radius is not None:
                row["mean_radius"] = float(self.radius[mine].mean())
            rows.append(row)
        return rows

    def summary(self) -> str:
        """Returns the verdicts as text: counts, methods and times."""
        named = f", accuracy {self.accuracy:.2%}" if self._labelled else ""
        lines = [f"{len(self)} inputs{named}"]
        for name, mine in self.shown().items():
            how = ", ".join(self._means(mine)) if name in ("verified", "falsified") else ""
            by = f"  by {how}" if how else ""
            lines.append(f"  {name:<14}{int(mine.sum()):>7}  {self._share(mine):>8.2%}{by}")
        if self.radius is not None:
            lines.append(f"  mean largest eps {self.radius.mean():.6g}")
        total, most = float(self.seconds.sum()), float(self.seconds.max(initial=0.0))
        lines.append(f"  {total:.1f} s, at most {most:.2f} s for an input")
        checked = f"  self-check: {self.checked} claims attacked, none broken"
        if self.rounding:
            numbers = ", ".join(str(known["idx"]) for known in self.rounding)
            checked = (
                f"  self-check: {self.checked} claims attacked; broken in float32, though not in "
                f"float64: inputs {numbers}. Use float_safe."
            )
        return "\n".join([*lines, checked] if self.checked else lines)

    def shown(self) -> dict[str, np.ndarray]:
        """Returns which inputs each line of the summary counts, by the name of the line.

        Without labels no input is misclassified: an input that breaks the property itself counts as
        falsified.
        """
        found = {name: self.verdict == name for name in logs.VERDICTS}
        if not self._labelled:
            found["falsified"] = found["falsified"] | found.pop(_AT_X)
        return found

    def _means(self, which: np.ndarray) -> list[str]:
        """The methods behind the verdicts of some inputs, the most frequent first."""
        methods = np.where(self.verdict == _AT_X, "the input itself", self.method.astype(str))
        mine = methods[which]
        return [f"{name} {int((mine == name).sum())}" for name in _by_count(mine)]

    def to_frame(self) -> Any:
        """A row for each input, as a ``pandas.DataFrame``; its index is the input's number.

        Raises:
            ImportError: pandas is not installed.
        """
        return showing.frame(self)

    def plot(self, axes: Any = None) -> Any:
        """Draws the verdicts as bars, and with radii the verified share at each eps.

        Args:
            axes: The matplotlib axes to draw on. None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return showing.plot(self, axes)

    def __len__(self) -> int:
        return len(self.verdict)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        counts = ", ".join(f"{mine.sum()} {name}" for name, mine in self.shown().items())
        return f"<{type(self).__name__} of {len(self)} inputs: {counts}>"

    def counts(self) -> dict[str, int]:
        """The number of inputs for each verdict."""
        return {name: int((self.verdict == name).sum()) for name in logs.VERDICTS}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return showing.as_html(self)

    @property
    def _labelled(self) -> bool:
        """Whether the property of the inputs names classes."""
        return not len(self.label) or bool((self.label >= 0).any())

    @property
    def _right(self) -> np.ndarray:
        """Which inputs are right themselves."""
        return self.predict == self.label if self._labelled else self.verdict != _AT_X

    def _share(self, which: np.ndarray) -> float:
        return float(np.mean(which)) if len(which) else 0.0


def _by_count(names: np.ndarray) -> list[str]:
    kinds, counts = np.unique(names.astype(str), return_counts=True)
    return [str(kinds[i]) for i in np.argsort(-counts, kind="stable")]
