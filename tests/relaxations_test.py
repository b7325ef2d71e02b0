"""Tests of the relaxations of scalar functions against float64 references of their own."""

from collections.abc import Callable
from typing import NamedTuple

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest
from absl.testing import parameterized
from keras import ops
from scipy import special

import tfcert.backend
from tfcert import relaxations

# By how much sampled points may lie outside, relative to |f| + |slope * x|. The float32 lines are
# meant to hold in exact arithmetic; float64 lines are checked in their own precision.
TOLERANCE = {"float32": 1e-9, "float64": 2e-15}
# Ranges are evaluations of f, with its rounding: relative to |f| + min(|x|, noise).
RANGE_TOLERANCE = {"float32": 1e-6, "float64": 2e-15}
# How much of the gap between both lines, at the midpoint, they may give away: mostly the distance
# of the nearest sample from a touching point (a fine grid gives 1e-4, which is rounding).
GAP_TOLERANCE = 5e-3
# Numbers below float32's smallest normal one (1.2e-38) are 0 to some kernels.
TINY = 1e-36

INTERVALS = 200
INF = np.inf


class Case(NamedTuple):
    curve: relaxations.Curve
    reference: Callable[[np.ndarray], np.ndarray]
    within: tuple[float, float] = (-INF, INF)  # Where intervals are drawn.
    scale: float = 1e3  # The widest ones.
    exact: bool = True  # Whether the lines are the envelopes' (not where little is known of f).
    rounded: bool = False  # Whether f has constants that float32 rounds.


def piecewise(breaks, *pieces):
    def reference(x):
        conditions = [x < breaks[0]]
        conditions += [(x >= a) & (x < b) for a, b in zip(breaks, breaks[1:], strict=False)]
        return np.piecewise(x, [*conditions, x >= breaks[-1]], pieces)

    return reference


def keras_relu(negative_slope=0.0, max_value=INF, threshold=0.0):
    # As the docstring of keras.layers.ReLU has it.
    def reference(x):
        low = negative_slope * (x - threshold)
        return np.where(x > threshold, np.minimum(x, max_value), low)

    return reference


def exponential_unit(left, width, right):
    return lambda x: np.where(x > 0, right * x, left * width * np.expm1(np.minimum(x, 0) / width))


def gelu_tanh(x):
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    # (1 + tanh(z)) / 2 is the logistic function of 2z.
    return x * special.expit(2 * inner)


def tanh_shrink(x):
    # The series where the difference cancels.
    near = x**3 * (1 / 3 - x**2 * (2 / 15 - x**2 * (17 / 315 - x**2 * 62 / 2835)))
    return np.where(np.abs(x) < 0.05, near, x - np.tanh(x))


def hard_silu(x):
    return x * np.clip(x + 3, 0, 6) / 6


def soft_log(x):
    return np.logaddexp(0, x)


# PReLU: one slope per channel, on the last axis.
ALPHA = np.array([0.0, 0.25, 1.0, 1.5, -0.5, -2.0])
POSITIVE = (1e-6, INF)
SELU = (1.0507009873554805 * 1.6732632423543772, 1.0, 1.0507009873554805)

