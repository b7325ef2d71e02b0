"""One evaluation of a network on a region: weights read once, intervals, relaxations."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcert import backend
from tfcert.bounds.known import Known
from tfcert.bounds.searching import lines_of
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.relaxations import Curve, Lines
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise, Opaque, passes_zero
from tfcert.rules.primitives import Affine, Constant, Input, Node, Nonlinear
from tfcert.rules.rounding import TINY
from tfcert.rules.rows import SampleTable
from tfcert.types import Tensor

__all__ = ["SLACK", "Evaluation"]

# By how much, relative to their size, rounding may make two sound enclosures miss each other.
_ROUNDING = {"float32": 1e-5, "float64": 1e-12}

# Relative rounding that float_safe grants to float64 operations of the bounds themselves.
SLACK = 2.0**-40


class Evaluation:
    """The state of one bound computation, filled node by node by the method that began it.

    Args:
        network: What is bounded.
        region: Gives the form of the input set.
        bound: The region around the inputs, ``region.bind(x)``.
        slope: Which lower line ReLU takes ("adaptive", "zero", "one", "same").
        moments: ``{node: (mean, variance)}`` of batch normalisations, instead of the moving ones.
        unit: Unit roundoff of the execution whose rounding is to be covered; None: exact
            arithmetic.
        dtype: Type of the computation; None: that of the network.
        trains: Whether gradients of the bounds will be taken.
        point: The inputs that the region was put around.
        known: What is known of hidden values already.
        companion: Another evaluation of the same network and region, for methods that use two.

    Attributes:
        intervals: By node, what is known of its values.
        swept: By node, where its interval is as tight as sweeps make it; filled by methods.
        empty: ``(batch,)``: samples whose part of the region was found to be empty, which only
            ``known.signs`` can bring about; None without signs.
    """

    def __init__(
        self,
        network: Network,
        region: Region,
        bound: BoundRegion,
        *,
        slope: str = "adaptive",
        moments: dict[Node, tuple[Tensor, Tensor]] | None = None,
        unit: float | None = None,
        dtype: str | None = None,
        trains: bool = False,
        point: Tensor = None,
        known: Known | None = None,
        companion: Evaluation | None = None,
    ):
        self.trains, self.point, self.known = trains, point, known or Known()
        self.network, self.region, self.bound, self.slope = network, region, bound, slope
        self.dtype = dtype or network.dtype
        self.unit = unit
        self.batch = ops.shape(bound.lower)[0]
        self._companion = companion
        self._starts = {network.nodes[place] for place in self.known.starts}
        self.order = network.behind(self._starts)
        self.parameters = self._parameters(moments or {})
        self.intervals: dict[Node, Interval] = {}
        self.swept: dict[Node, Tensor] = {}
        self.errors: dict[Node, Tensor] = {}
        # Samples for which an execution in float32 may overflow somewhere.
        self.overflow = None if unit is None else ops.zeros((self.batch,), dtype="bool")
        self.empty = ops.zeros((self.batch,), dtype="bool") if self.known.signs else None
        self.prepared: dict[tuple[Node, tuple[int, ...]], Any] = {}
        self._paths: dict[Node, list[Node]] = {}
        self._relaxations: dict[Node, Any] = {}
        self._biases: dict[Node, Any] = {}
        self._tables: dict[tuple[str, Node], Any] = {}
        split = region.split(bound)
        self.input_tables = [None if t is None else self._table(t) for t in split]

    def _parameters(self, moments: dict[Node, tuple[Tensor, Tensor]]) -> dict[Node, Any]:
        found: dict[Node, Any] = {}
        for node in self.order:
            if node in moments:
                p = node.primitive.from_moments(*moments[node], self.dtype)  # type: ignore[attr-defined]
            else:
                p = node.primitive.parameters(self.dtype)
            found[node] = p
        return found

    @property
    def other(self) -> Evaluation:
        """The evaluation beside this one, of methods that use two."""
        assert self._companion is not None
        return self._companion

    def place(self, node: Node) -> int:
        """The number of a node, which is the same in every program of the network."""
        return self.network.index[node]

    def path(self, node: Node) -> list[Node]:
        """The nodes that a sweep from a node may meet, itself first."""
        if node not in self._paths:
            here = set(self.order)
            self._paths[node] = [n for n in self.network.ancestors(node) if n in here]
        return self._paths[node]

    def sees_box(self, node: Node) -> bool:
        """Whether what a node depends on is a box, coordinate by coordinate."""
        return self.region.norm == math.inf or self.network.boxed[node]

    def is_exact(self, node: Node) -> bool:
        """Whether interval arithmetic gives the range of a node without a sweep."""
        mixing = self.network.mixing[node]
        return mixing == 0 or (mixing == 1 and self.unit is None and self.sees_box(node))

    def wants_tightening(self, node: Node) -> bool:
        """Whether a relaxation depends on a node's interval, which a method may then tighten."""
        if not self.network.reads[node] or node in self._starts:
            return False
        return not (self.known.settled and self.place(node) in self.known.intervals)

    def settle(self, node: Node, interval: Interval) -> None:
        """Keeps what was found of a node, with what is known of its signs."""
        sign = self.known.signs.get(self.place(node))
        if sign is not None:
            infinite = ops.full_like(interval.lower, math.inf)
            point = self.known.points.get(self.place(node), ops.zeros_like(infinite))
            sign, point = (ops.reshape(t, (-1, *node.shape)) for t in (sign, point))
            interval = interval.intersect(
                ops.where(sign > 0, point, -infinite), ops.where(sign < 0, point, infinite)
            )
        if self.empty is not None and interval.may_cross:
            self.empty = ops.logical_or(self.empty, _misses(interval))
        self.intervals[node] = interval.ordered()

    def interval_step(self, node: Node) -> Interval:
        """The interval of one node from those of its inputs, which are there already."""
        if node in self._starts:
            return Interval.from_ends(*self.known.intervals[self.place(node)])
        known = self.known.intervals.get(self.place(node))
        if known is not None and self.known.settled and self.is_exact(node):
            return Interval.from_ends(*known)  # Interval arithmetic finds nothing tighter.
        primitive, p = node.primitive, self.parameters[node]
        inputs = [self.intervals[source] for source in node.inputs]
        if isinstance(primitive, Input):
            result = self.inputs()
        elif isinstance(primitive, Constant):
            value = ops.broadcast_to(p, (self.batch, *node.shape))
            result = Interval.from_ends(value, value)
        else:
            result = self.enclose(node, inputs)
        if self.unit is not None:
            result = self._with_rounding(node, inputs, result)
        if node.enclosure is not None:
            function, sources = node.enclosure
            other = function(*[self.intervals[source] for source in sources])
            result = result.intersect(other.lower, other.upper)
        # Before sweeps, so that nothing is swept that is known to be settled.
        return result if known is None else result.intersect(*known)

    def inputs(self) -> Interval:
        """The inputs of the region."""
        lower, upper = self.bound.lower, self.bound.upper
        spread = None if self.point is None else self.region.spread(self.point)
        if spread is None:
            return Interval.from_ends(lower, upper)
        return Interval.alike(self.point, spread, lower, upper)

    def enclose(self, node: Node, inputs: list[Interval]) -> Interval:
        """The values of a node that has inputs, where these lie in given intervals."""
        return node.primitive.interval(self.parameters[node], *inputs)

    def _with_rounding(self, node: Node, inputs: list[Interval], result: Interval) -> Interval:
        assert self.unit is not None
        magnitudes = [x.magnitude for x in inputs or [result]]
        try:
            error = node.primitive.rounding(self.parameters[node], self.unit, *magnitudes)
        except NotImplementedError as reason:
            raise NotImplementedError(f"Layer {node.name!r}: {reason}") from reason
        if error is None:
            error = 0.0
        else:
            error = ops.broadcast_to(error, ops.shape(result.magnitude))
            unknown = ops.isinf(error)
            overflows = ops.any(ops.reshape(unknown, (self.batch, -1)), axis=-1)
            self.overflow = ops.logical_or(self.overflow, overflows)
            # The bounds themselves are computed in float64. Their own rounding, here and in
            # backward sweeps, is a few times n 2^-53 of the same magnitudes that the execution's
            # error is at least n 2^-24 of; the thousandth of that on top covers sums of up to
            # 2^19 n terms.
            error = ops.where(unknown, 0.0, error) * (1.0 + 2.0**-10)
        # Even where an execution only picks values, it may flush them to zero.
        error = error + SLACK * result.magnitude + TINY
        self.errors[node] = error
        return result.widen(error)

    def executed(self, bounds: Any, side: float) -> Any:
        """Bounds of the execution: infinite for samples where a value may overflow.

        Args:
            bounds: ``(batch, ...)``.
            side: -1.0 for lower bounds, 1.0 for upper ones.
        """
        if self.unit is None:
            return bounds
        shape = (self.batch, *[1] * (len(bounds.shape) - 1))
        return ops.where(ops.reshape(self.overflow, shape), side * math.inf, bounds)

    def relaxation(self, node: Node) -> Any:
        """Affine bounds of a nonlinear node on the intervals of its inputs, as sample tables."""
        if node not in self._relaxations:
            primitive = node.primitive
            assert isinstance(primitive, Nonlinear)
            p, inputs = self.parameters[node], [self.intervals[s] for s in node.inputs]
            if self.trains and isinstance(primitive, Elementwise) and passes_zero(p):
                lines = self._fused_lines(primitive, p, inputs[0])
            else:
                lines = primitive.relax(p, self.slope, *inputs)
            self._relaxations[node] = tuple(
                None if line is None else self._table(line) for line in lines
            )
        return self._relaxations[node]

    def _relax_together(self, nodes: list[Node]) -> None:
        """The lines of nodes with one scalar function at once: what finds them is a long search."""
        alike: dict[Curve, list[Node]] = {}
        for node in nodes:
            curve = self.parameters[node]
            if isinstance(curve, Curve) and curve.is_searched and node not in self._relaxations:
                alike.setdefault(curve, []).append(node)
        for curve, group in alike.items():
            inputs = [self.intervals[node.inputs[0]] for node in group]
            ends = [
                [ops.reshape(end, (self.batch, -1)) for end in ends]
                for ends in zip(*(interval.bounds for interval in inputs), strict=True)
            ]
            lower, upper = (ops.concatenate(end, axis=1) for end in ends)
            lines = lines_of(curve, lower, upper, self.slope)
            begin = 0
            for node in group:
                end = begin + math.prod(node.shape)
                own = [ops.reshape(t[:, begin:end], (self.batch, *node.shape)) for t in lines]
                self._relaxations[node] = tuple(map(self._table, own))
                begin = end

    def _fused_lines(self, primitive: Elementwise, p: Any, interval: Interval) -> Lines:
        """The lines of a two-piece function, in one kernel: they are dozens of small operations."""

        def slopes_and_intercept(lower: Tensor, upper: Tensor) -> list[Tensor]:
            lines = primitive.relax(p, self.slope, Interval.from_ends(lower, upper))
            return [line for line in lines if line is not None]

        through, chord, intercept = backend.fused_with_gradient(
            slopes_and_intercept, interval.lower, interval.upper
        )
        return Lines(through, None, chord, intercept)

    def bias(self, node: Node) -> Tensor | None:
        """What an affine node adds, ``(1, 1, *shape)``, to stand beside rows; None for nothing."""
        if node not in self._biases:
            primitive = node.primitive
            assert isinstance(primitive, Affine)
            bias = primitive.bias(self.parameters[node])
            if bias is not None:
                bias = ops.broadcast_to(bias, (1, 1, *node.shape))
            self._biases[node] = bias
        return self._biases[node]

    def tables(self, node: Node) -> tuple[SampleTable, SampleTable]:
        """Lower and upper ends of a node, as sample tables."""
        return self._kept(("ends", node), lambda x: (x.lower, x.upper))

    def center_tables(self, node: Node) -> tuple[SampleTable, SampleTable]:
        """Centre and radius of a node, as sample tables."""
        return self._kept(("center", node), lambda x: (x.center, x.radius))

    def slope_tables(self, node: Node) -> tuple[SampleTable | None, ...]:
        """Limits of the slopes of an elementwise node; None for lines that need not move."""
        if ("slopes", node) not in self._tables:
            curve, interval = self.parameters[node], self.intervals[node.inputs[0]]
            limits = curve.slope_range(interval.lower, interval.upper)
            fixed_upper = passes_zero(curve)
            self._tables["slopes", node] = tuple(
                None if fixed_upper and i >= 2 else self._table(limit)
                for i, limit in enumerate(limits)
            )
        return self._tables["slopes", node]

    def sign_table(self, node: Node) -> SampleTable | None:
        """The signs of a node's values that are asked about, as a sample table; None: all."""
        sign = self.known.signs.get(self.place(node))
        if sign is not None and ("sign", node) not in self._tables:
            sign = ops.cast(ops.reshape(sign, (-1, *node.shape)), self.dtype)
            self._tables["sign", node] = self._table(sign)
        return self._tables.get(("sign", node))

    def point_table(self, node: Node) -> SampleTable | None:
        """What the signs of a node's values compare them with, as a sample table; None: 0."""
        point = self.known.points.get(self.place(node))
        if point is not None and ("point", node) not in self._tables:
            point = ops.cast(ops.reshape(point, (-1, *node.shape)), self.dtype)
            self._tables["point", node] = SampleTable(point)
        return self._tables.get(("point", node))

    def error_table(self, node: Node) -> SampleTable:
        """The rounding error of a node, as a sample table."""
        if ("error", node) not in self._tables:
            self._tables["error", node] = self._table(self.errors[node])
        return self._tables["error", node]

    def _table(self, tensor: Tensor) -> SampleTable:
        return SampleTable(tensor, self.network.has_windows)

    def _kept(self, key: tuple[str, Node], form: Any) -> Any:
        if key not in self._tables:
            self._tables[key] = tuple(self._table(t) for t in form(self.intervals[key[1]]))
        return self._tables[key]

    def prepare(self, node: Node, optimise: bool) -> None:
        """Makes all that sweeps from a node read, so that loops around them do not make it anew."""
        windows = self.network.windows(node)
        self._relax_together(self.path(node))
        for above in self.path(node):
            here = windows[above]
            if isinstance(above.primitive, Affine):
                above.primitive.prepare(self.parameters[above])
                self.bias(above)
            windowed = getattr(above.primitive, "windowed", None)
            if here is not None and windowed is not None:
                self._prepare_windows(above, windowed, here[1])
            if above in self.errors:
                self.error_table(above)
            self.sign_table(above)
            if self.is_cut(above):
                self.center_tables(above)
            elif isinstance(above.primitive, Nonlinear):
                self._prepare_relaxation(above, optimise)

    def _prepare_windows(self, node: Node, windowed: Any, extent: tuple[int, ...]) -> None:
        key = (node, extent)
        p = self.parameters[node]
        if key not in self.prepared and isinstance(p, dict):
            self.prepared[key] = windowed.prepare(p["kernel"], extent, node.inputs[0].shape)

    def _prepare_relaxation(self, node: Node, optimise: bool) -> None:
        self.relaxation(node)
        assert isinstance(node.primitive, Nonlinear)
        if optimise and isinstance(node.primitive, Elementwise):
            self.slope_tables(node)
            self.tables(node.inputs[0])
        if optimise and node.primitive.turns:
            for source in node.inputs:
                self.center_tables(source)

    def is_cut(self, node: Node) -> bool:
        """Whether only the interval of a node is known."""
        return isinstance(node.primitive, Opaque) or node in self._starts


def _misses(interval: Interval) -> Tensor:
    """Samples with ends that cross by more than rounding, ``(batch,)``."""
    low, high = interval.lower, interval.upper
    slack = _ROUNDING[keras.backend.standardize_dtype(low.dtype)]
    crossed = low - high > slack * (1.0 + ops.abs(low) + ops.abs(high))
    return ops.any(ops.reshape(crossed, (ops.shape(low)[0], -1)), axis=-1)
