"""Sums of products of two bounded values: matrix products, and einsum in general."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import product_ends, steadiness, total
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
        hidden = [sum(letter in _HIDDEN for letter in term) for term in terms]
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


# Greek letters, which no einsum has, stand for the axes of an ellipsis.
_HIDDEN = "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8"


def _spelled(term: str, rank: int) -> str:
    """A term with letters in place of its ellipsis."""
    if "..." not in term:
        return term
    return term.replace("...", _HIDDEN[: rank - len(term) + 3])


class Contraction(Nonlinear):
    """``einsum(x, y)`` of two bounded values, of which the anchor is one; call it x here.

    For every s in the interval of x, ``x y = s y + (x - s) y``, with y within ``c_y -/+ r_y`` and
    ``|x - s|`` under its chord: with ``s = c_x - t r_x``, planes around ``x y`` are
    ``s y + c_y (x - s) -/+ r_y (r_x + t (x - c_x))``. They lie between those of McCormick, for
    every t in [-1, 1]. Since s and t belong to entries of x, and not to single products, a sweep
    is three einsums. Taken is the steadiness of x for t (see ``Product``): s is the number of the
    interval that is nearest to 0. alpha-CROWN goes on from there, with a t for each row.

    Args:
        equation: The letters.
        anchor: Which of the two values is the anchor, 0 or 1.
        convex: Whether the first value is a weight: >= 0, with a sum of 1 over all letters that are
            summed. Its interval is then cheap and tight.
    """

    turns = True

    def __init__(self, equation: Equation, *, anchor: int = 1, convex: bool = False):
        self.equation, self.anchor, self.convex = equation, anchor, convex

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        first, second, output = self.equation
        subscripts = f"{_GROUP}{first},{_GROUP}{second}->{_GROUP}{output}"
        return ops.einsum(subscripts, *values)

    def _ordered(self, anchor: Any, other: Any) -> tuple[Any, Any]:
        return (other, anchor) if self.anchor else (anchor, other)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        if self.convex:
            lower = self._least_mean(p, *intervals)
            weights, y = intervals
            upper = self._least_mean(p, weights, Interval.from_ends(-y.upper, -y.lower))
            return Interval.from_ends(lower, -upper)
        wide = [
            Interval.from_ends(self._spread(t.lower, letters), self._spread(t.upper, letters))
            for t, letters in zip(intervals, self.equation[:2], strict=True)
        ]
        axes = list(range(-len(self.equation.summed), 0))
        ends = product_ends(*wide)
        return Interval.from_ends(*[ops.sum(end, axis=axes) if axes else end for end in ends])

    def _least_mean(self, p: Any, weights: Interval, y: Interval) -> Tensor:
        """A lower end of means: ``w . y = m + w . (y - m)`` for every m, since weights sum to 1.

        Tried are 0 and the least, mean and largest lower end of y. One of these ends is best.
        """
        _, letters, output = self.equation
        axes = [1 + letters.index(letter) for letter in self.equation.summed]
        low, high, lower = ops.relu(weights.lower), weights.upper, y.lower
        kept = [letter for letter in letters if letter not in self.equation.summed]
        order = [0, *[1 + kept.index(letter) for letter in output if letter in kept]]
        missing = [1 + i for i, letter in enumerate(output) if letter not in kept]
        found = []
        for pick in (ops.zeros_like, ops.min, ops.mean, ops.max):
            shift = pick(lower) if pick is ops.zeros_like else pick(lower, axis=axes, keepdims=True)
            rest = lower - shift
            positive, negative = ops.relu(rest), ops.minimum(rest, 0.0)
            mean = self.apply(p, low, positive) + self.apply(p, high, negative)
            if pick is not ops.zeros_like:
                shift = ops.transpose(ops.squeeze(shift, axis=axes), order)
                mean = mean + ops.expand_dims(shift, missing) if missing else mean + shift
            found.append(mean)
        best = found[0]
        for mean in found[1:]:
            best = ops.maximum(best, mean)
        return best

    def _spread(self, value: Tensor, letters: str) -> Tensor:
        """The value with an axis for each letter, those of the output first."""
        wanted = self.equation.output + self.equation.summed
        order = [0, *[1 + letters.index(letter) for letter in wanted if letter in letters]]
        value = ops.transpose(value, order)
        missing = [1 + i for i, letter in enumerate(wanted) if letter not in letters]
        return ops.expand_dims(value, missing) if missing else value

    def workspace(self, shapes: Sequence[tuple[int, ...]]) -> int:
        if self.convex:
            return 0
        sizes: dict[str, int] = {}
        for letters, shape in zip(self.equation, shapes, strict=False):
            sizes.update(zip(letters, shape, strict=True))
        return math.prod(sizes.values())

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        return [x.upper > x.lower for x in intervals]

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        x, y = intervals[self.anchor], intervals[1 - self.anchor]
        t = steadiness(x)
        s = x.center - t * x.radius
        middle = self.apply(p, *self._ordered(s, y.center))
        error = self.apply(p, *self._ordered(x.radius - t * x.center, y.radius))
        return s, t, y.center, y.radius, middle, error

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        rows = frame.dense(rows, shapes[-1])
        s, t, center, radius, middle, error = relaxation
        own, other = self.equation[self.anchor], self.equation[1 - self.anchor]
        a, size = rows.coefficients, ops.abs(rows.coefficients)
        constant = -total(a, frame.take(middle, rows)) - total(size, frame.take(error, rows))
        on_x = self._pulled(a, center, other, own, rows, frame)
        on_x = on_x - frame.take(t, rows) * self._pulled(size, radius, other, own, rows, frame)
        on_y = self._pulled(a, s, own, other, rows, frame)
        return self._ordered(Rows(on_x), Rows(on_y)), constant

    def turn(self, tables: Any, rows: Rows, frame: Frame, shapes: Any) -> list[Tensor]:
        center, radius = (frame.take(t, Rows(rows.coefficients)) for t in tables[self.anchor])
        size = (*ops.shape(rows.coefficients)[:2], *shapes[self.anchor])
        return [ops.broadcast_to(steadiness(Interval.from_center(center, radius)), size)]

    def turned(
        self, numbers: Sequence[Tensor], tables: Any, rows: Rows, frame: Frame, shapes: Any
    ) -> tuple[Sequence[Rows], Tensor]:
        rows, (t,) = frame.dense(rows, shapes[-1]), numbers
        center, radius = (frame.take(table, rows) for table in tables[self.anchor])
        own, other = self.equation[self.anchor], self.equation[1 - self.anchor]
        a, s = rows.coefficients, center - t * radius
        by_center, by_radius = (
            self._pulled(part, table, other, own, rows, frame)
            for part, table in zip((a, ops.abs(a)), tables[1 - self.anchor], strict=True)
        )
        # The constants of `backward`, with the sums over the output taken first.
        constant = -total(by_center, s) - total(by_radius, radius - t * center)
        output = self.equation.output
        subscripts = f"{_GROUP}{_ROW}{output},{_GROUP}{_ROW}{own}->{_GROUP}{_ROW}{other}"
        on_x, on_y = by_center - t * by_radius, ops.einsum(subscripts, a, s)
        return self._ordered(Rows(on_x), Rows(on_y)), constant

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