# Every curve of the table, by its name there.
TABLE = {
    "relu": Case(relaxations.CURVES["relu"], lambda x: np.maximum(x, 0)),
    "leaky_relu": Case(
        relaxations.CURVES["leaky_relu"], lambda x: np.where(x > 0, x, 0.2 * x), rounded=True
    ),
    "abs": Case(relaxations.CURVES["abs"], np.abs),
    "relu6": Case(relaxations.CURVES["relu6"], lambda x: np.clip(x, 0, 6)),
    "hard_tanh": Case(relaxations.CURVES["hard_tanh"], lambda x: np.clip(x, -1, 1)),
    "hard_sigmoid": Case(relaxations.CURVES["hard_sigmoid"], lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "sparse_sigmoid": Case(
        relaxations.CURVES["sparse_sigmoid"], lambda x: np.clip(x / 2 + 0.5, 0, 1)
    ),
    "soft_shrink": Case(
        relaxations.CURVES["soft_shrink"],
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    ),
    "hard_shrink": Case(
        relaxations.CURVES["hard_shrink"], lambda x: np.where(np.abs(x) > 0.5, x, 0)
    ),
    "elu": Case(relaxations.CURVES["elu"], exponential_unit(1.0, 1.0, 1.0)),
    "celu": Case(relaxations.CURVES["celu"], exponential_unit(1.0, 1.0, 1.0)),
    "selu": Case(relaxations.CURVES["selu"], exponential_unit(*SELU)),
    "gelu": Case(relaxations.CURVES["gelu"], lambda x: x * special.ndtr(x)),
    "silu": Case(relaxations.CURVES["silu"], lambda x: x * special.expit(x)),
    "hard_silu": Case(relaxations.CURVES["hard_silu"], hard_silu),
    "mish": Case(relaxations.CURVES["mish"], lambda x: x * np.tanh(soft_log(x))),
    "sigmoid": Case(relaxations.CURVES["sigmoid"], special.expit),
    "tanh": Case(relaxations.CURVES["tanh"], np.tanh),
    "erf": Case(relaxations.CURVES["erf"], special.erf),
    "arctan": Case(relaxations.CURVES["arctan"], np.arctan),
    "softsign": Case(relaxations.CURVES["softsign"], lambda x: x / (1 + np.abs(x))),
    "tanh_shrink": Case(relaxations.CURVES["tanh_shrink"], tanh_shrink),
    "softplus": Case(relaxations.CURVES["softplus"], soft_log),
    "log_sigmoid": Case(relaxations.CURVES["log_sigmoid"], special.log_expit),
    "sparse_plus": Case(
        relaxations.CURVES["sparse_plus"],
        piecewise((-1, 1), lambda x: 0 * x, lambda x: (x + 1) ** 2 / 4, lambda x: x),
    ),
    "squareplus": Case(
        relaxations.CURVES["squareplus"],
        lambda x: np.where(x > 0, (x + np.hypot(x, 2)) / 2, 2 / (np.hypot(x, 2) - x)),
    ),
    "exponential": Case(relaxations.CURVES["exponential"], np.exp, (-60, 60), 30.0),
    "expm1": Case(relaxations.CURVES["expm1"], np.expm1, (-60, 60), 30.0),
    "square": Case(relaxations.CURVES["square"], np.square),
    "log": Case(relaxations.CURVES["log"], np.log, POSITIVE),
    "log1p": Case(relaxations.CURVES["log1p"], np.log1p, (-1 + 1e-5, INF)),
    "sqrt": Case(relaxations.CURVES["sqrt"], np.sqrt, (0, INF)),
    "rsqrt": Case(relaxations.CURVES["rsqrt"], lambda x: 1 / np.sqrt(x), POSITIVE),
    "reciprocal": Case(relaxations.CURVES["reciprocal"], lambda x: 1 / x, POSITIVE),
}
FACTORIES = {
    "reciprocal_left": Case(relaxations.CURVES["reciprocal"], lambda x: 1 / x, (-INF, -1e-6)),
    "relu_all": Case(relaxations.relu(0.25, 4.0, 0.5), keras_relu(0.25, 4.0, 0.5)),
    "relu_jump": Case(relaxations.relu(threshold=1.0), keras_relu(threshold=1.0)),
    "relu_steep": Case(relaxations.relu(2.0, 3.0), keras_relu(2.0, 3.0)),
    "relu_step": Case(relaxations.relu(0.5, 1.0, 2.0), keras_relu(0.5, 1.0, 2.0)),
    "leaky_relu_steep": Case(relaxations.leaky_relu(3.0), lambda x: np.where(x > 0, x, 3 * x)),
    "prelu": Case(
        relaxations.prelu(ALPHA),
        lambda x: np.where(
            x > 0,
            x,
            np.swapaxes(np.swapaxes(x, -1, -2) * ALPHA, -1, -2) if x.ndim > 1 else x * ALPHA,
        ),
    ),
    "clip": Case(relaxations.clip(-2.0, 0.5), lambda x: np.clip(x, -2, 0.5)),
    "threshold": Case(relaxations.threshold(0.5, -1.0), lambda x: np.where(x > 0.5, x, -1.0)),
    "threshold_down": Case(relaxations.threshold(-1.0, 2.0), lambda x: np.where(x > -1.0, x, 2.0)),
    "sawtooth": Case(
        relaxations.PiecewiseLinear(
            "sawtooth", lambda x: ops.where(x < 1.0, x, x - 1.0), (1.0,), (1.0, 1.0), (0.0, -1.0)
        ),
        lambda x: np.where(x < 1, x, x - 1),
    ),
    "soft_shrink_2": Case(
        relaxations.soft_shrink(2.0), lambda x: np.sign(x) * np.maximum(np.abs(x) - 2, 0)
    ),
    "hard_shrink_1": Case(relaxations.hard_shrink(1.0), lambda x: np.where(np.abs(x) > 1, x, 0)),
    "elu_flat": Case(relaxations.elu(0.5), exponential_unit(0.5, 1.0, 1.0)),
    "elu_steep": Case(relaxations.elu(1.5), exponential_unit(1.5, 1.0, 1.0)),
    "celu_2": Case(relaxations.celu(2.0), exponential_unit(1.0, 2.0, 1.0)),
    "gelu_tanh": Case(relaxations.gelu(approximate=True), gelu_tanh),
    "power_2": Case(relaxations.power(2), lambda x: x**2),
    "power_3": Case(relaxations.power(3), lambda x: x**3),
    "power_4": Case(relaxations.power(4), lambda x: x**4),
    "squareplus_1": Case(
        relaxations.squareplus(1),
        lambda x: np.where(x > 0, (x + np.hypot(x, 1)) / 2, 0.5 / (np.hypot(x, 1) - x)),
    ),
    "step": Case(
        relaxations.monotone_only("step", lambda x: ops.where(x < 0.0, x - 1.0, x + 1.0)),
        lambda x: np.where(x < 0, x - 1, x + 1),
        exact=False,
    ),
    "falling": Case(
        relaxations.monotone_only("falling", lambda x: -ops.sigmoid(x), decreasing=True),
        lambda x: -special.expit(x),
        exact=False,
    ),
    "declared": Case(
        relaxations.Curve(
            "two bends",
            lambda x: ops.where(x < 0.0, ops.exp(ops.minimum(x, 0.0)), 1.0 + x - x * x * x),
            lambda x: ops.where(x < 0.0, ops.exp(ops.minimum(x, 0.0)), 1.0 - 3.0 * x * x),
            breaks=(0.0,),
            curvature=("convex", "concave"),
            turning=(1 / np.sqrt(3),),
            limits=(0.0, -INF),
            noise=4.0,
        ),
        lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1 + x - x**3),
    ),
}
CASES = TABLE | FACTORIES

