"""``bound``, ``bound_margins`` and ``least_margins``: bounds for users, compiled and checked."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, checks, heads, properties
from tfcert.bounds import calls, methods, propagation
from tfcert.derivatives import resolved
from tfcert.entering import Inputs, Regions, enter
from tfcert.programs import programs_of
from tfcert.properties.questions import rounded_margins
from tfcert.regions import Region
from tfcert.types import Bounds, MethodName, Statistics, Tensor

__all__ = ["bound", "bound_margins", "least_margins", "trace_count"]


def bound(
    model: keras.Model,
    x: Inputs,
    region: Regions,
    method: MethodName | methods.Method = "crown",
    statistics: Statistics = "moving",
) -> Bounds:
    """Bounds a model's outputs over all inputs of a region.

    Args:
        model: A built model.
        x: Inputs, ``(batch, *input_shape)``. For a model with several inputs, a dictionary or a
            list of arrays.
        region: ``LpBall`` or ``Box``, in the units of x. For several inputs, a dictionary or a list
            with a region, or "fixed", for each.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz", or an object
            of ``tfcert.methods``.
        statistics: The statistics of BatchNormalization: "moving", as at inference, or "batch", the
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
    model, x, region, _ = enter(model, x, region)
    call = calls.prepare(model, x, region, method, statistics)
    outputs = keras.tree.flatten(call.network.outputs)
    rows = 2 * max(math.prod(node.shape) for node in outputs)
    results = call.run("bound", _outputs, rows=min(rows, 512))
    lower, upper = (list(ends) for ends in zip(*results, strict=True))
    ends = calls.as_numbers(call, lower), calls.as_numbers(call, upper, upper=True)
    pack = [keras.tree.pack_sequence_as(call.network.outputs, end) for end in ends]
    return Bounds(*pack)


def bound_margins(
    model: keras.Model,
    x: Inputs,
    y: Tensor | properties.OutputProperty | properties.Monotone,
    region: Regions,
    method: MethodName | methods.Method = "crown",
    specification: Tensor | None = None,
    statistics: Statistics = "moving",
) -> Tensor:
    """Computes lower bounds of the margins ``f_y(x') - f_j(x')`` over a region.

    The difference is folded into the last affine layer. The result is at least as tight as the
    difference of the two scores' bounds (with backward methods, rare exceptions exist).

    If the model ends in a softmax, the margins are those of the logits before it. A single output
    is a logit z, or a probability after a sigmoid. The scores are then 0 and z, and the margin of
    the label y is ``(2 y - 1) z``.

    Args:
        model: A built model with one output of shape ``(batch, classes)``, or ``(batch, 1)``.
        x: Inputs, ``(batch, *input_shape)``. For a model with several inputs, a dictionary or a
            list of arrays.
        y: Integer labels, ``(batch,)`` or ``(batch, 1)``, or one-hot labels. Or an object of
            ``tfcert.properties``, whose margins are then bounded. Labels are short for
            ``tfcert.properties.ClassStays(labels)``.
        region: ``LpBall`` or ``Box``. For several inputs, a dictionary or a list with a region, or
            "fixed", for each.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown" or "lipschitz", or an object
            of ``tfcert.methods`` with options.
        specification: Rows of other linear functions of the model's own outputs,
            ``(rows, classes)`` for all samples or ``(batch, rows, classes)``. With a specification,
            y is not used and may be None.
        statistics: The statistics of BatchNormalization: "moving", as at inference, or "batch", the
            mean and variance of the clean batch x, as in a training step.

    Returns:
        ``(batch, classes)``, with 0 in column y. With a specification or another property,
        ``(batch, rows)``. A sample is verified if all entries except column y are > 0. For a
        property, ``property.proved(margins)`` says which samples are verified.

    Example:

    >>> margins = tfcert.bound_margins(model, x, y, tfcert.LpBall(0.1), method="crown")
    >>> verified = keras.ops.all(keras.ops.where(one_hot_y, 1.0, margins) > 0, axis=-1)
    """
    model, x, region, _ = enter(model, x, region)
    model, y = resolved(model, y, region)
    ranks = y.ranks if isinstance(y, properties.OutputProperty) else y is not None
    if ranks and specification is None:
        model = _scores(model, method, x)
    call = calls.prepare(model, x, region, method, statistics)
    classes = _classes(call)
    if isinstance(y, properties.OutputProperty):
        if specification is not None:
            raise ValueError(
                f"`specification` must be None if `y` is a property. Received: y={y!r} and a "
                "specification."
            )
        if not y.is_class():
            return _property_margins(call, y, classes)
        y = y.labels(call.batch or 1)
    if specification is not None:
        rows = _checked_specification(call, specification, classes)
        lower = call.run("specification", _rows, rows, rows=int(rows.shape[1]))
    elif y is None:
        raise ValueError("`y` is required if there is no `specification`. Received: y=None.")
    else:
        labels = checks.as_labels(y, call.batch, classes)
        lower = call.run("margins", _margins, labels, rows=classes)
    return calls.as_numbers(call, [lower])[0]


