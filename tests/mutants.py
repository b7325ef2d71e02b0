"""Errors to plant in the rules and methods, each with a check that has to find it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

import tfcert
from tests import rule_cases, rule_checks, soundness
from tfcert.bounds import alpha, answers, evaluation, refine, sweep
from tfcert.layers import interval_kernels
from tfcert.layers import point_kernels as kernels_of_points
from tfcert.regions import LpBall, geometry
from tfcert.relaxations import curve, piecewise
from tfcert.rules import (
    attention,
    building,
    contraction,
    distance,
    linear,
    linear_maps,
    nonlinear,
    own_statistics,
    pooling,
    recurrent,
    repeating,
    rows,
    simplex,
    windows,
    wrappers,
)
from tfcert.rules.interval import Interval
from tfcert.types import Bounds

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """An attribute, what it is replaced by, and the check that must notice."""

    owner: Any
    name: str
    replace: Callable[[Callable], Callable]
    check: Callable[[], None]


def bounds(name, place=rule_cases.CHAIN, *methods, region=None):
    return lambda: rule_checks.check_bounds(name, place, methods, region)


def transposes(name):
    return lambda: rule_checks.check_transposes(name)


def in_windows(name):
    return lambda: rule_checks.check_windows(name)


def margins(name, place, method):
    def check():
        model, x = rule_checks.model_and_inputs(name, place)
        classes, y = model.output_shape[-1], np.array([0, 2])
        lower = tfcert.bound_margins(model, x, y, LpBall(0.3), method)
        differences = np.eye(classes)[y][:, None] - np.eye(classes)[None]
        soundness.Reached(model, x, LpBall(0.3)).check_margins(lower, differences)

    return check


def intervals(change):
    """Replaces ``interval(self, p, *intervals)`` by a change of its result."""
    return lambda original: lambda self, p, *x: change(original(self, p, *x), p, *x)


def result(change):
    """Replaces a function by a change of its result."""
    return lambda original: lambda *args, **kwargs: change(original(*args, **kwargs))


def lines(**changes):
    return result(lambda found: found._replace(**{k: f(found) for k, f in changes.items()}))


def _swapped(found, p, *x):
    return Interval.from_ends(found.upper, found.lower)


def _signed(found, p, x):
    return Interval.from_center(found.center, x.radius * p[0])


def _no_absolute_value(original):
    def interval(self, p, *x):
        return Interval.from_center(
            self.apply(p, x[0].center), self.linear(x[0].radius, p["kernel"])
        )

    return interval


def _all_channels(original):
    def ungrouped(kernel, channels):
        return ops.concatenate([kernel] * (channels // kernel.shape[-2]), axis=-2)

    return ungrouped


def _first_two_corners(original):
    def interval(self, p, x, y):
        low, high = x.lower * y.lower, x.upper * y.upper
        return Interval.from_ends(ops.minimum(low, high), ops.maximum(low, high))

    return interval


def _first_two_corners_alone(original):
    def ends(x, y):
        low, high = x.lower * y.lower, x.upper * y.upper
        return ops.minimum(low, high), ops.maximum(low, high)

    return ends


def _wrong_offset(original):
    def moved(self, window, extent):
        found, grown = original(self, window, extent)
        return rows.Window(found.stride, tuple(o + 1 for o in found.offset)), grown

    return moved


def _floor_from_the_wrong_ends(original):
    def relax(self, p, slope, x):
        # Largest lower end -> smallest.
        return original(self, p, slope, Interval.from_ends(x.lower, x.lower + 0.1 * x.radius))

    return relax


def _slopes_beyond_their_range(original):
    def free_slopes(record):
        found = original(record)
        return [(place, side, low, 2.0 * width + 0.5) for place, side, low, width in found]

    return free_slopes


def _other_neurons(original):
    def scattered(order, values, total):
        return ops.roll(original(order, values, total), 1, axis=0)

    return scattered


def _first_alone(original):
    return lambda self, first, second, shape: self.dense(first, shape)


def _no_flow_into_the_second(original):
    def transpose(self, p, coefficients, shapes):
        first, *others = original(self, p, coefficients, shapes)
        return [first, *[ops.zeros_like(other) for other in others]]

    return transpose


L2 = LpBall(0.5, norm=2)
ALONE, CHAIN, MAP = rule_cases.ALONE, rule_cases.CHAIN, rule_cases.MAP


MUTANTS = {
    # Kernels.
    "radius without absolute value": Mutant(
        linear.Kernel, "interval", _no_absolute_value, bounds("dense", ALONE, "ibp")
    ),
    "kernel backward with the wrong sign": Mutant(
        linear.Kernel, "transpose", result(lambda a: [-a[0]]), transposes("conv2d_same")
    ),
    "matrix backward with the wrong sign": Mutant(
        linear.Matrix, "transpose", result(lambda a: [-a[0]]), bounds("dense", ALONE, "crown")
    ),
    "no bias backward": Mutant(
        linear.Kernel, "bias", result(lambda b: None), bounds("dense", ALONE, "crown")
    ),
    "groups read one another": Mutant(
        linear_maps, "_ungrouped", _all_channels, bounds("conv1d_groups", ALONE, "ibp")
    ),
    # Other affine steps.
    "negative factors keep the order of ends": Mutant(
        linear.Scale,
        "interval",
        intervals(lambda found, p, x: found if p[0] is None else _signed(found, p, x)),
        bounds("ops_subtract_from_number", ALONE, "ibp"),
    ),
    "ends swapped by moving values": Mutant(
        linear.Rearrange, "interval", intervals(_swapped), bounds("flatten", ALONE, "ibp")
    ),
    "one branch of a sum": Mutant(
        linear.Sum, "transpose", _no_flow_into_the_second, bounds("add", ALONE, "crown")
    ),
    "statistics without epsilon": Mutant(
        ops,
        "rsqrt",
        lambda original: lambda x: original(x - 1e-3),
        bounds("batch_normalization", ALONE, "ibp"),
    ),
    "radius of centring": Mutant(
        own_statistics,
        "Declared",
        lambda original: lambda f, radius, shape: original(f, lambda r: 0.5 * radius(r), shape),
        bounds("layer_normalization", ALONE, "ibp"),
    ),
    "other entries of a normalised vector from the wrong end": Mutant(
        own_statistics.Normalised,
        "_end",
        lambda original: lambda self, own, x, side: original(self, own, x, -side),
        bounds("rms_normalization", ALONE, "ibp"),
    ),
    "one vector of all groups": Mutant(
        own_statistics,
        "_standardised",
        lambda original: lambda x, axes, epsilon: original(x, range(1, len(x.shape) + 1), epsilon),
        bounds("group_normalization", ALONE, "ibp"),
    ),
    # Windows.
    "window one entry off": Mutant(
        windows.Sliding, "moved", _wrong_offset, in_windows("conv2d_valid")
    ),
    "padding moves windows the wrong way": Mutant(
        windows.Shift,
        "moved",
        lambda original: (
            lambda self, window, extent: original(
                windows.Shift(tuple(-a for a in self.amounts)), window, extent
            )
        ),
        in_windows("zero_padding2d"),
    ),
    "channels of a concatenation swapped": Mutant(
        windows.Split,
        "transpose",
        result(lambda parts: [part._replace(coefficients=-part.coefficients) for part in parts]),
        in_windows("concatenate_channels"),
    ),
    "no mask at the borders": Mutant(
        rows.Frame, "mask", lambda original: lambda self, r, shape: r, in_windows("conv2d_same")
    ),
    "rows of one branch are lost": Mutant(
        rows.Frame, "add", _first_alone, bounds("residual", ALONE, "crown")
    ),
    # Activations.
    "upper line of ReLU through 0": Mutant(
        piecewise.TwoPiece,
        "lines",
        lines(upper_intercept=lambda found: 0.0 * found.upper_intercept),
        bounds("activation_relu", CHAIN, "crown"),
    ),
    "slope of ReLU's upper line": Mutant(
        piecewise.TwoPiece,
        "lines",
        lines(upper_slope=lambda found: 0.7 * found.upper_slope),
        bounds("activation_relu", CHAIN, "crown"),
    ),
    "slope of ReLU's lower line": Mutant(
        piecewise.TwoPiece,
        "lines",
        lines(lower_slope=lambda found: 1.2 * found.lower_slope),
        bounds("activation_relu", CHAIN, "crown"),
    ),
    "lines of a smooth function swapped": Mutant(
        curve.Curve,
        "lines",
        result(lambda found: curve.Lines(*found[2:], *found[:2])),
        bounds("activation_tanh", CHAIN, "crown"),
    ),
    "chord below a smooth function": Mutant(
        curve.Curve,
        "lines",
        lines(lower_intercept=lambda found: found.lower_intercept + 0.05),
        bounds("activation_sigmoid", CHAIN, "crown"),
    ),
    "turning points forgotten": Mutant(
        curve.Curve,
        "interval",
        lambda original: (
            lambda self, lower, upper: Bounds(
                ops.minimum(self(lower), self(upper)), ops.maximum(self(lower), self(upper))
            )
        ),
        bounds("activation_silu", ALONE, "ibp"),
    ),
    "positive coefficients take the upper line": Mutant(
        nonlinear,
        "signs",
        result(lambda pair: pair[::-1]),
        bounds("activation_tanh", CHAIN, "crown"),
    ),
    "optimised slopes leave their range": Mutant(
        alpha,
        "_free_slopes",
        _slopes_beyond_their_range,
        bounds("activation_relu", CHAIN, tfcert.methods.AlphaCrown(iterations=3)),
    ),
    # Products, maxima, softmax.
    "two of four corners of a product": Mutant(
        nonlinear.Product, "interval", _first_two_corners, bounds("multiply", ALONE, "ibp")
    ),
    "no remainder of a product": Mutant(
        nonlinear,
        "_plane",
        lambda original: lambda x, center, radius, s, side: original(x, center, radius, s, 0.0),
        bounds("multiply", ALONE, "crown"),
    ),
    "factors of a product swapped": Mutant(
        nonlinear.Product,
        "backward",
        result(lambda found: (found[0][::-1], found[1])),
        bounds("multiply", ALONE, "crown"),
    ),
    "floor of a maximum": Mutant(
        nonlinear.MaxReduce,
        "relax",
        _floor_from_the_wrong_ends,
        bounds("max_pooling2d_overlapping", MAP, "crown"),
    ),
    "padding takes part in a maximum": Mutant(
        pooling,
        "MaxReduce",
        lambda original: lambda present: original(None),
        bounds("max_pooling2d_same", ALONE, "ibp"),
    ),
    "tangent and chord of a softmax swapped": Mutant(
        simplex.LogSumExp,
        "relax",
        result(lambda found: (*found[2:], *found[:2])),
        bounds("softmax_layer", CHAIN, "crown"),
    ),
    "ends of a softmax": Mutant(
        building,
        "_log_one_plus_others",
        lambda original: lambda own, others, present=None: original(own, own, present),
        bounds("activation_log_softmax", ALONE, "ibp"),
    ),
    "what entries of a softmax share is lost": Mutant(
        simplex.UnitSum,
        "backward",
        result(lambda found: (found[0], 0.0 * found[1])),
        bounds("multi_head_attention", ALONE, "crown-ibp"),
    ),
    # Attention.
    "two of four corners of a matrix product": Mutant(
        contraction, "product_ends", _first_two_corners_alone, bounds("ops_matmul_of_two", ALONE)
    ),
    "any factors taken for weights": Mutant(
        building,
        "Contraction",
        lambda original: lambda equation, anchor, convex: original(equation, convex=True),
        bounds("ops_matmul_of_two", ALONE, "ibp"),
    ),
    "planes of a matrix product turn without their intercept": Mutant(
        contraction.Contraction,
        "relax",
        result(lambda found: (found[0], -found[1], *found[2:])),
        bounds("attention", ALONE, "crown"),
    ),
    "planes of a product turn too far": Mutant(
        nonlinear,
        "steadiness",
        result(lambda t: 0.0 * t + 3.0),
        bounds("multiply", ALONE, "crown"),
    ),
    "no remainder of a matrix product": Mutant(
        contraction.Contraction,
        "relax",
        result(lambda found: (*found[:5], 0.0 * found[5])),
        bounds("ops_matmul_of_two", ALONE, "crown"),
    ),
    "factors of a matrix product swapped": Mutant(
        contraction.Contraction,
        "relax",
        result(lambda found: (found[2], found[1], found[0], *found[3:])),
        bounds("ops_einsum_of_two_all", ALONE, "crown"),
    ),
    "masked positions take part in the sum": Mutant(
        building,
        "LogSumExp",
        lambda original: lambda present: original(None),
        bounds("multi_head_attention_mask", ALONE, "crown-ibp"),
    ),
    "a causal mask turned over": Mutant(
        attention,
        "causal",
        result(np.transpose),
        bounds("multi_head_attention_causal", ALONE, "ibp"),
    ),
    # Sequences.
    "gates of a cell in another order": Mutant(
        recurrent, "_parts", result(lambda parts: parts[::-1]), bounds("lstm", ALONE, "crown")
    ),
    "steps in another order": Mutant(
        recurrent,
        "_at",
        lambda original: lambda x, place: original(x, x.shape[0] - 1 - place),
        bounds("gru", ALONE, "crown"),
    ),
    "a mixture with the lower gate alone": Mutant(
        recurrent,
        "_blended_interval",
        lambda original: (
            lambda gate, *states: original(Interval.from_ends(gate.lower, gate.lower), *states)
        ),
        bounds("gru", ALONE, "ibp"),
    ),
    "slices pulled back to another place": Mutant(
        ops,
        "pad",
        lambda original: lambda x, pads: ops.roll(original(x, pads), 1, axis=-1),
        transposes("lstm"),
    ),
    "lines of another node with the same function": Mutant(
        evaluation,
        "lines_of",
        result(lambda found: curve.Lines(*(ops.roll(t, 1, axis=1) for t in found))),
        bounds("lstm", CHAIN, "crown"),
    ),
    "a direction that is not turned back": Mutant(
        wrappers, "_reversed", lambda original: lambda x: x, bounds("bidirectional_of_two", ALONE)
    ),
    "steps and rows in each other's place": Mutant(
        repeating,
        "_fold",
        result(lambda value: ops.roll(value, 1, axis=0)),
        bounds("time_distributed_residual", ALONE, "ibp"),
    ),
    # Distances.
    "the formula of p = inf at a finite p": Mutant(
        interval_kernels,
        "interval_distances",
        lambda original: lambda lower, upper, w, p: original(lower, upper, w, math.inf),
        bounds("linf_distance_p_2.5", ALONE, "ibp"),
    ),
    "the least distance from the nearer end": Mutant(
        interval_kernels,
        "interval_distances",
        lambda original: (
            lambda lower, upper, w, p: (
                ops.minimum(
                    kernels_of_points.distances(lower, w, p), original(upper, upper, w, p)[0]
                ),
                original(lower, upper, w, p)[1],
            )
        ),
        bounds("linf_distance_p_inf", ALONE, "ibp"),
    ),
    "running means forgotten": Mutant(
        distance.MeanShift,
        "from_moments",
        result(lambda p: (None, 0.0 * p[1])),
        bounds("mean_shift", ALONE, "ibp"),
    ),
    # Methods and regions.
    "radius added where only intervals are known": Mutant(
        answers,
        "dot",
        lambda original: lambda a, b: ops.abs(original(a, b)),
        margins("activation_tanh", ALONE, "ibp"),
    ),
    "bounds of other neurons": Mutant(
        refine, "_scattered", _other_neurons, bounds("activation_relu", CHAIN, "crown")
    ),
    "centre without radius at the input": Mutant(
        sweep,
        "_minimum_on_input",
        lambda original: lambda evaluation, r, frame: 0.9 * original(evaluation, r, frame),
        bounds("dense", ALONE, "crown"),
    ),
    "norm in place of its dual": Mutant(
        geometry,
        "dual_norm",
        lambda original: lambda values, p: original(values, 1.0) if p == 2 else original(values, p),
        bounds("dense", CHAIN, "crown", region=L2),
    ),
    "margins of the wrong sign": Mutant(
        ops, "one_hot", result(lambda hot: -hot), margins("dense", CHAIN, "crown-ibp")
    ),
}