every_case = parameterized.named_parameters((name, case) for name, case in CASES.items())
# JAX compiles every loop of every curve anew, also in eager mode: one curve of each kind there.
KINDS = ("relu", "prelu", "relu_all", "relu_jump", "tanh", "selu", "softplus", "log", "step")
looped_case = parameterized.named_parameters(
    (name, case)
    for name, case in CASES.items()
    if keras.backend.backend() != "jax" or name in KINDS
)


def setUpModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def tearDownModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", False)


def draw_intervals(case, dtype, seed, count=INTERVALS):
    """Intervals of shape (count, 6): of all widths, 0 among them, around breaks and anywhere."""
    rng = np.random.default_rng(seed)
    shape = (count, 6)
    width = 10 ** rng.uniform(-3, np.log10(case.scale), shape) * (rng.random(shape) < 0.95)
    near = rng.choice([*case.curve.breaks, *case.curve.turning, 0.0, 1.0], shape)
    far = rng.normal(size=shape) * 10 ** rng.uniform(-2, np.log10(case.scale), shape)
    left = np.where(rng.random(shape) < 0.6, near, far) - width * rng.random(shape)
    right = left + width
    # Ends exactly at a break now and then.
    left = np.where(rng.random(shape) < 0.05, np.minimum(near, right), left)
    low, high = case.within
    if np.isfinite(low) and np.isinf(high):
        left, right = low + np.abs(left - low), low + np.abs(right - low)
    elif np.isinf(low) and np.isfinite(high):
        left, right = high - np.abs(left - high), high - np.abs(right - high)
    left, right = (np.clip(end, low, high).astype(dtype) for end in (left, right))
    return np.minimum(left, right), np.maximum(left, right)


def samples(case, lower, upper, dense=15, even=41):
    """Points of the intervals on a new last axis: evenly spaced, near breaks, both ends."""
    lower, upper = lower.astype("float64")[..., None], upper.astype("float64")[..., None]
    steps = np.concatenate([[-1e-9, 0, 1e-9], np.geomspace(1e-4, 1e3, dense)])
    fixed = [t + s * steps for t in {*case.curve.breaks, 0.0} for s in (-1, 1)]
    fixed = np.broadcast_to(np.concatenate(fixed), (*lower.shape[:-1], np.size(fixed)))
    even = lower + (upper - lower) * np.linspace(0, 1, even)
    return np.clip(np.concatenate([even, fixed], -1), lower, upper)


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


def beside_samples(tensors):
    """As float64 arrays with a last axis to go with samples."""
    return [array.astype("float64")[..., None] for array in numpy(tensors)]


def gradient(function, *values):
    """Gradients of the sum of a function's values, as arrays."""
    tensors = [ops.convert_to_tensor(value) for value in values]
    _, _, result = tfcert.backend.value_and_gradients(
        lambda variables: (ops.sum(function(*variables)), ()), tensors
    )
    return numpy(result)


def finite_sum(tensors):
    """Adds up what is finite, as a loss that masks the rest would."""
    return sum(ops.where(ops.isfinite(tensor), tensor, 0.0) for tensor in tensors)