def _property_margins(call: calls.Call, asked: properties.OutputProperty, outputs: int) -> Tensor:
    """Lower bounds of a property's margins, ``(batch, rows)``."""
    rows, offsets = asked.margins_of(call.batch or 1, outputs)
    dtype = call.method.dtype(call.network)
    factors, shift = rounded_margins(rows, offsets, dtype)
    tensor = ops.convert_to_tensor(factors)
    lower = call.run("specification", _rows, tensor, rows=int(rows.shape[1]))
    (lower,) = calls.as_numbers(call, [lower])
    return lower if not shift.any() else lower + ops.convert_to_tensor(shift)


def least_margins(
    model: keras.Model,
    x: Inputs,
    y: Tensor,
    region: Regions,
    method: MethodName | methods.Method = "crown",
    *,
    again: bool = False,
) -> Tensor:
    """Bounds the least margin of each input, ``min_j f_y(x') - f_j(x')`` over all classes except y.

    The result equals the minimum of ``bound_margins`` over the other classes, but costs less: rows
    that cannot decide the minimum are not swept.

    Args:
        model: A built model with one output of shape ``(batch, classes)``, or ``(batch, 1)``.
        x: Inputs, ``(batch, *input_shape)``. For a model with several inputs, a dictionary or a
            list of arrays.
        y: Integer labels, ``(batch,)`` or ``(batch, 1)``, or one-hot labels.
        region: ``LpBall`` or ``Box``. For several inputs, a dictionary or a list with a region, or
            "fixed", for each.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown" or "lipschitz", or an object
            of ``tfcert.methods`` with options.
        again: Whether more batches of this shape will follow. If so, the first call compiles.

    Returns:
        ``(batch,)``. An input is verified if its entry is > 0.

    Example:

    >>> verified = tfcert.least_margins(model, x, y, tfcert.LpBall(0.1)) > 0
    """
    model, x, region, _ = enter(model, x, region)
    call = calls.prepare(_scores(model, method, x), x, region, method, "moving")
    classes = _classes(call)
    labels = checks.as_labels(y, call.batch, classes)
    least = call.run("least", _least, labels, rows=classes, again=again)
    return calls.as_numbers(call, [least])[0]


def trace_count(model: keras.Model) -> int:
    """Returns the number of traced bound programs of a model, for tests of recompilation."""
    return programs_of(model).traces("bound", "margins", "specification", "least")


# What the programs compute, from the setting that they were made for and their arguments.


def _outputs(setting: calls.Setting, region: Region, moments: list, x: Tensor) -> list[Bounds]:
    evaluation = setting.evaluate(region, moments, x)
    outputs = keras.tree.flatten(setting.network.outputs)
    return [propagation.node_bounds(evaluation, setting.method, node) for node in outputs]


def _rows(setting: calls.Setting, region: Region, moments: list, x: Tensor, rows: Tensor) -> Tensor:
    evaluation = setting.evaluate(region, moments, x)
    node, keep = setting.network.outputs, setting.method.intersect
    return propagation.lower_rows(evaluation, setting.method, node, rows, intersect=keep)


def _margins(
    setting: calls.Setting, region: Region, moments: list, x: Tensor, labels: Tensor
) -> Tensor:
    classes, dtype = setting.network.outputs.shape[0], setting.method.dtype(setting.network)
    hot = ops.one_hot(labels, classes, dtype=dtype)
    rows = ops.expand_dims(hot, 1) - ops.expand_dims(ops.eye(classes, dtype=dtype), 0)
    lower = _rows(setting, region, moments, x, rows)
    return ops.where(hot > 0, ops.zeros_like(lower), lower)


def _least(
    setting: calls.Setting, region: Region, moments: list, x: Tensor, labels: Tensor
) -> Tensor:
    known = setting.moments(moments)
    return setting.method.least(setting.network, region, x, labels, moments=known)


def _scores(model: keras.Model, method: Any, x: Tensor) -> keras.Model:
    """The model of the scores that decide the class."""
    found = heads.scored(model, x)
    if methods.get(method).float_safe:
        found.check_rounding()
    return found.model


def _classes(call: calls.Call) -> int:
    """The number of scores of a model that has nothing but scores."""
    node = call.network.outputs
    if not hasattr(node, "shape") or len(node.shape) != 1:
        raise ValueError(
            "Margin bounds need a model with one output of shape (batch, classes). "
            f"Received: output shape {call.model.output_shape}. Use tfcert.bound for other models."
        )
    return node.shape[0]


def _checked_specification(call: calls.Call, specification: Any, classes: int) -> Tensor:
    batch, dtype = call.batch, call.method.dtype(call.network)
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
