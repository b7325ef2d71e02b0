"""The base class of bound methods: options, and the answers that other parts of the package need.

A method is one object. It says which networks it can bound, how it tightens the interval of a
hidden node, how it bounds linear functions of an output, and how much memory a sample takes. The
code around it (``tfcert.bound``, training, certification, export) never asks for its type, so a new
method is one new class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from tfcert import backend, names
from tfcert.bounds import answers
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.refine import Lower, refine
from tfcert.network import Network
from tfcert.programs import PATIENCE
from tfcert.regions import BoundRegion, Region
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Tensor

__all__ = ["Method", "known_names", "named", "register", "rival_rows"]

# Entries of the widest tensor of one turn of a chunked sweep: small enough for a cache where the
# turns are compiled, and large where every operation costs a call from Python.
_CHUNK_ENTRIES, _CHUNK_ENTRIES_AT_ONCE = 1 << 18, 1 << 21
# The fewest neurons of a turn, and the turns for all neurons of a layer that a compiled loop has at
# least: often few need a sweep, and a turn takes as long for a few as for many.
_FEWEST, _TURNS = 8, 4
# Tensors of the size of the coefficients that a sweep holds at a time, about.
_COPIES = 6


@dataclasses.dataclass(frozen=True)
class Method:
    """Base class of bound methods, with the options that all methods share.

    Your own method overrides some functions of this class, most often ``tighten`` and ``sweeper``.
    ``docs/adding_a_method.md`` shows a complete method.

    Args:
        float_safe: Whether the bounds hold for the network as executed in float32, in any order of
            summation, instead of in real arithmetic. For affine and piecewise-linear layers of
            Keras. The bounds are float64, and infinite where an execution may overflow. They cover
            every execution whose operations are IEEE float32 or better, with or without fused
            operations and flushing of denormal numbers, as TensorFlow's and XLA's on a CPU. They do
            not cover TF32, bfloat16 or float16 inside products, fast-math compilation, and
            convolutions by Winograd's or Fourier transforms, which cuDNN may choose on a GPU.
            tfcert raises an error if it detects such a setting.
        max_memory: Limit of the working memory in bytes; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
    """

    float_safe: bool = dataclasses.field(default=False, kw_only=True)
    max_memory: int = dataclasses.field(default=2 << 30, kw_only=True)
    jit_compile: bool = dataclasses.field(default=False, kw_only=True)

    # Whether ``bound`` and ``bound_margins`` intersect the method's answers with the intervals.
    intersect: ClassVar[bool] = True
    # Whether the method puts affine bounds around every layer, by sweeps backward from the outputs.
    backward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.max_memory >= 1 << 20:
            raise ValueError(
                f"`max_memory` must be at least 1 MiB, in bytes. Received: {self.max_memory!r}."
            )

    def get_config(self) -> dict[str, Any]:
        """The options, for Keras's saving."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**config)

    @property
    def name(self) -> str:
        """The registered name of this kind of method, or the name of its class."""
        kinds = {type(method): name for name, method in _NAMED.items()}
        return kinds.get(type(self), type(self).__name__)

    # Which networks, and in which arithmetic.

    def check(self, network: Network, statistics: str = "moving") -> None:
        """Raises an error that names the layer if the method cannot bound a network."""
        if self.float_safe:
            _check_float_safe(network, statistics)
        elif network.dtype == "float64":
            backend.check_float64(f"model {network.name!r}")

    def check_layers(self, network: Network) -> None:
        """Calls ``check``, and checks that need the values of the weights."""
        self.check(network)

    def dtype(self, network: Network) -> str:
        """The type that the bounds are computed in."""
        return "float64" if self.float_safe else network.dtype

    # Memory.

    def entries(self, network: Network, rows: int) -> int:
        """Returns the memory of one sample with so many rows, as a count of numbers."""
        del rows
        return 4 * (network.size + network.workspace)

    def samples_at_once(self, network: Network, rows: int) -> int:
        """Returns the number of samples that fit into ``max_memory`` together.

        Args:
            network: The network.
            rows: How many linear functions of the outputs are bounded for each sample.
        """
        itemsize = np.dtype(self.dtype(network)).itemsize
        return max(1, int(self.max_memory // (self.entries(network, rows) * itemsize)))

    def rows_at_once(self, evaluation: Evaluation, widest: int, per_sample: int) -> int:
        """Returns the number of rows for one turn of a loop, so that a turn fits into the cache.

        Args:
            evaluation: The evaluation.
            widest: Entries of the largest tensor that a row meets on its way.
            per_sample: How many rows a sample has.
        """
        itemsize = np.dtype(evaluation.dtype).itemsize
        most = self.max_memory // (2 * widest * itemsize * _COPIES * self.copies)
        at_once = backend.runs_at_once()
        entries = _CHUNK_ENTRIES_AT_ONCE if at_once else _CHUNK_ENTRIES
        best = max(_FEWEST, entries // (2 * widest))
        if isinstance(evaluation.batch, int):
            # Sweeps of dense networks are so short that more turns are no gain.
            turns = 1 if at_once or not evaluation.network.has_windows else _TURNS
            total = evaluation.batch * per_sample
            best = min(best, total, max(_FEWEST, -(-total // turns)))
        return int(max(1, min(most, best)))

    # How many times the memory of a sweep bounding a row takes.
    copies: ClassVar[int] = 1

    def first_call_at_once(self, network: Network, batch: int) -> bool:
        """Returns whether a first call is computed without compiling a program."""
        del network, batch
        return not self.jit_compile

    def patience(self, network: Network) -> int:
        """Returns how many long calls are carried out before a program is compiled.

        Sweeps from many nodes through many others are as many operations as the square of the
        nodes. To compile the sweeps of a transformer or of an unrolled recurrent network takes
        some hundred times what a call takes.
        """
        return max(PATIENCE, len(network.nodes) ** 2 // 300)

    def tighter(self) -> Method | None:
        """The tighter method to try next, or None."""
        return None

    # Bounds.

    def plan(self) -> Method:
        """Returns the method to run in place of this one, by default this one."""
        return self

    def begin(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        """Creates the evaluation that the method works on.

        Args:
            network: What is bounded.
            region: Gives the form of the input set.
            bound: The region around the inputs.
            **settings: As for ``Evaluation``.
        """
        unit = 2.0**-24 if self.float_safe else None
        return Evaluation(network, region, bound, unit=unit, dtype=self.dtype(network), **settings)

    def evaluate(
        self, network: Network, region: Region, bound: BoundRegion, **settings: Any
    ) -> Evaluation:
        """Computes the intervals of all nodes that the bounds of the outputs need."""
        evaluation = self.begin(network, region, bound, **settings)
        for node in evaluation.order:
            interval = evaluation.interval_step(node)
            if evaluation.wants_tightening(node):
                interval = self.tighten(evaluation, node, interval)
            evaluation.settle(node, interval)
        return evaluation

    def tighten(self, evaluation: Evaluation, node: Node, interval: Interval) -> Interval:
        """Returns a tighter interval of a node that a nonlinear node reads.

        The default is the interval from interval arithmetic. If the region is not a box, the first
        affine layers are bounded exactly.
        """
        behind_nonlinear = evaluation.network.mixing[node] < 0
        if behind_nonlinear or evaluation.sees_box(node) or evaluation.is_exact(node):
            return interval
        return self.refined(evaluation, node, interval, interval.upper > interval.lower)

    def refined(
        self, evaluation: Evaluation, node: Node, interval: Interval, wanted: Tensor
    ) -> Interval:
        """Returns the interval after sweeps of the wanted neurons."""
        lower = self.hidden_sweeper(evaluation, node)
        return refine(evaluation, node, interval, wanted, lower, self.chunk_of(evaluation, node))

    def chunk_of(self, evaluation: Evaluation, node: Node) -> int:
        """Returns the number of neurons of a node swept in one turn."""
        widest = evaluation.network.widest(node)
        return self.rows_at_once(evaluation, widest, math.prod(node.shape))

    def hidden_sweeper(self, evaluation: Evaluation, node: Node) -> Lower:
        """Returns the sweep that bounds rows of a hidden node from below."""
        return answers.plain_sweeper(evaluation, node)

    def sweeper(self, evaluation: Evaluation, node: Node) -> Lower | None:
        """Returns the sweep that bounds rows of an output from below; None for intervals only."""
        del evaluation, node
        return None

    def outputs(self, evaluation: Evaluation, node: Node) -> Interval:
        """Returns the interval of an output node."""
        sweeper = self.sweeper(evaluation, node)
        if sweeper is None and (evaluation.sees_box(node) or evaluation.network.mixing[node] <= 0):
            return evaluation.intervals[node]
        return answers.output_interval(self, evaluation, node, sweeper)

    def rows(self, evaluation: Evaluation, node: Node, rows: Tensor, intersect: bool) -> Tensor:
        """Returns lower bounds of linear functions of an output node, ``(batch, rows)``.

        Args:
            evaluation: Holds the intervals of all nodes.
            node: The output node.
            rows: Coefficients, ``(batch, rows, size of the output)``.
            intersect: Whether to take the larger of the method's and the interval bound.
        """
        sweeper = self.sweeper(evaluation, node)
        coefficients = Rows(ops.reshape(rows, (-1, rows.shape[1], *node.shape)))
        if sweeper is None:
            return answers.near_rows(evaluation, node, coefficients, Frame())
        lower = sweeper(node, coefficients, Frame(), 0.0)
        if intersect:
            near = answers.near_rows(evaluation, node, coefficients, Frame())
            lower = ops.maximum(lower, near)
        return lower

    def deciding_rows(self, evaluation: Evaluation, node: Node, rows: Tensor) -> Tensor:
        """Returns lower bounds with the same minimum as ``rows``, from the fewest sweeps."""
        sweeper = self.sweeper(evaluation, node)
        if sweeper is None:
            return self.rows(evaluation, node, rows, intersect=True)
        return answers.deciding_rows(self, evaluation, node, rows, sweeper)

    def least(
        self, network: Network, region: Region, x: Tensor, y: Tensor, **settings: Any
    ) -> Tensor:
        """Returns the least lower bound of ``f_y - f_j`` over all j except y, ``(batch,)``.

        Certification, validation and exported models all use this function. The result is NaN if
        one of the bounds is NaN.

        Args:
            network: What is bounded; its output is ``(batch, classes)``.
            region: The region, whose values were checked before.
            x: Inputs.
            y: Integer labels, ``(batch,)``.
            **settings: As for ``Evaluation``.
        """
        method, node = self.plan(), network.outputs
        evaluation = method.evaluate(network, region, region.bind(x), point=x, **settings)
        lower = method.deciding_rows(evaluation, node, rival_rows(y, node.shape[0], x.dtype))
        # A minimum may pass over NaN.
        known = ops.logical_not(ops.any(ops.isnan(lower), axis=-1))
        least = ops.where(known, ops.min(lower, axis=-1), math.nan)
        return evaluation.executed(least, -1.0)

    def served(
        self,
        model: keras.Model,
        network: Network,
        region: Region,
        x: Tensor,
        y: Tensor,
        scores: Tensor | None,
    ) -> dict[str, Tensor]:
        """Returns the outputs of an exported model in addition to class and scores.

        Args:
            model: The model that gives the scores.
            network: Its network.
            region: The region.
            x: Inputs, in the type of the bounds.
            y: The predicted classes, ``(batch,)``.
            scores: The scores at x, if they are already known.

        Returns:
            The margin, ``(batch,)``, by its name. More names become more outputs.
        """
        del model, scores
        return {"margin": self.least(network, region, x, y)}


def rival_rows(y: Tensor, classes: int, dtype: Any) -> Tensor:
    """The coefficients of ``f_y - f_j`` on the scores, for all j but y.

    The k-th row is that of class k before y, and of class k + 1 from y on.

    Args:
        y: Integer labels, ``(batch,)``.
        classes: Number of scores.
        dtype: Type of the rows.

    Returns:
        ``(batch, classes - 1, classes)``.
    """
    own = ops.expand_dims(ops.cast(y, "int32"), 1)
    rival = ops.expand_dims(ops.arange(classes - 1, dtype="int32"), 0)
    rival = rival + ops.cast(rival >= own, "int32")
    return ops.one_hot(own, classes, dtype=dtype) - ops.one_hot(rival, classes, dtype=dtype)


_NAMED: dict[str, Method] = {}


def register(name: str) -> Callable[[type], type]:
    """Registers a class of methods under the name that ``method=`` accepts.

    The name stands for the class with its default options.

    Args:
        name: A new name, such as "crown-twice".

    Returns:
        A decorator of the class.

    Raises:
        ValueError: The name is taken, or the class is no ``tfcert.methods.Method``.

    Example:

    >>> import dataclasses
    >>> @tfcert.methods.register("plain-crown-ibp")
    ... @dataclasses.dataclass(frozen=True)
    ... class Plain(tfcert.methods.CrownIBP):
    ...     slope: str = "zero"
    >>> tfcert.methods.get("plain-crown-ibp").slope
    'zero'
    """

    def add(kind: type) -> type:
        if name in _NAMED:
            raise ValueError(
                f"`name` must be new. Received: name={name!r}, which is already registered."
            )
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise ValueError(
                f"Only subclasses of tfcert.methods.Method can be registered. Received: {kind!r}."
            )
        _NAMED[name] = kind()
        return kind

    return add


def named(name: str) -> Method | None:
    """The method of a name, in any spelling; None where nothing has that name."""
    return _NAMED.get(names.find(name, _NAMED) or name)


def known_names() -> list[str]:
    """The names that ``method=`` accepts."""
    return list(_NAMED)


def _check_float_safe(network: Network, statistics: str) -> None:
    if network.dtype != "float32":
        raise ValueError(
            "float_safe covers execution in float32. "
            f"Received: model {network.name!r} of type {network.dtype}."
        )
    if statistics != "moving":
        raise ValueError(
            f"float_safe covers models at inference. Received: statistics={statistics!r}."
        )
    if network.reduced:
        raise NotImplementedError(
            f"Model {network.name!r} computes in {network.reduced}, whose rounding float_safe does "
            "not cover. Use float_safe=False, or rebuild the model in float32 and copy its weights."
        )
    if network.foreign:
        raise NotImplementedError(
            f"Layer {network.foreign[0]!r}: float_safe covers only layers, activations and rules "
            "of Keras and tfcert. Use float_safe=False."
        )
    network.check("rounding")
    backend.check_float64("float_safe=True")
    backend.check_full_precision()