class CaseTest(parameterized.TestCase):
    def assert_lines_enclose(self, case, lines, x, values, message=""):
        """Asserts that sampled values lie between the lines."""
        dtype = keras.backend.standardize_dtype(lines.lower_intercept.dtype)
        tolerance = 2e-7 if case.rounded and dtype == "float32" else TOLERANCE[dtype]
        low_slope, low, high_slope, high = beside_samples(lines)
        below = low_slope * x + low - values
        above = values - high_slope * x - high
        size = np.abs(values) + TINY
        self.assertLessEqual(np.max(below / (size + np.abs(low_slope * x))), tolerance, message)
        self.assertLessEqual(np.max(above / (size + np.abs(high_slope * x))), tolerance, message)

    def assert_range(self, case, bounds, lower, upper, x, values):
        """Asserts that the range is that of the samples."""
        dtype = keras.backend.standardize_dtype(bounds.lower.dtype)
        low, high = beside_samples(bounds)
        noise = np.minimum(np.abs(x), case.curve.noise)
        slack = RANGE_TOLERANCE[dtype] * (np.abs(values) + noise) + TINY * (1 + np.abs(x))
        self.assertTrue(np.all(low - values <= slack))
        self.assertTrue(np.all(values - high <= slack))
        # Attained, up to rounding; samples 1e-9 away stand for the limits at jumps.
        ends = np.stack([lower, upper, *[np.clip(t, lower, upper) for t in case.curve.turning]], -1)
        values = np.concatenate([values, case.reference(ends.astype("float64"))], -1)
        slack = 1e-6 * (1e-3 + np.abs(values).max(-1, keepdims=True) + noise.max(-1, keepdims=True))
        self.assertTrue(np.all(values.min(-1, keepdims=True) - low <= slack))
        self.assertTrue(np.all(high - values.max(-1, keepdims=True) <= slack))

    def assert_no_gap_where_linear(self, case, lines, lower, upper, x, values):
        """Asserts that both lines are f where f is linear, and on single points."""
        unstable = numpy([case.curve.unstable(lower, upper)])[0]
        ends = case.reference(np.stack([lower, upper], -1).astype("float64"))
        share = (x - x[..., :1]) / np.maximum(np.ptp(x, axis=-1), 1e-300)[..., None]
        bend = np.abs(ends[..., :1] + np.diff(ends) * share - values).max(-1)
        self.assertTrue(np.all(unstable[bend > 1e-5 * (1 + np.abs(values).max(-1))]))
        low_slope, low, high_slope, high = beside_samples(lines)
        gap = (high_slope * x + high - low_slope * x - low).max(-1)
        size = np.maximum(np.abs(lower), np.abs(upper))
        size = np.abs(values).max(-1) + (np.abs(low_slope) + np.abs(high_slope))[..., 0] * size
        size = size + np.minimum(np.abs(x), case.curve.noise).max(-1)
        allowed = 3e-6 * size + TINY * (1 + np.abs(x).max(-1))
        self.assertTrue(np.all((gap <= allowed)[~unstable | (lower == upper)]))

    def assert_given_slopes_enclose(self, case, lines, lower, upper, x, values, seed):
        """Asserts that slopes inside their range, and any others, get sound intercepts."""
        rng = np.random.default_rng(seed)
        least, most, upper_least, upper_most = numpy(case.curve.slope_range(lower, upper))
        for slope, low, high in (
            (lines.lower_slope, least, most),
            (lines.upper_slope, upper_least, upper_most),
        ):
            slope = numpy([slope])[0]
            self.assertTrue(np.all(np.isfinite(low) & np.isfinite(high)))
            self.assertTrue(np.all((low <= slope) & (slope <= high)))
        share = rng.random(lower.shape).astype(lower.dtype)
        wild = (rng.normal(size=lower.shape) * 10 ** rng.uniform(-3, 1)).astype(lower.dtype)
        slopes = np.stack([least + share * (most - least), wild])
        upper_slopes = np.stack([upper_least + share * (upper_most - upper_least), wild])
        lines = case.curve.lines_with_slopes(slopes, upper_slopes, lower, upper)
        self.assert_lines_enclose(case, lines, x, values, "given slopes")


