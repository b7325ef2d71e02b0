"""Bounds of regions: intervals that enclose them, and minima of linear functions over them."""

import itertools
import math

import hypothesis as hp
import keras
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops

from tests.regions_support import (
    BATCH,
    CASES,
    EPS,
    NORMS,
    SHAPE,
    array,
    compiled,
    exact,
    make_ball,
    make_x,
    scales,
    seeds,
    settings,
)
from tfcert import regions
from tfcert.regions import rounding

# The sum of 8 products in float32, relative to the sum of their absolute values.
SLACK = 4e-6


def gradient(function, value):
    if keras.backend.backend() == "jax":
        import jax

        return array(jax.grad(function)(ops.convert_to_tensor(value)))
    import tensorflow as tf

    value = tf.constant(value)
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = function(value)
    return array(tape.gradient(result, value))


def has_float64():
    return array(ops.ones((), "float64") * (1 + 2.0**-40)) != 1.0


class RoundingTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    @settings
    @hp.given(seed=seeds)
    def test_sums_have_the_directed_rounding_of_the_exact_sum(self, compile_it, seed):
        rng = np.random.default_rng(seed)
        x = (rng.uniform(-1, 1, 200) * 2.0 ** rng.integers(-20, 20, 200)).astype("float32")
        y = (rng.uniform(-1, 1, 200) * 2.0 ** rng.integers(-20, 20, 200)).astype("float32")
        y[:50] = np.round(x[:50] * 8) / 8  # among them exact sums, and cancellation
        y[50:60] = -x[50:60]

        def both(x, y):
            return rounding.add_down(x, y), rounding.add_up(x, y)

        run = compiled(both) if compile_it else both
        downs, ups = (
            array(value) for value in run(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
        )
        for down, up, a, b in zip(downs, ups, x, y, strict=True):
            total = exact(a) + exact(b)
            self.assertLessEqual(exact(down), total)
            self.assertGreaterEqual(exact(up), total)
            # Tight: equal where the sum is a float, neighbours elsewhere.
            if exact(np.float32(float(a) + float(b))) == total:
                self.assertEqual(down, up)
            else:
                self.assertEqual(np.nextafter(down, np.float32(np.inf)), up)

    def test_products_enclose_and_keep_zero_and_one(self):
        x = np.array([0.1, 0.3, 0.0, 1.0, 1e-30, 0.7], "float32")
        y = np.array([0.3, 0.0, 0.7, 0.7, 1e-30, 1.0], "float32")
        up = array(rounding.multiply_up(ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
        down = array(rounding.multiply_down(ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
        for a, b, low, high in zip(x, y, down, up, strict=True):
            product = exact(a) * exact(b)
            self.assertLessEqual(exact(low), product)
            self.assertGreaterEqual(exact(high), product)
        np.testing.assert_array_equal(up[[1, 2, 3, 5]], (x * y)[[1, 2, 3, 5]])
        np.testing.assert_array_equal(down[[1, 2, 3, 5]], (x * y)[[1, 2, 3, 5]])
        self.assertTrue((down >= 0).all())

    @hp.settings(settings, max_examples=100)
    @hp.given(value=hps.floats(-1e30, 1e30))
    def test_casts_enclose_the_number(self, value):
        number = np.array(value)
        up = float(array(rounding.cast_up(number, "float32")))
        down = float(array(rounding.cast_down(number, "float32")))
        self.assertLessEqual(down, value)
        self.assertGreaterEqual(up, value)
        if abs(value) > 1e-37:
            nearest = float(np.float32(value))
            self.assertTrue(down == up == nearest if nearest == value else nearest in (down, up))
            self.assertLessEqual(up, np.nextafter(np.float32(down), np.float32(np.inf)))

    def test_casts_of_float64_tensors_enclose_the_number(self):
        if not has_float64():
            self.skipTest("needs float64")
        values = np.random.default_rng(0).normal(size=100)
        up = array(rounding.cast_up(ops.convert_to_tensor(values), "float32"))
        down = array(rounding.cast_down(ops.convert_to_tensor(values), "float32"))
        self.assertTrue((up >= values).all() and (down <= values).all())
        np.testing.assert_array_equal(np.nextafter(down, np.float32(np.inf)), up)


class IntervalTest(parameterized.TestCase):
    @parameterized.parameters(2 / 255, 8 / 255, 0.1, 0.3, 1e-6)
    @settings
    @hp.given(seed=seeds, scale=scales)
    def test_outward_and_within_two_floats(self, eps, seed, scale):
        x = make_x(seed, scale)
        lower, upper = (array(end) for end in regions.LpBall(eps).interval(x))
        for c, low, high in zip(x.ravel(), lower.ravel(), upper.ravel(), strict=True):
            exact_low, exact_high = exact(c) - exact(eps), exact(c) + exact(eps)
            self.assertLessEqual(exact(low), exact_low)
            self.assertGreaterEqual(exact(high), exact_high)
            unit = exact(np.spacing(np.maximum(np.abs(c), np.float32(eps))))
            self.assertLessEqual(exact_low - exact(low), 2 * unit)
            self.assertLessEqual(exact(high) - exact_high, 2 * unit)

    @parameterized.parameters(False, True)
    def test_compiled_intervals_are_the_same_to_the_bit(self, xla):
        def run(x):  # all of them in one program
            return [
                make_ball("inf", eps, clip).interval(x) for eps in EPS for clip in (False, True)
            ]

        x = ops.convert_to_tensor(make_x(1))
        expected, got = keras.tree.flatten(run(x)), keras.tree.flatten(compiled(run, xla)(x))
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(array(one), array(other))

    def test_the_radius_of_a_ball_is_rounded_outward(self):
        for eps in (0.1, 0.3, 2 / 255, 8 / 255):
            radius = array(regions.LpBall(eps, 2).bind(make_x(0)).radius)
            self.assertEqual(radius.shape, (BATCH, *SHAPE))
            self.assertTrue((radius >= np.float64(eps)).all())
            np.testing.assert_allclose(radius, eps, rtol=2e-7)

    def test_exact_ends_stay_exact(self):
        x = np.array([[0.5, -0.75, 0.0]], "float32")
        lower, upper = regions.LpBall(0.25).interval(x)
        np.testing.assert_array_equal(array(lower), x - 0.25)
        np.testing.assert_array_equal(array(upper), x + 0.25)

    @parameterized.parameters(*itertools.product(("inf", 2), (None, (-1.0, 1.0)), (False, True)))
    def test_eps_zero_is_x_bit_by_bit(self, norm, clip, compile_it):
        x = np.array([[0.1, -0.0, 1e-40, -1.0, 1.0, 1 / 3]], "float32")
        for region in (
            regions.LpBall(0.0, norm, clip),
            regions.LpBall(0.3, norm, clip).with_eps(0.0),
            regions.LpBall(0.3, norm, clip).with_eps(ops.zeros(())),
            regions.LpBall(0.3, norm, clip).scaled(ops.zeros((1,))),
            regions.Box(-np.ones(6), np.ones(6)).scaled(0.0),
        ):
            run = compiled(region.interval) if compile_it else region.interval
            for end in run(ops.convert_to_tensor(x)):
                np.testing.assert_array_equal(array(end).view("int32"), x.view("int32"))
            for points in (region.sample(x, 2, 0), region.project(x[:, None] + 1, x)):
                for point in np.moveaxis(array(points), 1, 0):
                    np.testing.assert_array_equal(point.view("int32"), x.view("int32"))

    def test_clip_limits_per_channel(self):
        x = np.array([[[0.0, 0.5], [0.9, 1.9]]], "float32")
        region = regions.LpBall(0.25, clip=([0.0, 0.5], [1.0, 2.0]))
        lower, upper = region.interval(x)
        np.testing.assert_array_equal(array(lower)[0, 0], [0.0, 0.5])
        np.testing.assert_array_equal(array(upper)[0, 1], [1.0, 2.0])

    def test_x_at_the_nearest_float_of_a_clip_limit_is_valid(self):
        # float32(0.3) > 0.3 and float32(0.9) < 0.9: x stays in its own region all the same.
        x = np.array([[0.3, 0.9]], "float32")
        region = regions.LpBall(0.1, clip=([-1.0, 0.9], [0.3, 1.0]))
        lower, upper = (array(end) for end in region.interval(x))
        self.assertTrue((lower <= x).all() and (upper >= x).all())
        self.assertTrue(region.contains(x, x).all())
        self.assertTrue(region.contains(region.sample(x, 20, 0), x).all())

    def test_float64_follows_x(self):
        if not has_float64():
            self.skipTest("needs float64")
        x = make_x(0, dtype="float64")
        for norm, eps, clip in CASES.values():
            region = make_ball(norm, eps, clip)
            bound = region.bind(x)
            for end in bound:
                if end is not None:
                    self.assertEqual(keras.backend.standardize_dtype(end.dtype), "float64")
            np.testing.assert_allclose(
                array(bound.upper),
                np.minimum(x + region.eps, region.clip[1] if clip else np.inf),
                rtol=1e-14,
            )
            points = region.sample(x, 4, 0)
            self.assertTrue(region.contains(points, x).all())

    def test_integers_become_the_default_float(self):
        lower, _ = regions.LpBall(0.5).interval(np.array([[1, 2]]))
        np.testing.assert_array_equal(array(lower), [[0.5, 1.5]])


class MinimiseTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    @settings
    @hp.given(seed=seeds, scale=scales)
    def test_below_all_points_and_attained(self, norm, eps, clip, seed, scale):
        region = make_ball(norm, eps, clip, scale)
        x = make_x(seed, scale)
        coefficients = make_x(seed + 1, 1.0, BATCH, (4, *SHAPE))
        coefficients[:, :, 0] *= 100
        coefficients[:, 1, 1] = 0
        minimum = array(region.minimise(coefficients, x)).astype("float64")
        self.assertEqual(minimum.shape, (BATCH, 4))

        def values(points):  # (batch, rows, points)
            return np.einsum(
                "brijk,bpijk->brp", coefficients.astype("float64"), points.astype("float64")
            )

        size = np.einsum("brijk,bijk->br", np.abs(coefficients), np.abs(x)) + np.abs(minimum)
        samples = [array(region.sample(x, 8, seed, corners=c)) for c in (False, True)]
        minimiser = array(region.minimiser(coefficients, x))
        for points in (*samples, minimiser):
            self.assertTrue((values(points) >= (minimum - SLACK * size)[..., None]).all())
        attained = np.einsum("brijk,brijk->br", coefficients.astype("float64"), minimiser)
        np.testing.assert_array_equal(minimiser[:, 1, 1], x[:, 1])  # coefficient 0: stays
        if norm == "inf" or not clip:
            reach = np.einsum("brijk,ijk->br", np.abs(coefficients), region.eps + np.zeros(SHAPE))
            self.assertTrue((attained <= minimum + SLACK * (size + 3 * reach)).all())
        else:  # the larger of two bounds, and the minimiser is worth something
            unclipped = regions.LpBall(region.eps, norm).minimise(coefficients, x)
            box = regions.LpBall(region.eps, "inf", region.clip).minimise(coefficients, x)
            expected = np.maximum(array(unclipped), array(box))
            np.testing.assert_allclose(minimum, expected, rtol=1e-6)
            self.assertTrue((attained <= values(x[:, None])[..., 0] + SLACK * size).all())

    @parameterized.parameters([None], [(-0.5, 0.75)])
    @settings
    @hp.given(seed=seeds)
    def test_boxes_are_exact_at_their_corners(self, clip, seed):
        x = np.clip(make_x(seed, shape=(4,)), -0.5, 0.75)
        eps = np.array([0.5, 0.25, 0.0, 0.125])
        coefficients = make_x(seed + 1, shape=(2, 4)).astype("float64")
        minimum = array(
            regions.LpBall(eps, "inf", clip).minimise(coefficients.astype("float32"), x)
        )
        low, high = clip or (-np.inf, np.inf)
        ends = np.stack([np.maximum(x - eps, low), np.minimum(x + eps, high)])
        corners = np.stack(
            [
                np.stack([ends[c, :, i] for i, c in enumerate(corner)], -1)
                for corner in itertools.product((0, 1), repeat=4)
            ]
        )
        expected = np.einsum("brn,cbn->brc", coefficients, corners).min(-1)
        np.testing.assert_allclose(minimum, expected, rtol=1e-5, atol=1e-6)
        box = regions.Box(ends[0].astype("float32"), ends[1].astype("float32"))
        np.testing.assert_allclose(
            array(box.minimise(coefficients.astype("float32"), x)), expected, rtol=1e-5, atol=1e-6
        )

    @settings
    @hp.given(seed=seeds, scale=scales)
    def test_one_coordinate_alone_reaches_both_ends(self, seed, scale):
        # Nothing is summed: not even the last bit may be missing.
        region, x = regions.LpBall(0.1 * scale), make_x(seed, scale, shape=(1,), batch=500)
        signs = np.ones((500, 1, 1), "float32") * np.array([[[1.0], [-1.0]]], "float32")
        minimum = array(region.minimise(signs, x))
        lower, upper = (array(end) for end in region.interval(x))
        self.assertTrue((minimum[:, :1] <= lower).all() and (minimum[:, 1:] <= -upper).all())
        np.testing.assert_allclose(minimum, np.concatenate([lower, -upper], 1), atol=1e-6 * scale)

    @parameterized.parameters(("inf", 1.0), (2, 2.0), (1, math.inf), (3, 1.5), (1.5, 3.0))
    def test_ball_is_the_dual_norm(self, norm, q):
        q = {"inf": 1.0}.get(norm, q)
        x, coefficients = make_x(0), make_x(1, shape=(2, *SHAPE))
        got = array(
            regions.LpBall(EPS["full"], norm).minimise(coefficients, x, offset=[[10.0, 20.0]])
        )
        scaled = (coefficients * EPS["full"]).reshape(BATCH, 2, -1)
        expected = np.einsum("brijk,bijk->br", coefficients, x) - np.linalg.norm(scaled, q, axis=-1)
        np.testing.assert_allclose(got, expected + [10, 20], rtol=1e-5)

    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    def test_windows_of_the_input_padded_with_zeros(self, norm, eps, clip):
        # A row that reads a window of the input only may be handed that window, of any batch.
        region, x = make_ball(norm, eps, clip), make_x(3)
        coefficients = np.zeros((BATCH, 2, *SHAPE), "float32")
        coefficients[:, :, 1:, :1] = make_x(4, shape=(2, 1, 1, 2))
        expected = region.minimise(coefficients, x)

        def window(tensor, before):  # rows 1..2 of 2: the second is padding
            if tensor is None:
                return None
            cut = array(tensor)[(slice(None),) * before + (slice(1, 2), slice(0, 1))]
            pad = [(0, 0)] * cut.ndim
            pad[before] = (0, 1)
            return ops.convert_to_tensor(np.pad(cut, pad))

        bound = regions.BoundRegion(*(window(tensor, 1) for tensor in region.bind(x)))
        cut = array(window(coefficients, 2))
        cut[:, :, 1] = 7.0  # meets padding only
        got = region.minimise_bound(ops.convert_to_tensor(cut), bound)
        np.testing.assert_allclose(array(got), array(expected), rtol=1e-5, atol=1e-6)

    @parameterized.parameters(*itertools.product(NORMS, (False, True)))
    def test_gradients_are_finite_at_zero(self, norm, clip):
        region, x = make_ball(norm, "full", clip), make_x(0)
        bound = region.bind(x)
        coefficients = make_x(1, shape=(3, *SHAPE))
        coefficients[:, 0] = 0
        coefficients[:, 1, 0] = 0

        def total(a):
            return ops.sum(region.minimise_bound(a, bound))

        slope = gradient(total, coefficients)
        self.assertTrue(np.isfinite(slope).all())
        # Where the function is smooth, the gradient is the minimising point.
        if norm not in ("inf", 1) and not clip:
            np.testing.assert_allclose(
                slope[:, 2], array(region.minimiser(coefficients, x))[:, 2], atol=1e-5
            )
        # At 0 too it is a point of the region: a subgradient.
        inside = (array(bound.lower) - 1e-6 <= slope[:, 0]) & (
            slope[:, 0] <= array(bound.upper) + 1e-6
        )
        self.assertTrue(inside.all())

    @parameterized.parameters(*NORMS)
    def test_neither_overflows_nor_vanishes(self, norm):
        x = np.zeros((1, 4), "float32")
        for size in (1e-30, 1e30):
            a = np.full((1, 1, 4), size, "float32")
            got = array(regions.LpBall(0.5, norm).minimise(a, x)) / size
            q = 1 if norm == "inf" else math.inf if norm == 1 else norm / (norm - 1)
            np.testing.assert_allclose(got, -0.5 * np.linalg.norm(np.ones(4), q), rtol=1e-5)

    @parameterized.parameters(False, True)
    @pytest.mark.slow
    def test_compiled_is_the_same(self, xla):
        balls = [
            make_ball(norm, "full", clip) for norm, clip in zip(NORMS, (1, 1, 0, 0, 1), strict=True)
        ]
        balls.append(make_ball(1, "scalar", False))

        def run(a, x):  # all of them in one program
            return [(b.minimise(a, x), b.minimiser(a, x), b.project(2 * a, x)) for b in balls]

        a = ops.convert_to_tensor(make_x(1, shape=(3, *SHAPE)))
        x = ops.convert_to_tensor(make_x(0))
        for ball, some, others in zip(balls, run(a, x), compiled(run, xla)(a, x), strict=True):
            for one, other in zip(some, others, strict=True):
                np.testing.assert_allclose(array(one), array(other), rtol=1e-5, atol=2e-6)
            self.assertTrue(ball.contains(others[1], x).all())
            self.assertTrue(ball.contains(others[2], x).all())

    def test_gradient_of_the_interval_passes_through(self):
        region = regions.LpBall(0.1)
        slope = gradient(lambda x: ops.sum(region.bind(x).upper), make_x(0))
        np.testing.assert_array_equal(slope, np.ones_like(slope))
