"""Bound methods, which combine intermediate bounds and backward sweeps.

Every method is a small object with its options; the names that ``tfcert.bound`` accepts stand for
their defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
from keras import ops

from tfcert import names
from tfcert.bounds import answers
from tfcert.bounds.alpha import Optimised, optimised
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.forward_methods import IBP, Lipschitz
from tfcert.bounds.intersection import Intersection
from tfcert.bounds.method import Method, known_names, named, register
from tfcert.bounds.refine import Lower
from tfcert.network import Network
from tfcert.regions import BoundRegion, Region
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = [
    "IBP",
    "AlphaCrown",
    "Backward",
    "Crown",
    "CrownIBP",
    "FastLin",
    "Intersection",
    "Lipschitz",
    "Method",
    "get",
    "name_of",
    "register",
]

_SLOPES = ("adaptive", "zero", "one", "same")
# Values of all layers and samples up to which sweeps of hidden layers are not worth compiling for
# one call. Measured on two cores: from twice that many on, compiling takes less time than it saves.
_AT_ONCE = 1 << 17


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Backward(Method):
    """Base class of methods with a backward sweep.

    Args:
        slope: The lower line of an unstable ReLU: "adaptive" (1 where u > -l, else 0), "zero",
            "one", or "same" (parallel to the upper one).
        intersect: Whether to intersect the result with the interval bounds of the output. Both are
            sound, so the intersection only tightens. Training objectives that use the backward
            bound alone turn it off.
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
    """

    slope: str = "adaptive"
    intersect: bool = dataclasses.field(default=True, kw_only=True)  # type: ignore[misc]

    backward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slope not in _SLOPES:
            raise ValueError(f"`slope` must be one of {_SLOPES}. Received: slope={self.slope!r}.")

    def entries(self, network: Network, rows: int) -> int:
        return 6 * rows * network.largest + 8 * network.size + 4 * network.workspace

    def begin(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        return super().begin(network, region, bound, slope=self.slope, **settings)

    def tighter(self) -> Method | None:
        return AlphaCrown(float_safe=self.float_safe, max_memory=self.max_memory)

    def sweeper(self, evaluation: Evaluation, node: Node) -> Lower | None:
        return answers.plain_sweeper(evaluation, node)


@register("crown-ibp")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class CrownIBP(Backward):
    """Interval bounds for the hidden layers, and one backward sweep for the outputs.

    Args:
        slope: The lower line of an unstable ReLU: "adaptive" (1 where u > -l, else 0), "zero",
            "one", or "same" (parallel to the upper one).
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
        intersect: Whether to intersect the result with the interval bounds of the output, which
            only tightens it.

    Reference: Zhang et al., 2019, https://arxiv.org/abs/1906.06316
    """


@register("crown")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Crown(Backward):
    """Backward sweeps for the outputs and for every hidden neuron that needs tighter bounds.

    Args:
        slope: The lower line of an unstable ReLU: "adaptive" (1 where u > -l, else 0), "zero",
            "one", or "same" (parallel to the upper one).
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
        intersect: Whether to intersect the result with the interval bounds of the output, which
            only tightens it.
        chunk: Number of neurons swept in one turn. None: chosen for the network and ``max_memory``.

    Reference: Zhang et al., 2018, https://arxiv.org/abs/1811.00866
    """

    chunk: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"`chunk` must be a positive integer. Received: chunk={self.chunk}.")

    def chunk_of(self, evaluation: Evaluation, node: Node) -> int:
        return super().chunk_of(evaluation, node) if self.chunk is None else self.chunk

    def first_call_at_once(self, network: Network, batch: int) -> bool:
        return super().first_call_at_once(network, batch) and batch * network.size <= _AT_ONCE

    def tighten(self, evaluation: Evaluation, node: Node, interval: Interval) -> Interval:
        if evaluation.is_exact(node):
            evaluation.swept[node] = ops.ones_like(interval.lower, dtype="bool")
            return interval
        if evaluation.network.mixing[node] >= 0:  # Affine in the input: one sweep is exact.
            wanted = interval.upper > interval.lower
        else:
            wanted = _where_readers_profit(evaluation, node, interval)
        evaluation.swept[node] = wanted
        settled = _settled_by_its_input(evaluation, node)
        if settled is not None:
            wanted = ops.logical_and(wanted, ops.logical_not(settled))
        return self.refined(evaluation, node, interval, wanted)


def _where_readers_profit(evaluation: Evaluation, node: Node, interval: Interval) -> Tensor:
    """Where the relaxations of the nodes that read this one would profit from tighter bounds."""
    wanted = None
    for reader, place in evaluation.network.reads[node]:
        intervals = [
            interval if source is node else evaluation.intervals.get(source, None)
            for source in reader.inputs
        ]
        primitive = reader.primitive
        assert isinstance(primitive, Nonlinear)
        known = [other for other in intervals if other is not None]
        if len(known) < len(intervals):
            here = interval.upper > interval.lower  # The other factor comes later.
        else:
            here = primitive.unstable(evaluation.parameters[reader], *known)[place]
        here = ops.broadcast_to(here, ops.shape(interval.lower))
        wanted = here if wanted is None else ops.logical_or(wanted, here)
    return wanted


def _settled_by_its_input(evaluation: Evaluation, node: Node) -> Tensor | None:
    """Where a sweep cannot tighten a node, as its input was swept.

    So it is with values that are only moved, and with those of a monotone function: a line below
    it rises with it, so that at the least input it lies below the function.
    """
    primitive = node.primitive
    if len(node.inputs) != 1 or not primitive.keeps_ends(evaluation.parameters[node]):
        return None
    source = node.inputs[0]
    swept = evaluation.swept.get(source)
    if swept is None:
        swept = _settled_by_its_input(evaluation, source)
    if swept is None or isinstance(primitive, Elementwise):
        return swept
    return primitive.apply((), ops.cast(swept, evaluation.dtype)) > 0


@register("fast-lin")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class FastLin(Crown):
    """CROWN with both lines of a ReLU parallel, in hidden layers too.

    Args:
        slope: The lower line of an unstable ReLU. The method is defined by "same", a line parallel
            to the upper line.
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
        intersect: Whether to intersect the result with the interval bounds of the output, which
            only tightens it.
        chunk: Number of neurons swept in one turn. None: chosen for the network and ``max_memory``.

    Reference: Weng et al., 2018, https://arxiv.org/abs/1804.09699
    """

    slope: str = "same"


@register("alpha-crown")
@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class AlphaCrown(Crown):
    """CROWN, followed by gradient ascent on the slopes of the relaxations for each row.

    AlphaCrown keeps the best bound of each entry, so it is never looser than CROWN. If signs of
    split units are known (``Known.signs``), the ascent also optimises their multipliers: this is
    beta-CROWN.

    Args:
        slope: The lower lines at the start of the ascent, and in hidden neurons: "adaptive" (1
            where u > -l, else 0), "zero", "one", or "same" (parallel to the upper one).
        iterations: Number of gradient steps.
        learning_rate: The learning rate of Adam at the first step.
        decay: Factor on the learning rate after each step.
        optimize_intermediate: Whether to optimise the bounds of each hidden neuron too. This is
            much slower, and much tighter on deep networks.
        float_safe: Whether the bounds hold for the network as executed in float32, too.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
        intersect: Whether to intersect the result with the interval bounds of the output, which
            only tightens it.
        chunk: Number of neurons swept in one turn. None: chosen for the network and ``max_memory``.

    Reference: Xu et al., 2021, https://arxiv.org/abs/2011.13824
    """

    iterations: int = 20
    learning_rate: float = 0.1
    decay: float = 0.98
    optimize_intermediate: bool = False

    copies: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or not self.learning_rate > 0 or not 0 < self.decay <= 1:
            raise ValueError(
                "`iterations` must be positive, `learning_rate` > 0 and `decay` in (0, 1]. "
                "Received: "
                f"iterations={self.iterations}, learning_rate={self.learning_rate}, "
                f"decay={self.decay}."
            )

    def entries(self, network: Network, rows: int) -> int:
        return 10 * rows * network.size + 4 * network.workspace

    def first_call_at_once(self, network: Network, batch: int) -> bool:
        return super().first_call_at_once(network, batch) and not self.optimize_intermediate

    def tighter(self) -> Method | None:
        return None

    def plan(self) -> Method:
        if not self.optimize_intermediate:
            return self
        # Tighter intervals may give looser default lines behind them: keep both results.
        plain = dataclasses.replace(self, optimize_intermediate=False)
        return Intersection(
            _DeepAlphaCrown(**dataclasses.asdict(self)),
            plain,
            float_safe=self.float_safe,
            max_memory=self.max_memory,
            jit_compile=self.jit_compile,
        )

    def optimise(
        self,
        evaluation: Evaluation,
        node: Node,
        rows: Tensor,
        slopes: Mapping[int, Any] | None = None,
        multipliers: Mapping[int, Tensor] | None = None,
        enough: Callable[[Tensor], Tensor] | None = None,
    ) -> Optimised:
        """Bounds rows of an output, and returns the slopes and multipliers behind these bounds.

        Args:
            evaluation: Holds the intervals of all nodes, and the signs of split units.
            node: The output node.
            rows: Coefficients, ``(batch, rows, size of the output)``.
            slopes: The first slopes, from an earlier result. Default: CROWN's slopes.
            multipliers: The first multipliers, from an earlier result. Default: 0.
            enough: A function from the best bounds so far, ``(batch, rows)``, to a scalar: whether
                to stop.
        """
        evaluation.prepare(node, True)
        coefficients = Rows(ops.reshape(rows, (-1, rows.shape[1], *node.shape)))
        return optimised(
            evaluation,
            self,
            node,
            coefficients,
            Frame(),
            slopes=slopes,
            multipliers=multipliers,
            enough=enough,
        )

    def sweeper(self, evaluation: Evaluation, node: Node) -> Lower | None:
        evaluation.prepare(node, True)
        return lambda start, rows, frame, constant: (
            optimised(evaluation, self, start, rows, frame, constant).lower
        )


class _DeepAlphaCrown(AlphaCrown):
    """alpha-CROWN in hidden layers, too."""

    def plan(self) -> Method:
        return self

    def hidden_sweeper(self, evaluation: Evaluation, node: Node) -> Lower:
        sweeper = self.sweeper(evaluation, node)
        assert sweeper is not None
        return sweeper


def get(method: Any) -> Method:
    """Returns the method object for a name, or the object itself.

    Case, hyphens and underscores of a name do not matter: "CROWN_IBP" is "crown-ibp".
    """
    if isinstance(method, Method):
        return method
    found = named(method) if isinstance(method, str) else None
    if found is None:
        meant = names.nearest(method, known_names()) if isinstance(method, str) else None
        near = f" Did you mean {meant!r}?" if meant else ""
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, known_names()))} or an object of "
            f"tfcert.methods. Received: method={method!r}.{near}"
        )
    return found


def name_of(method: Method) -> str:
    """Returns the registered name of a method's kind, or the name of its class."""
    return method.name