class EnclosureTest(CaseTest):
    @looped_case
    @hp.settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=2,
        phases=(hp.Phase.explicit, hp.Phase.generate),  # A seed has nothing to shrink.
    )
    @hp.given(seed=hps.integers(0, 2**31 - 1))
    def test_float32(self, case, seed):
        lower, upper = draw_intervals(case, "float32", seed)
        x = samples(case, lower, upper)
        values = case.reference(x)
        lines = case.curve.lines(lower, upper)
        bounds = case.curve.interval(lower, upper)
        self.assertEqual(
            {keras.backend.standardize_dtype(t.dtype) for t in (*lines, *bounds)}, {"float32"}
        )
        self.assert_range(case, bounds, lower, upper, x, values)
        self.assert_lines_enclose(case, lines, x, values)
        self.assert_no_gap_where_linear(case, lines, lower, upper, x, values)
        self.assert_given_slopes_enclose(case, lines, lower, upper, x, values, seed)

    @looped_case
    def test_float64(self, case):
        lower, upper = draw_intervals(case, "float64", 1, count=40)
        x = samples(case, lower, upper, dense=200, even=1001)
        values = case.reference(x)
        lines = case.curve.lines(lower, upper)
        bounds = case.curve.interval(lower, upper)
        self.assertEqual(
            {keras.backend.standardize_dtype(t.dtype) for t in (*lines, *bounds)}, {"float64"}
        )
        self.assert_range(case, bounds, lower, upper, x, values)
        self.assert_lines_enclose(case, lines, x, values)
        self.assert_no_gap_where_linear(case, lines, lower, upper, x, values)
        self.assert_given_slopes_enclose(case, lines, lower, upper, x, values, 1)
        if case.exact:
            self.assert_tightest_at_the_midpoint(case, lines, lower, upper, x, values)

    def assert_tightest_at_the_midpoint(self, case, lines, lower, upper, x, values):
        """Asserts that both lines touch f on both sides of the midpoint, or at it.

        That makes the lower one a supporting line of the convex envelope there: any other line
        below f is lower at the midpoint, as it is no higher at both touching points.
        """
        middle = (0.5 * lower + 0.5 * upper)[..., None]
        x = np.concatenate([x, middle], -1)
        values = np.concatenate([values, case.reference(middle)], -1)
        low_slope, low, high_slope, high = beside_samples(lines)
        size = np.maximum(np.abs(lower), np.abs(upper))[..., None]
        rounding = np.abs(values).max(-1, keepdims=True) + np.minimum(size, case.curve.noise)
        rounding = rounding + (np.abs(low_slope) + np.abs(high_slope)) * size
        gap = (high_slope - low_slope) * middle + high - low
        allowed = GAP_TOLERANCE * gap + 1e-14 * rounding + TINY
        for distance in (values - low_slope * x - low, high_slope * x + high - values):
            for side in (x <= middle, x >= middle):
                nearest = np.where(side, distance, INF).min(-1, keepdims=True)
                self.assertTrue(np.all(nearest <= allowed))

    @looped_case
    def test_parallel_lines(self, case):
        lower, upper = draw_intervals(case, "float32", 23)
        x = samples(case, lower, upper)
        lines = case.curve.lines(lower, upper, slope="same")
        self.assert_lines_enclose(case, lines, x, case.reference(x))

    @parameterized.product(
        name=("relu", "leaky_relu", "leaky_relu_steep", "relu6", "tanh", "gelu", "exponential"),
        slope=("zero", "one"),
    )
    def test_fixed_slopes(self, name, slope):
        case = CASES[name]
        lower, upper = draw_intervals(case, "float32", 29)
        x = samples(case, lower, upper)
        lines = case.curve.lines(lower, upper, slope=slope)
        self.assert_lines_enclose(case, lines, x, case.reference(x))
        if name != "leaky_relu_steep":  # Concave: it is the upper line that has a choice.
            wanted = {"zero": 0.2 if name == "leaky_relu" else 0.0, "one": 1.0}[slope]
            unstable = numpy([case.curve.unstable(lower, upper)])[0]
            np.testing.assert_array_equal(
                numpy(lines)[0][unstable & (lower < upper)], np.float32(wanted)
            )


class DefinitionTest(parameterized.TestCase):
    def test_every_curve_of_the_table_has_a_case(self):
        self.assertEqual(set(TABLE), set(relaxations.CURVES))

    @every_case
    def test_function_and_derivative(self, case):
        lower, upper = draw_intervals(case, "float64", 3, count=40)
        x = samples(case, lower, upper)[..., ::5]
        for part in (0, 7, -1):
            at, noise = x[..., part], np.minimum(np.abs(x[..., part]), case.curve.noise)
            expected = case.reference(x)[..., part]
            error = np.abs(numpy([case.curve(at)])[0] - expected)
            self.assertTrue(np.all(error <= 1e-14 * (np.abs(expected) + noise)))
        if not case.exact:
            return
        away = np.abs(at[..., None] - [*case.curve.breaks, case.curve.domain[0]]).min(-1)
        step = 1e-4 * np.minimum(away, 1.0)[..., None]
        ahead, behind = (case.reference(at[..., None] + sign * step) for sign in (1, -1))
        slope = ((ahead - behind) / (2 * np.where(step > 0, step, 1.0)))[..., 0]
        error = np.abs(numpy([case.curve.derivative(at)])[0] - slope)
        allowed = 1e-5 * np.abs(slope) + 1e-6 + 1e-14 * np.abs(expected) / (step[..., 0] + 1e-300)
        self.assertTrue(np.all((error <= allowed)[step[..., 0] > 0]))

    @parameterized.named_parameters(
        (name, name) for name in sorted(TABLE) if hasattr(keras.activations, name)
    )
    def test_agrees_with_keras(self, name):
        x = np.linspace(-8, 8, 321).astype("float32")
        expected = ops.convert_to_numpy(getattr(keras.activations, name)(x))
        np.testing.assert_allclose(
            ops.convert_to_numpy(relaxations.CURVES[name](x)), expected, rtol=2e-6, atol=2e-6
        )

    @parameterized.parameters(
        {"negative_slope": 0.25, "max_value": 4.0, "threshold": 0.5},
        {"threshold": 1.0},
        {"negative_slope": 2.0, "max_value": 3.0},
        {"negative_slope": 0.5, "max_value": 1.0, "threshold": 2.0},
        {"max_value": 0.0},
        {},
    )
    def test_relu_agrees_with_the_layer(self, **arguments):
        x = np.linspace(-8, 8, 321).astype("float32")
        curve, layer = relaxations.relu(**arguments), keras.layers.ReLU(**arguments)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(curve(x)), ops.convert_to_numpy(layer(x))
        )

    def test_rejects_contradictory_facts(self):
        with self.assertRaisesRegex(ValueError, "one more entry than `breaks`"):
            relaxations.Curve("odd", ops.tanh, ops.tanh, breaks=(0.0,), curvature=("convex",))
        with self.assertRaisesRegex(ValueError, "one of"):
            relaxations.Curve("odd", ops.tanh, ops.tanh, curvature=("wavy",))
        with self.assertRaisesRegex(ValueError, "`slope` must be one of"):
            relaxations.CURVES["relu"].lines(-1.0, 1.0, slope="steep")
        with self.assertRaisesRegex(ValueError, "`exponent`"):
            relaxations.power(1)


