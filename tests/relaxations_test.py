"""Tests of the relaxations of scalar functions against float64 references of their own."""

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest
from absl.testing import parameterized
from keras import ops

from tests.relaxations_support import CASES, INF, TABLE, draw_intervals, looped_case, numpy, samples
from tfcert import backend, relaxations

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


def setUpModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def tearDownModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", False)


def beside_samples(tensors):
    """As float64 arrays with a last axis to go with samples."""
    return [array.astype("float64")[..., None] for array in numpy(tensors)]


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
    @pytest.mark.slow
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
    @pytest.mark.slow
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


class CompiledTest(parameterized.TestCase):
    def test_nan_is_passed_on_behind_a_convolution(self):
        """TensorFlow's kernel for a convolution with a ReLU behind it turns NaN into 0."""
        kernel, bias = np.ones((3, 3, 1, 2), "float32"), np.ones(2, "float32")
        image = np.ones((1, 5, 5, 1), "float32")
        image[0, 2, 2, 0] = np.nan

        def ends(x):
            before = ops.conv(x, kernel, padding="same") + bias
            return tuple(relaxations.CURVES["relu"].interval(before, before))

        for end in backend.compiled(ends)(image), backend.traced_once(ends)(image):
            self.assertEqual(np.isnan(ops.convert_to_numpy(end[0])).sum(), 18)

    def test_the_range_of_relu_has_the_gradient_of_relu(self):
        x = np.array([-1.0, 0.0, 2.0], "float32")

        def total(values):
            low, high = relaxations.CURVES["relu"].interval(*values)
            return ops.sum(low) + 2.0 * ops.sum(high), None

        def gradients(x):
            return backend.value_and_gradients(total, [x, x + 0.0])[2]

        for function in gradients, backend.traced_once(gradients):
            low, high = numpy(function(ops.convert_to_tensor(x)))
            np.testing.assert_array_equal(low, [0.0, 0.0, 1.0])
            np.testing.assert_array_equal(high, [0.0, 0.0, 2.0])

    @parameterized.parameters("relu", "tanh")
    @pytest.mark.slow
    def test_compiled_equals_eager(self, name):
        lower, upper = draw_intervals(TABLE[name], "float64", 17, count=20)
        curve = relaxations.CURVES[name]
        slopes = np.full((3, *lower.shape), 0.25)

        def function(low, high, slope):
            lines = curve.lines(low, high)
            return (*lines, *curve.lines_with_slopes(slope, lines.upper_slope, low, high)[:2])

        eager = numpy(function(lower, upper, slopes))
        compiled = backend.compile_function(function, keras.Sequential(), jit_compile=True)
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
