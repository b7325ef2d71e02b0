"""One call for bounds: it is checked, run as one program or in pieces, and its numbers checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import backend, checks, graph
from tfcert.bounds import methods, propagation
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.statistics import batch_moments, normalizing_nodes
from tfcert.network import Network, readable
from tfcert.programs import PATIENCE, Program, Programs
from tfcert.regions import Numbers, Region
from tfcert.regions.checking import check_region
from tfcert.rules.primitives import Node
from tfcert.types import Tensor

__all__ = ["Call", "Setting", "as_numbers", "prepare"]


class Setting(NamedTuple):
    """The settings of a program for bounds, except the region."""

    network: Network
    method: methods.Method

    def moments(self, values: list) -> dict[Node, Any]:
        """Statistics of batch normalisations, from a list of them in the order of the nodes."""
        if not values:
            return {}
        return dict(zip(normalizing_nodes(self.network), values, strict=True))

    def evaluate(self, region: Region, moments: list, x: Tensor) -> Evaluation:
        """Bounds of all nodes before the outputs."""
        return propagation.evaluate(
            self.network, region, region.bind(x), self.method, self.moments(moments), point=x
        )


# compute(setting, region, moments, x, *more) -> tensors with the batch axis first
Compute = Callable[..., Any]


# A call with a new number of inputs is answered by a compiled program for another number, if that
# takes at most so many calls, and at most so many times the work. Compiling takes far longer.
_PIECES, _WASTE = 8, 4


class _Arguments(NamedTuple):
    """What a program is called with."""

    numbers: Numbers
    moments: list
    with_batch: tuple[Tensor, ...]

    def cut(self, places: np.ndarray) -> _Arguments:
        """The arguments for some inputs of the batch, by their positions."""
        tensors = tuple(ops.take(tensor, places, axis=0) for tensor in self.with_batch)
        return _Arguments(self.numbers.cut(places), self.moments, tensors)


class Call(NamedTuple):
    """One checked call."""

    model: keras.Model
    network: Network
    programs: Programs
    x: Tensor
    region: Region
    method: methods.Method
    statistics: str

    @property
    def batch(self) -> int | None:
        """The number of inputs; None where a graph is being built for any number."""
        return self.x.shape[0]

    def run(
        self, kind: str, compute: Compute, *more: Tensor, rows: int, again: bool = False
    ) -> Any:
        """Runs a computation, in the graph under construction, or as a program.

        Args:
            kind: The name of the computation.
            compute: The computation.
            *more: Further arguments, with a batch axis.
            rows: How many linear functions of the outputs it bounds for each sample.
            again: Whether the same call will come back.
        """
        moments = batch_moments(self.network, self.x) if self.statistics == "batch" else []
        numbers = self.region.numbers(self.x, outward=True)
        if any(map(backend.is_symbolic, keras.tree.flatten((self.x, numbers, more)))):
            return compute(self._setting, self.region, moments, self.x, *more)
        arguments = _Arguments(numbers, moments, (self.x, *more))
        piece = self.method.samples_at_once(self.network, rows)
        if len(self.x) > piece:
            piece = self._compiled_piece(kind, arguments) or piece
            return self._in_pieces(kind, compute, arguments, piece)
        program = self._program(kind, compute, arguments, len(self.x), again)
        slow = program.would_run_slowly or (program.calls == 0 and not again)
        lent = self._compiled_piece(kind, arguments) if slow else None
        if lent is None:
            return program(*arguments)
        program.leave_to_another()
        return self._in_pieces(kind, compute, arguments, lent)

    def _in_pieces(self, kind: str, compute: Compute, arguments: _Arguments, piece: int) -> Any:
        batch, parts = len(self.x), []
        for start in range(0, batch, piece):
            cut = arguments.cut(np.minimum(np.arange(start, start + piece), batch - 1))
            part = self._program(kind, compute, cut, piece, again=True)(*cut)
            keep = min(piece, batch - start)
            parts.append(keras.tree.map_structure(lambda t, keep=keep: t[:keep], part))
        return keras.tree.map_structure(lambda *ts: ops.concatenate(ts, axis=0), *parts)

    def _compiled_piece(self, kind: str, arguments: _Arguments) -> int | None:
        """The size of pieces that a compiled program can do this call in, with little waste."""
        best, least = None, _WASTE * len(self.x) + 1
        for piece in self.programs.compiled_batches(kind, self._key):
            pieces = -(-len(self.x) // piece)
            if pieces <= _PIECES and pieces * piece < least:
                some = arguments.cut(np.minimum(np.arange(piece), len(self.x) - 1))
                if self.programs.has_compiled(kind, self._key, some):
                    best, least = piece, pieces * piece
        return best

    @property
    def _setting(self) -> Setting:
        return Setting(self.network, self.method)

    @property
    def _key(self) -> tuple:
        """What a program depends on besides the shapes of its arguments."""
        return (self.method, self.statistics, self.region.signature())

    def _program(
        self, kind: str, compute: Compute, arguments: _Arguments, batch: int, again: bool
    ) -> Program:
        def make() -> Callable[..., Any]:
            # Nothing of this call but its setting: the region without its numbers.
            return _program_of(compute, self._setting, self.region.template())

        patience = self.method.patience(self.network)
        waits = not again or patience > PATIENCE
        return self.programs.get(
            self.model,
            kind,
            self._key,
            make,
            arguments,
            jit_compile=self.method.jit_compile or None,
            at_once=waits and self.method.first_call_at_once(self.network, batch),
            batch=batch,
            patience=patience,
        )


def _program_of(compute: Compute, setting: Setting, template: Region) -> Callable[..., Any]:
    def run(numbers: Numbers, moments: list, tensors: tuple[Tensor, ...]) -> Any:
        return compute(setting, template.with_numbers(numbers), moments, *tensors)

    return run


def prepare(model: Any, x: Any, region: Any, method: Any, statistics: str = "moving") -> Call:
    """Checks the arguments of a call."""
    method = methods.get(method)
    if statistics not in ("moving", "batch"):
        raise ValueError(
            f'`statistics` must be "moving" or "batch". Received: statistics={statistics!r}.'
        )
    check_region(region)
    model, derived = readable(model, x)
    network = derived.network
    method.check(network, statistics)
    x, wanted = ops.convert_to_tensor(x), method.dtype(network)
    kind = keras.backend.standardize_dtype(x.dtype)
    if kind in ("complex64", "complex128", "string"):
        raise ValueError(f"`x` must hold real numbers. Received: x of type {x.dtype}.")
    checks.check_inputs(x, network.input.shape, model.name)
    if kind != wanted:
        x = ops.cast(x, wanted)
    region.validate(x)
    return Call(model, network, derived.once(Programs), x, region, method, statistics)


def as_numbers(call: Call, tensors: list[Tensor], upper: bool = False) -> list[Tensor]:
    """Bounds of a call without NaN: where values overflowed, they are infinite, with a warning.

    Args:
        call: The call.
        tensors: Its bounds, all of them lower ones, or all of them upper ones.
        upper: Which of both.

    Raises:
        ValueError: A weight is NaN or infinite, or values leave the domain of a function.
    """
    if any(map(backend.is_symbolic, tensors)):
        return tensors
    if all(np.isfinite(ops.convert_to_numpy(t)).all() for t in tensors):
        return tensors
    for layer in graph.layers_of(call.model):
        if isinstance(layer, keras.Model):
            continue  # Its layers follow.
        for weight in layer.weights:
            if not np.isfinite(ops.convert_to_numpy(weight)).all():
                raise ValueError(
                    f"Layer {layer.name!r} has NaN or infinite values in its weight "
                    f"{weight.name!r}, so the model's outputs have no bounds."
                )
    warnings.warn(f"Some bounds are infinite. {_where_from(call)}", stacklevel=4)
    worst = np.inf if upper else -np.inf
    return [ops.where(ops.isnan(t), ops.full_like(t, worst), t) for t in tensors]


def _where_from(call: Call) -> str:
    """Names the first layer whose interval overflows; raises where one leaves a domain."""
    intervals = methods.IBP(float_safe=call.method.float_safe)
    evaluation = propagation.evaluate(
        call.network, call.region, call.region.bind(call.x), intervals
    )
    if evaluation.overflow is not None and ops.convert_to_numpy(evaluation.overflow).any():
        return (
            f"An execution of model {call.model.name!r} in {call.network.dtype} may overflow. "
            "Use a smaller region."
        )
    for node in call.network.nodes:
        interval = evaluation.intervals[node]
        ends = [ops.convert_to_numpy(t) for t in interval.bounds]
        if np.isfinite(ends).all():
            continue
        curve = evaluation.parameters[node]
        if getattr(curve, "domain_text", "") and np.isnan(ends).any():
            source = evaluation.intervals[node.inputs[0]].bounds
            low, high = (ops.convert_to_numpy(t) for t in source)
            if not np.isnan([low, high]).any():
                raise ValueError(
                    f"Layer {node.name!r}: {curve.domain_text}, but its inputs may lie in "
                    f"[{low.min():g}, {high.max():g}] over this region. Use a smaller region, a "
                    "tighter method, or clip the inputs inside the model."
                )
        return (
            f"At layer {node.name!r} values became too large for {evaluation.dtype}. Use a smaller "
            "region, a tighter method, or a model of dtype float64."
        )
    return (
        f"Values became too large for {evaluation.dtype} in the method, though not in intervals. "
        "Use a smaller region, or a model of dtype float64."
    )