class ReluTest(parameterized.TestCase):
    """The hot path, by hand: stable below, stable above, mostly positive, mostly negative."""

    lower = np.array([-3.0, 1.0, -1.0, -3.0, 0.0, -2.0, 0.0], "float32")
    upper = np.array([-1.0, 4.0, 3.0, 1.0, 0.0, 0.0, 2.0], "float32")

    @parameterized.parameters(
        ("adaptive", [0, 1, 1, 0]),
        ("zero", [0, 1, 0, 0]),
        ("one", [0, 1, 1, 1]),
        ("same", [0, 1, 0.75, 0.25]),
    )
    def test_lines(self, slope, expected):
        lines = relaxations.CURVES["relu"].lines(self.lower, self.upper, slope=slope)
        lines = [ops.convert_to_numpy(part) for part in lines]
        np.testing.assert_allclose(lines[0][:4], expected, rtol=1e-6)
        np.testing.assert_array_equal(lines[1], 0)
        np.testing.assert_allclose(lines[2][:4], [0, 1, 0.75, 0.25], rtol=1e-6)
        np.testing.assert_allclose(lines[3][:4], [0, 0, 0.75, 0.75], rtol=2e-6)
        for part in lines[::2]:
            np.testing.assert_array_equal(part[[0, 5]], 0)
            np.testing.assert_array_equal(part[[1, 6]], 1)
        np.testing.assert_array_equal(lines[3][[0, 1, 4, 5, 6]], 0)

    def test_slope_range(self):
        ends = relaxations.CURVES["relu"].slope_range(self.lower, self.upper)
        ends = [ops.convert_to_numpy(end) for end in ends]
        np.testing.assert_array_equal(ends[0][:4], [0, 1, 0, 0])
        np.testing.assert_array_equal(ends[1][:4], [0, 1, 1, 1])
        np.testing.assert_array_equal(ends[2], ends[3])

    def test_slopes_between_0_and_1_need_no_intercept(self):
        slope = np.linspace(0, 1, 5, dtype="float32")[:, None]
        lines = relaxations.CURVES["relu"].lines_with_slopes(
            slope, slope, self.lower[None], self.upper[None]
        )
        crossing = (self.lower < 0) & (self.upper > 0)
        self.assertEqual(tuple(lines.lower_intercept.shape), (5, 7))
        np.testing.assert_array_equal(ops.convert_to_numpy(lines.lower_intercept)[:, crossing], 0)

    def test_infinite_ends(self):
        lower = np.array([-INF, -INF, 1.0, -INF, -2.0], "float32")
        upper = np.array([-1.0, 5.0, INF, INF, INF], "float32")
        lines = relaxations.CURVES["relu"].lines(lower, upper)
        lines = [ops.convert_to_numpy(part) for part in lines]
        np.testing.assert_array_equal(lines[2], [0, 0, 1, 0, 0])
        np.testing.assert_array_equal(lines[3], [0, 5, 0, INF, INF])
        np.testing.assert_array_equal(lines[1], 0)
        slope = np.full(5, 0.5, "float32")
        lines = relaxations.CURVES["relu"].lines_with_slopes(slope, slope, lower, upper)
        np.testing.assert_allclose(
            ops.convert_to_numpy(lines.lower_intercept), [0.5, 0, 0.5, 0, 0], rtol=1e-6
        )
        np.testing.assert_array_equal(
            ops.convert_to_numpy(lines.upper_intercept), [INF, INF, INF, INF, INF]
        )


