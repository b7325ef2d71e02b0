"""``bound`` and ``bound_margins``: checks, compilation, batches in pieces, and clear errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, checks
from tfcert.bounds import methods, propagation
from tfcert.bounds.statistics import batch_moments, normalizing_nodes
from tfcert.network import Network, cache_of, network_of
from tfcert.regions import BoundRegion, Region
from tfcert.types import Bounds, MethodName, Statistics, Tensor

__all__ = ["bound", "bound_margins", "checked_network", "trace_count"]


def bound(
    model: keras.Model,
    x: Tensor,
    region: Region,
    method: MethodName | methods.Method = "crown",
    statistics: Statistics = "moving",
) -> Bounds:
    """Bounds on a model's outputs over all inputs of a region.

    Args:
        model: A built Sequential or Functional model.
        x: Inputs, ``(batch, *input_shape)``.
        region: ``LpBall`` or ``Box``, in the units of x.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz", or an object
            of ``tfcert.methods``.
        statistics: What BatchNormalization normalises with: "moving", as at inference, or "batch":
            mean and variance of the clean batch x, as in a training step.

    Returns:
        ``Bounds(lower, upper)`` with ``lower <= model(x') <= upper`` for every x' in the region;
        each has the structure and shapes of ``model(x)``.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu")])
    >>> b = tfcert.bound(model, np.zeros((1, 2)), tfcert.LpBall(0.1), method="ibp")
    >>> b.lower.shape
    TensorShape([1, 3])
    """
    call = _prepare(model, x, region, method, statistics)

    def compute(moments: list, bound_region: BoundRegion, x: Tensor) -> list[Bounds]:
        evaluation = call.evaluate(bound_region, moments, x)
        outputs = keras.tree.flatten(call.network.outputs)
        return [propagation.node_bounds(evaluation, call.method, node) for node in outputs]

    rows = 2 * max(math.prod(node.shape) for node in keras.tree.flatten(call.network.outputs))
    results = call.run("bound", compute, rows=min(rows, 512))
    _check_numbers(call, results)
    pack = [
        keras.tree.pack_sequence_as(call.network.outputs, ends)
        for ends in zip(*results, strict=True)
    ]
    return Bounds(*pack)


def bound_margins(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    region: Region,
    method: MethodName | methods.Method = "crown",
    specification: Tensor | None = None,
    statistics: Statistics = "moving",
) -> Tensor:
    """Lower bounds of the margins ``f_y(x') - f_j(x')`` over a region.

    The difference is folded into the last affine layer. By intervals, and by sweeps but for rare
    cases, that is at least as tight as subtracting bounds of the two scores of the same kind.

    Args:
        model: A built model with one output of shape ``(batch, classes)``.
        x: Inputs, ``(batch, *input_shape)``.
        y: Integer labels, ``(batch,)``.
        region: ``LpBall`` or ``Box``.
        method: As for ``bound``.
        specification: Optional rows of other linear functions of the scores, ``(rows, classes)``
            for all samples or ``(batch, rows, classes)``; y is then not used and may be None.
        statistics: As for ``bound``.

    Returns:
        ``(batch, classes)``, 0 in column y; with a specification ``(batch, rows)``. A sample is
        verified when it is classified correctly and all other entries are > 0.

    Example:

    >>> margins = tfcert.bound_margins(model, x, y, tfcert.LpBall(0.1), method="crown")
    >>> verified = keras.ops.all(keras.ops.where(one_hot_y, 1.0, margins) > 0, axis=-1)
    """
    call = _prepare(model, x, region, method, statistics)
    node = call.network.outputs
    if not hasattr(node, "shape") or len(node.shape) != 1:
        raise ValueError(
            "bound_margins needs a model with one output of shape (batch, classes). "
            f"Received: output shape {model.output_shape}. Use tfcert.bound for other models."
        )
    classes, dtype = node.shape[0], call.method.dtype(call.network)
    if specification is None:
        if y is None:
            raise ValueError("`y` must be given where no `specification` is. Received: y=None.")
        target = checks.as_labels(y, call.batch, classes)
    else:
        target = _checked_specification(specification, call.batch, classes, dtype)

    def compute(
        moments: list, bound_region: BoundRegion, x: Tensor, wanted: Tensor
    ) -> list[Tensor]:
        evaluation = call.evaluate(bound_region, moments, x)
        if specification is None:
            hot = ops.one_hot(wanted, classes, dtype=dtype)
            rows = hot[:, None] - ops.eye(classes, dtype=dtype)[None]
        else:
            rows = wanted
        keep = call.method.intersect
        lower = propagation.lower_rows(evaluation, call.method, node, rows, intersect=keep)
        if specification is None:
            lower = ops.where(hot > 0, ops.zeros_like(lower), lower)
        return [lower]

    kind = "margins" if specification is None else "specification"
    count = classes if specification is None else int(target.shape[1])
    (lower,) = call.run(kind, compute, target, rows=count)
    _check_numbers(call, [Bounds(lower, lower)])
    return lower


class _Call:
    """One checked call: the network, the bound region, and how it is run."""

    def __init__(
        self, network: Network, model: Any, x: Tensor, region: Region, method: Any, statistics: str
    ):
        self.network, self.model, self.x, self.region = network, model, x, region
        self.method, self.statistics = method, statistics
        self.batch = x.shape[0]

    def evaluate(self, bound_region: BoundRegion, moments: list, x: Tensor) -> Any:
        """Bounds of all nodes before the outputs."""
        known = dict(zip(normalizing_nodes(self.network), moments, strict=True)) if moments else {}
        return propagation.evaluate(
            self.network, self.region, bound_region, self.method, known, point=x
        )

    def run(self, kind: str, compute: Callable, *more: Tensor, rows: int) -> Any:
        """Runs in the graph under construction, or compiled and in pieces of the batch."""
        moments = []
        if self.statistics == "batch":
            moments = batch_moments(self.network, self.x)
        piece = self.method.samples_at_once(self.network, rows)
        numbers = self.region.numbers(self.x, outward=True)
        whole = self.batch is not None and self.batch <= piece
        given = keras.tree.flatten((self.x, numbers, more))
        if whole and not any(backend.is_symbolic(t) for t in given):
            # One compiled call, the binding of the region included.
            return self._compiled(kind, compute, packed=True)(moments, self.x, numbers, *more)
        bound_region = self.region.bind(self.x)
        if any(backend.is_symbolic(t) for t in (*bound_region, *more) if t is not None):
            return compute(moments, bound_region, self.x, *more)
        compiled = self._compiled(kind, compute, packed=False)
        if self.batch <= piece:
            return compiled(moments, bound_region, self.x, *more)
        parts = []
        for start in range(0, self.batch, piece):
            chosen = np.minimum(np.arange(start, start + piece), self.batch - 1)
            cut = keras.tree.map_structure(
                lambda t, chosen=chosen: None if t is None else ops.take(t, chosen, axis=0),
                (bound_region, self.x, *more),
            )
            part = compiled(moments, *cut)
            keep = min(piece, self.batch - start)
            parts.append(keras.tree.map_structure(lambda t, keep=keep: t[:keep], part))
        return keras.tree.map_structure(lambda *ts: ops.concatenate(ts, axis=0), *parts)

    def _compiled(self, kind: str, compute: Callable, packed: bool) -> Callable:
        region = self.region.template()
        key = (kind, self.statistics, self.method, self.region.signature(), packed)
        functions = cache_of(self.model).setdefault("compiled", {})
        network, known = self.network, functions.get(key)
        if known is None or known[0] is not network:

            def counted(moments: list, *arguments: Any) -> Any:
                traces = cache_of(self.model)
                traces["count"] = traces.get("count", 0) + 1
                if packed:
                    x, numbers, *more = arguments
                    arguments = (region.with_numbers(numbers).bind(x), x, *more)
                return compute(moments, *arguments)

            function = backend.compile_function(
                counted, self.model, self.method.jit_compile or None
            )
            known = functions[key] = (network, function)
        return known[1]


def trace_count(model: keras.Model) -> int:
    """How many bound programs of a model were traced so far; for tests of recompilation."""
    return cache_of(model).get("count", 0)


def _prepare(model: Any, x: Any, region: Any, method: Any, statistics: str) -> _Call:
    method = methods.get(method)
    if statistics not in ("moving", "batch"):
        raise ValueError(
            f'`statistics` must be "moving" or "batch". Received: statistics={statistics!r}.'
        )
    if not isinstance(region, Region):
        raise ValueError(
            f"`region` must be a tfcert.LpBall or tfcert.Box. Received: region={region!r}."
        )
    network = checked_network(model, method, statistics)
    x = ops.convert_to_tensor(x)
    if keras.backend.standardize_dtype(x.dtype) in ("complex64", "complex128", "string"):
        raise ValueError(f"`x` must hold real numbers. Received: x of type {x.dtype}.")
    expected = network.input.shape
    if len(x.shape) != len(expected) + 1 or tuple(x.shape[1:]) != expected:
        raise ValueError(
            f"`x` must have the shape (batch, {', '.join(map(str, expected))}) that model "
            f"{model.name!r} takes. Received: x of shape {tuple(x.shape)}."
        )
    if x.shape[0] == 0:
        raise ValueError(f"`x` is empty. Received: x of shape {tuple(x.shape)}.")
    x = ops.cast(x, method.dtype(network))
    region.validate(x)
    return _Call(network, model, x, region, method, statistics)


def checked_network(model: Any, method: methods.Method, statistics: str = "moving") -> Network:
    """The network of a model, after checks that a method can bound it."""
    network = network_of(model)
    method.check(network, statistics)
    return network


def _checked_specification(specification: Any, batch: int, classes: int, dtype: str) -> Tensor:
    rows = ops.cast(ops.convert_to_tensor(specification), dtype)
    if len(rows.shape) == 2:
        rows = ops.broadcast_to(rows[None], (batch, *rows.shape))
    if len(rows.shape) != 3 or rows.shape[0] != batch or rows.shape[2] != classes:
        raise ValueError(
            f"`specification` must have the shape (rows, {classes}) or ({batch}, rows, {classes}). "
            f"Received: shape {tuple(ops.shape(specification))}."
        )
    if not backend.is_symbolic(rows) and not np.isfinite(ops.convert_to_numpy(rows)).all():
        raise ValueError("`specification` must be finite. Received: NaN or infinite entries.")
    return rows


def _check_numbers(call: _Call, results: list[Bounds]) -> None:
    """Raises where a bound is NaN; says where it comes from."""
    flat = [t for pair in results for t in pair]
    if any(backend.is_symbolic(t) for t in flat):
        return
    if not any(np.isnan(ops.convert_to_numpy(t)).any() for t in flat):
        return
    for layer in call.model._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model):
            continue  # Its layers follow.
        for weight in layer.weights:
            if not np.isfinite(ops.convert_to_numpy(weight)).all():
                raise ValueError(
                    f"Layer {layer.name!r} has NaN or infinite values in its weight "
                    f"{weight.name!r}, so the model's outputs have no bounds."
                )
    raise ValueError(_where_from(call))


def _where_from(call: _Call) -> str:
    """Names the first layer whose interval is NaN or leaves the domain."""
    evaluation = propagation.evaluate(
        call.network, call.region, call.region.bind(call.x), methods.IBP()
    )
    for node in call.network.nodes:
        interval = evaluation.intervals[node]
        ends = [ops.convert_to_numpy(t) for t in interval.bounds]
        if not np.isnan(ends).any():
            continue
        curve = evaluation.parameters[node]
        if getattr(curve, "domain_text", ""):
            source = evaluation.intervals[node.inputs[0]].bounds
            low, high = (ops.convert_to_numpy(t) for t in source)
            return (
                f"Layer {node.name!r}: {curve.domain_text}, but its inputs may lie in "
                f"[{low.min():g}, {high.max():g}] over this region. Use a smaller region, a "
                "tighter method, or clip the inputs inside the model."
            )
        return (
            f"The bounds of layer {node.name!r} are not numbers: values became too large for "
            f"{evaluation.dtype}. Use a smaller region, or a model of dtype float64."
        )
    return "The bounds are NaN although all intervals are numbers: values are too large."
