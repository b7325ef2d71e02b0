"""Errors to plant in the rules and methods, each with a check that has to find it."""

import math

import numpy as np
from keras import ops

import tfcert
from tests.mutants_support import (
    L2,
    Mutant,
    all_channels,
    bounds,
    first_alone,
    first_two_corners,
    first_two_corners_alone,
    floor_from_the_wrong_ends,
    in_windows,
    intervals,
    lines,
    margins,
    no_absolute_value,
    no_flow_into_the_second,
    other_neurons,
    result,
    signed,
    slopes_beyond_their_range,
    swapped,
    transposes,
    wrong_offset,
)
from tests.rule_cases import ALONE, CHAIN, MAP
from tfcert import backend
from tfcert.bounds import alpha, answers, evaluation, refine, sweep
from tfcert.layers import interval_kernels, sorted_kernels
from tfcert.layers import point_kernels as kernels_of_points
from tfcert.regions import geometry
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

__all__ = ["MUTANTS"]


MUTANTS = {
    # Kernels.
    "radius without absolute value": Mutant(
        linear.Kernel, "interval", no_absolute_value, bounds("dense", ALONE, "ibp")
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
        linear_maps, "_ungrouped", all_channels, bounds("conv1d_groups", ALONE, "ibp")
    ),
    # Other affine steps.
    "negative factors keep the order of ends": Mutant(
        linear.Scale,
        "interval",
        intervals(lambda found, p, x: found if p[0] is None else signed(found, p, x)),
        bounds("ops_subtract_from_number", ALONE, "ibp"),
    ),
    "ends swapped by moving values": Mutant(
        linear.Rearrange, "interval", intervals(swapped), bounds("flatten", ALONE, "ibp")
    ),
    "one branch of a sum": Mutant(
        linear.Sum, "transpose", no_flow_into_the_second, bounds("add", ALONE, "crown")
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
        windows.Sliding, "moved", wrong_offset, in_windows("conv2d_valid")
    ),
    "padding moves windows the wrong way": Mutant(
        windows.Shift,
        "moved",
        lambda original: (
            lambda self, window, extent: original(
                windows.Shift(tuple(-a for a in self.amounts), self.crops), window, extent
            )
        ),
        in_windows("zero_padding2d"),
    ),
    "no mask at the borders of a cropped map": Mutant(
        windows.Shift,
        "stays_outside",
        lambda original: property(lambda self: True),
        in_windows("cropping2d_by_a_column"),
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
        rows.Frame, "add", first_alone, bounds("residual", ALONE, "crown")
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
        slopes_beyond_their_range,
        bounds("activation_relu", CHAIN, tfcert.methods.AlphaCrown(iterations=3)),
    ),
    # Products, maxima, softmax.
    "two of four corners of a product": Mutant(
        nonlinear.Product, "interval", first_two_corners, bounds("multiply", ALONE, "ibp")
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
        floor_from_the_wrong_ends,
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
        contraction, "product_ends", first_two_corners_alone, bounds("ops_matmul_of_two", ALONE)
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
        backend,
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
    "the largest difference in place of the sum": Mutant(
        sorted_kernels,
        "sorted_interval",
        lambda original: lambda lower, upper, w, _: original(lower, upper, w, [1.0]),
        bounds("sorted_distance", ALONE, "ibp"),
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
        refine, "_scattered", other_neurons, bounds("activation_relu", CHAIN, "crown")
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