class DegenerateTest(CaseTest):
    @looped_case
    def test_extreme_float32(self, case):
        self.check_extreme_intervals(case, "float32")

    @looped_case
    def test_extreme_float64(self, case):
        self.check_extreme_intervals(case, "float64")

    def check_extreme_intervals(self, case, dtype):
        largest = float(np.finfo(dtype).max)
        points = np.array([0.0, 1e-30, 1.0, 1e6, 1e30, largest, INF])
        points = np.unique(np.concatenate([-points, points]).astype(dtype))
        points = points[(points >= case.within[0]) & (points <= case.within[1])]
        lower, upper = np.meshgrid(points, points)
        lower, upper = (np.repeat(end[lower <= upper][:, None], 6, 1) for end in (lower, upper))
        half = np.full_like(lower, 0.5)
        bounds = case.curve.interval(lower, upper)
        tight = case.curve.lines(lower, upper)
        given = case.curve.lines_with_slopes(half, half, lower, upper)
        slopes = case.curve.slope_range(lower, upper) if dtype == "float32" else ()
        for tensor in numpy((*bounds, *tight, *given, *slopes)):
            self.assertFalse(np.isnan(tensor).any())
        for slope in numpy((*tight[::2], *given[::2])):
            self.assertTrue(np.isfinite(slope).all())
        # Wherever values can be computed they lie inside.
        points = points[np.abs(points) < 1e31].astype("float64")
        x = np.broadcast_to(points, (*lower.shape, points.size))
        inside = (lower[..., None] <= x) & (x <= upper[..., None])
        with np.errstate(all="ignore"):
            values = case.reference(x)
            size = np.abs(values) + 1e-30
            low, high = beside_samples(bounds)
            self.assertFalse(
                np.any(inside & (np.maximum(low - values, values - high) > 1e-6 * size))
            )
            for lines in (tight, given):
                low_slope, low, high_slope, high = beside_samples(lines)
                size = size + np.abs(low_slope * x) + np.abs(high_slope * x)
                below = low_slope * x + low - values
                above = values - high_slope * x - high
                usable = inside & np.isfinite(size)
                self.assertFalse(np.any(usable & (np.maximum(below, above) > 1e-6 * size)))

    @parameterized.parameters(
        ("log", 0.0, 1.0),
        ("log", -1.0, 1.0),
        ("log1p", -1.0, 1.0),
        ("sqrt", -0.5, 1.0),
        ("rsqrt", 0.0, 1.0),
        ("reciprocal", -1.0, 1.0),
        ("reciprocal", 0.0, 1.0),
    )
    def test_outside_the_domain_is_nan(self, name, low, high):
        curve = relaxations.CURVES[name]
        lower, upper = np.array([low, 1.0], "float32"), np.array([high, 2.0], "float32")
        for part in (*curve.interval(lower, upper), *curve.lines(lower, upper)[1::2]):
            np.testing.assert_array_equal(np.isnan(ops.convert_to_numpy(part)), [True, False])
        self.assertIn(name, curve.domain_text)

    @parameterized.parameters(
        "relu",
        "leaky_relu",
        "abs",
        "prelu",
        "relu6",
        "hard_shrink",
        "tanh",
        "gelu",
        "square",
        "log",
    )
    def test_nan_is_passed_on(self, name):
        case = CASES[name]
        lower, upper = np.full((2, 6), [[np.nan], [0.5]]), np.full((2, 6), [[0.75], [np.nan]])
        lines = case.curve.lines(lower, upper)
        for part in numpy(case.curve.interval(lower, upper)):
            self.assertTrue(np.isnan(part).any())
        lines = numpy((lines.lower_intercept, lines.upper_intercept))
        self.assertTrue((np.isnan(lines[0]) | np.isnan(lines[1])).all())


