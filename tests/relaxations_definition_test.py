"""Relaxations: what is written down for them, and their gradients."""

import keras
import numpy as np
from absl.testing import parameterized
from keras import ops

import tfcert.backend
from tests.relaxations_support import CASES, INF, TABLE, draw_intervals, looped_case, numpy, samples
from tfcert import relaxations

every_case = parameterized.named_parameters((name, case) for name, case in CASES.items())


def setUpModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def tearDownModule():
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", False)


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
