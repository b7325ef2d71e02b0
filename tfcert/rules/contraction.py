"""Sums of products of two bounded values: matrix products, and einsum in general."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import product_ends, total
from tfcert.rules.primitives import Nonlinear
from tfcert.rules.rows import Frame, Rows, SampleTable
from tfcert.types import Tensor

__all__ = ["Contraction", "Equation"]

# The letters of samples (or groups) and of rows; those of an equation come after them.
_GROUP, _ROW = "a", "b"


class Equation(NamedTuple):
    """The letters of an einsum of two values, without those of the batch axis."""

    first: str
    second: str
    output: str

    @classmethod
    def parse(cls, subscripts: str, first: int, second: int) -> Equation:
        """Reads the subscripts of an einsum.

        Args:
            subscripts: As for ``keras.ops.einsum``, with the batch axis first everywhere.
            first: Number of axes of the first value, with the batch axis.
            second: That of the second value.
        """
        inputs, arrow, output = subscripts.replace(" ", "").partition("->")
        terms = inputs.split(",")
        if not arrow or len(terms) != 2:
            raise NotImplementedError(f"einsum {subscripts!r} has a rule with an explicit output.")
        terms = [_spelled(term, rank) for term, rank in zip(terms, (first, second), strict=True)]
        hidden = [sum(letter.isupper() and letter in _HIDDEN for letter in term) for term in terms]
        output = output.replace("...", _HIDDEN[: max(hidden)])
        batch = terms[0][:1]
        for term in (*terms, output):
            if term[:1] != batch or batch in term[1:]:
                raise NotImplementedError(
                    f"einsum {subscripts!r} moves or sums the batch axis, or lines it up with "
                    "another one."
                )
            if len(set(term)) < len(term):
                raise NotImplementedError(f"einsum {subscripts!r} takes a diagonal.")
        for one, other in (terms, reversed(terms)):
            if set(one) - set(other) - set(output):
                raise NotImplementedError(
                    f"einsum {subscripts!r} sums one of its values alone. Call keras.ops.sum on "
                    "that value first."
                )
        letters = dict.fromkeys("".join(terms)[1:])
        letters.pop(batch, None)
        names = dict(zip(letters, string.ascii_lowercase[2:], strict=False))
        return cls(*["".join(names[letter] for letter in t[1:]) for t in (*terms, output)])

    @property
    def summed(self) -> str:
        """The letters that are summed over."""
        return "".join(letter for letter in self.first if letter not in self.output)


# Stand for the axes of an ellipsis.
_HIDDEN = "ZYXWVUTS"


def _spelled(term: str, rank: int) -> str:
    """A term with letters in place of its ellipsis."""
    if "..." not in term:
        return term
    return term.replace("...", _HIDDEN[: rank - len(term) + 3])


class Contraction(Nonlinear):
    """``einsum(x, y)`` of two bounded values.

    With centres c and radii r, ``x y = c_y x + c_x y - c_x c_y + (x - c_x)(y - c_y)``, and the last
    term is at most ``r_x r_y``: the mean of the two McCormick planes on either side, as for
    ``Product``. These planes need no table of single products, so a sweep is a few einsums.

    Args:
        equation: The letters.
        positive: Whether x is known to be >= 0, which makes its interval cheap.
    """

    def __init__(self, equation: Equation, *, positive: bool = False):
        self.equation, self.positive = equation, positive

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        first, second, output = self.equation
        subscripts = f"{_GROUP}{first},{_GROUP}{second}->{_GROUP}{output}"
        return ops.einsum(subscripts, *values)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x, y = intervals
        if self.positive:
            low, high = ops.relu(x.lower), x.upper
            negative, positive = ops.minimum(y.lower, 0.0), ops.relu(y.lower)
            least = self.apply(p, high, negative) + self.apply(p, low, positive)
            negative, positive = ops.minimum(y.upper, 0.0), ops.relu(y.upper)
            return Interval.from_ends(
                least, self.apply(p, low, negative) + self.apply(p, high, positive)
            )
        wide = [
            Interval.from_ends(self._spread(t.lower, letters), self._spread(t.upper, letters))
            for t, letters in zip(intervals, self.equation[:2], strict=True)
        ]
        axes = list(range(-len(self.equation.summed), 0))
        ends = product_ends(*wide)
        return Interval.from_ends(*[ops.sum(end, axis=axes) if axes else end for end in ends])

    def _spread(self, value: Tensor, letters: str) -> Tensor:
        """The value with an axis for each letter, those of the output first."""
        wanted = self.equation.output + self.equation.summed
        order = [0, *[1 + letters.index(letter) for letter in wanted if letter in letters]]
        value = ops.transpose(value, order)
        missing = [1 + i for i, letter in enumerate(wanted) if letter not in letters]
        return ops.expand_dims(value, missing) if missing else value

    def workspace(self, shapes: Sequence[tuple[int, ...]]) -> int:
        if self.positive:
            return 0
        sizes: dict[str, int] = {}
        for letters, shape in zip(self.equation, shapes, strict=False):
            sizes.update(zip(letters, shape, strict=True))
        return math.prod(sizes.values())

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [x.upper > x.lower for x in intervals]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        x, y = intervals
        return (
            x.center,
            y.center,
            self.apply(p, x.center, y.center),
            self.apply(p, x.radius, y.radius),
        )

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        x, y, middle, error = relaxation
        first, second, _ = self.equation
        a = rows.coefficients
        constant = -total(a, frame.take(middle, rows))
        constant = constant - total(ops.abs(a), frame.take(error, rows))
        on_x = self._pulled(a, y, second, first, rows, frame)
        on_y = self._pulled(a, x, first, second, rows, frame)
        return [Rows(on_x), Rows(on_y)], constant

    def _pulled(
        self, a: Tensor, table: SampleTable, own: str, wanted: str, rows: Rows, frame: Frame
    ) -> Tensor:
        """Coefficients on one value, from those of the output and a table of the other value."""
        values = frame.take(table, rows)
        alone = values.shape[0] == 1  # All groups read one sample.
        values = ops.squeeze(values, axis=(0, 1) if alone else 1)
        group = "" if alone else _GROUP
        subscripts = f"{_GROUP}{_ROW}{self.equation.output},{group}{own}->{_GROUP}{_ROW}{wanted}"
        return ops.einsum(subscripts, a, values)