class GradientTest(parameterized.TestCase):
    @looped_case
    def test_intercepts_follow_the_envelope_theorem(self, case):
        if not case.exact:
            return
        lower, upper = draw_intervals(case, "float64", 11, count=20)
        low, high, upper_low, upper_high = numpy(case.curve.slope_range(lower, upper))
        share = np.random.default_rng(5).uniform(0.2, 0.8, lower.shape)
        # Not at a corner of the intercept, where it has more than one gradient.
        slopes = low + share * (high - low) + 0.01 * (low == high)
        upper_slopes = (
            upper_low + share * (upper_high - upper_low) + 0.01 * (upper_low == upper_high)
        )

        def intercepts(slope, upper_slope):
            return case.curve.lines_with_slopes(slope, upper_slope, lower, upper)[1::2]

        gradients = gradient(lambda *both: sum(intercepts(*both)), slopes, upper_slopes)
        shifts = np.array([0.0, -0.01, 0.01, 1.0])[:, None, None]
        moved = numpy(intercepts(slopes + shifts, upper_slopes + shifts))
        for sign, slope, slow, values in zip(
            (1, -1), (slopes, upper_slopes), gradients, moved, strict=True
        ):
            # Minus a point of the interval, where the line touches f ...
            slack = 1e-6 * (np.abs(lower) + np.abs(upper))
            self.assertTrue(np.all((-slow >= lower - slack) & (-slow <= upper + slack)))
            # ... and a subgradient of the intercept, which is concave (convex) in the slope.
            size = np.abs(values) + np.abs(values[0]) + np.abs(slow) * (np.abs(slope) + 1)
            size = size + np.minimum(np.abs(slow), case.curve.noise)
            error = sign * (values - values[0] - slow * shifts)
            rounding = 1e-9 * (np.abs(slope) + 1) * np.maximum(np.abs(lower), np.abs(upper))
            self.assertTrue(np.all(error <= 1e-6 * size + rounding))

    @parameterized.parameters("relu", "tanh", "gelu", "softplus", "softsign")
    def test_gradient_of_intercepts_equals_finite_differences(self, name):
        lower, upper = np.array([-2.0, -1.5, -3.0]), np.array([1.0, 2.0, 2.5])
        curve = relaxations.CURVES[name]
        low, high, _, _ = numpy(curve.slope_range(lower, upper))
        slope = low + 0.4 * (high - low)

        def intercept(s):
            return curve.lines_with_slopes(s, s, lower, upper).lower_intercept

        step = 1e-5
        expected = numpy([intercept(slope + step) - intercept(slope - step)])[0] / (2 * step)
        np.testing.assert_allclose(gradient(intercept, slope)[0], expected, rtol=1e-3, atol=1e-4)

    @parameterized.parameters("relu", "leaky_relu", "abs", "relu6", "tanh", "gelu", "softplus")
    def test_lines_are_differentiable_in_the_ends(self, name):
        curve = relaxations.CURVES[name]
        lower = np.array([-2.0, -1.0, 0.5, -3.0, -1.5])
        upper = np.array([1.0, 3.0, 2.5, -1.0, 1.2])
        step = 1e-5
        shifts = step * np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])[:, :, None]
        moved = numpy(curve.lines(lower + shifts[:, 0], upper + shifts[:, 1]))
        for index, values in enumerate(moved):
            by_lower, by_upper = gradient(
                lambda low, high, index=index: curve.lines(low, high)[index], lower, upper
            )
            for result, (ahead, behind) in ((by_lower, values[:2]), (by_upper, values[2:])):
                expected = (ahead - behind) / (2 * step)
                np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-4)

    @looped_case
    def test_gradients_are_never_nan(self, case):
        lower, upper = draw_intervals(case, "float32", 13, count=20)
        upper[:4] = lower[:4]
        extremes = [(-INF, INF), (-INF, 1.0), (2.0, INF), (0.0, 0.0), (-1.0, 1.0), (1e-30, 1e30)]
        for row, (low, high) in enumerate(extremes):
            if case.within[0] <= low and high <= case.within[1]:
                lower[4 + row], upper[4 + row] = low, high
        results = gradient(
            lambda slope, low, high: finite_sum(
                (
                    *case.curve.lines(low, high),
                    *case.curve.lines_with_slopes(slope, slope, low, high),
                )
            ),
            np.full_like(lower, 0.5),
            lower,
            upper,
        )
        for result in results:
            self.assertFalse(np.isnan(result).any())


class CompiledTest(parameterized.TestCase):
    @parameterized.parameters("relu", "tanh")
    def test_compiled_equals_eager(self, name):
        lower, upper = draw_intervals(TABLE[name], "float64", 17, count=20)
        curve = relaxations.CURVES[name]
        slopes = np.full((3, *lower.shape), 0.25)

        def function(low, high, slope):
            lines = curve.lines(low, high)
            return (*lines, *curve.lines_with_slopes(slope, lines.upper_slope, low, high)[:2])

        eager = numpy(function(lower, upper, slopes))
        compiled = tfcert.backend.compile_function(function, keras.Sequential(), jit_compile=True)
        compiled = numpy(compiled(*map(ops.convert_to_tensor, (lower, upper, slopes))))
        for one, other in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    @parameterized.parameters("relu", "relu6", "tanh", "softplus")
    def test_slopes_broadcast(self, name):
        lower, upper = np.full((2, 1, 4), -1.0), np.full((2, 1, 4), 2.0)
        lines = relaxations.CURVES[name].lines_with_slopes(
            np.full((2, 5, 4), 0.3), np.full((2, 5, 4), 0.6), lower, upper
        )
        for part in lines:
            self.assertEqual(tuple(part.shape), (2, 5, 4))


@pytest.mark.parametrize("name", ["tanh", "gelu", "softsign", "softplus"])
def test_slope_range_spans_the_slopes_of_the_envelope(name):
    """At an end they are the extreme slopes of all chords that begin there."""
    curve = relaxations.CURVES[name]
    lower, upper = np.sort(np.random.default_rng(4).uniform(-4, 4, (2, 60)), axis=0)
    upper = np.maximum(upper, lower + 0.1)
    x = lower + (upper - lower) * np.linspace(0.0, 1.0, 4001)[:, None]
    (f,) = numpy([curve(x)])
    first = (f[1:] - f[0]) / (x[1:] - x[0])
    last = (f[-1] - f[:-1]) / (x[-1] - x[:-1])
    expected = first.min(0), last.max(0), last.min(0), first.max(0)
    for found, end in zip(numpy(curve.slope_range(lower, upper)), expected, strict=True):
        np.testing.assert_allclose(found, end, atol=4e-3)
