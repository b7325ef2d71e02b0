"""One evaluation of a network on a region: weights read once, intervals, relaxations."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.relaxations import Lines
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise, Opaque, passes_zero
from tfcert.rules.primitives import Constant, Input, Node, Nonlinear
from tfcert.rules.rounding import TINY
from tfcert.rules.rows import SampleTable
from tfcert.types import Tensor

__all__ = ["SLACK", "Evaluation"]

# Relative rounding that float_safe grants to float64 operations of the bounds themselves.
SLACK = 2.0**-40


class Evaluation:
    """The state of one bound computation.

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
    ):
        self.trains = trains
        self.network, self.region, self.bound, self.slope = network, region, bound, slope
        self.dtype = dtype or network.dtype
        self.unit = unit
        self.batch = ops.shape(bound.lower)[0]
        moments = moments or {}
        self.parameters: dict[Node, Any] = {}
        for node in network.nodes:
            if node in moments:
                p = node.primitive.from_moments(*moments[node], self.dtype)  # type: ignore[attr-defined]
            else:
                p = node.primitive.parameters(self.dtype)
            self.parameters[node] = p
        # Another evaluation of the same network, and its method, whose results are intersected.
        self.base: tuple[Evaluation, Any] | None = None
        self.intervals: dict[Node, Interval] = {}
        self.errors: dict[Node, Tensor] = {}
        # Samples for which an execution in float32 may overflow somewhere.
        self.overflow = ops.zeros((self.batch,), dtype="bool")
        self.prepared: dict[tuple[Node, tuple[int, ...]], Any] = {}
        self._relaxations: dict[Node, Any] = {}
        self._tables: dict[tuple[str, Node], Any] = {}
        self.input_tables = [None if t is None else SampleTable(t) for t in bound]

    def interval_step(self, node: Node) -> Interval:
        """The interval of one node from those of its inputs, which are there already."""
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
        return result

    def inputs(self) -> Interval:
        """The inputs of the region."""
        return Interval.from_ends(self.bound.lower, self.bound.upper)

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
            self.overflow = ops.logical_or(
                self.overflow, ops.any(ops.reshape(unknown, (self.batch, -1)), axis=-1)
            )
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
                None if line is None else SampleTable(line) for line in lines
            )
        return self._relaxations[node]

    def _fused_lines(self, primitive: Elementwise, p: Any, interval: Interval) -> Lines:
        """The lines of a two-piece function, in one kernel: they are dozens of small operations."""

        def slopes_and_intercept(lower: Tensor, upper: Tensor) -> list[Tensor]:
            lines = primitive.relax(p, self.slope, Interval.from_ends(lower, upper))
            return [line for line in lines if line is not None]

        through, chord, intercept = backend.fused_with_gradient(
            slopes_and_intercept, interval.lower, interval.upper
        )
        return Lines(through, None, chord, intercept)

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
                None if fixed_upper and i >= 2 else SampleTable(limit)
                for i, limit in enumerate(limits)
            )
        return self._tables["slopes", node]

    def error_table(self, node: Node) -> SampleTable:
        """The rounding error of a node, as a sample table."""
        if ("error", node) not in self._tables:
            self._tables["error", node] = SampleTable(self.errors[node])
        return self._tables["error", node]

    def _kept(self, key: tuple[str, Node], form: Any) -> Any:
        if key not in self._tables:
            self._tables[key] = tuple(SampleTable(t) for t in form(self.intervals[key[1]]))
        return self._tables[key]

    def prepare(self, node: Node, optimise: bool) -> None:
        """Makes all that sweeps from a node read, so that loops around them do not make it anew."""
        windows = self.network.windows(node)
        for above in self.network.ancestors(node):
            here = windows[above]
            windowed = getattr(above.primitive, "windowed", None)
            if here is not None and windowed is not None:
                self._prepare_windows(above, windowed, here[1])
            if above in self.errors:
                self.error_table(above)
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
        if optimise and isinstance(node.primitive, Elementwise):
            self.slope_tables(node)
            self.tables(node.inputs[0])

    def is_cut(self, node: Node) -> bool:
        """Whether only the interval of a node is known."""
        return isinstance(node.primitive, Opaque)

    def size(self, node: Node) -> int:
        return math.prod(node.shape)

    def forward_intervals(self) -> None:
        """Interval bound propagation through the whole network."""
        for node in self.network.nodes:
            if node not in self.intervals:
                self.intervals[node] = self.interval_step(node)
