"""Regions: enclosed by their bounds, and never left by their points.

What lies inside is decided here by exact fractions, apart from the code under test.
"""

import doctest
import fractions
import itertools
import math

import hypothesis as hp
import keras
import numpy as np
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops
from scipy import optimize

from tfcert import regions
from tfcert.regions import rounding
from tfcert.regions.region import Region

SHAPE = (2, 2, 2)  # 8 coordinates, the last axis the channels
BATCH = 3
NORMS = ("inf", 2, 1, 1.5, 3)
EPS = {
    "scalar": np.array(8 / 255),
    "per_channel": np.array([0.1, 0.3]),
    "full": np.linspace(0.0, 0.35, 8).reshape(SHAPE),
}
CASES = {
    f"{norm}_{name}{'_clip' if clip else ''}": (norm, name, clip)
    for norm in NORMS
    for name in EPS
    for clip in (False, True)
}
# The sum of 8 products in float32, relative to the sum of their absolute values.
SLACK = 4e-6

settings = hp.settings(derandomize=True, deadline=None, database=None, max_examples=4)
seeds = hps.integers(0, 2**31 - 1)
scales = hps.sampled_from([1e-3, 1.0, 1e3])


def array(value):
    return np.asarray(ops.convert_to_numpy(value))


def make_x(seed, scale=1.0, batch=BATCH, shape=SHAPE, dtype="float32"):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (batch, *shape))).astype(dtype)


def make_ball(norm, eps, clip, scale=1.0):
    limits = ([-1.0 * scale, -1.1 * scale], 1.0 * scale) if clip else None
    return regions.LpBall(EPS[eps] * scale, norm, limits)


def exact(number):
    return fractions.Fraction(float(number))


def in_box_exactly(point, lower, upper):
    ends = zip(lower, point, upper, strict=True)
    return all(low <= p <= high for low, p, high in (map(exact, end) for end in ends))


def in_ball_exactly(point, x, eps, norm):
    """``||(point - x) / eps||_p <= 1`` without any rounding (p = 1.5: with very little)."""
    norm = float(norm)
    ratios = []
    eps = np.broadcast_to(eps, x.shape)
    for p, c, e in zip(point.ravel(), x.ravel(), eps.ravel(), strict=True):
        move, radius = abs(exact(p) - exact(c)), exact(e)
        if move > radius:
            return False
        ratios.append(move / radius if radius else radius)
    if norm == math.inf:
        return True
    if norm == int(norm):
        return sum(ratio ** int(norm) for ratio in ratios) <= 1
    return sum(np.longdouble(float(ratio)) ** norm for ratio in ratios) <= 1 + 1e-15


def in_region_exactly(region, point, x):
    """For balls with or without a clip range; x may be a limit's nearest float."""
    if region.clip is not None:
        low, high = (np.broadcast_to(limit, x.shape) for limit in region.clip)
        low, high = np.minimum(low, x), np.maximum(high, x)
        if not in_box_exactly(point.ravel(), low.ravel(), high.ravel()):
            return False
    return in_ball_exactly(point, x, region.eps, region.norm)


def compiled(function, xla=True):
    """The function as the backend compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=xla)


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


class MembershipTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    @settings
    @hp.given(seed=seeds, scale=scales)
    def test_points_lie_inside_exactly(self, norm, eps, clip, seed, scale):
        region = make_ball(norm, eps, clip, scale)
        x = make_x(seed, scale)
        far = make_x(seed + 1, 3 * scale, BATCH, (4, *SHAPE))
        near = x[:, None] + 0.02 * make_x(seed + 2, scale, BATCH, (4, *SHAPE))
        points = [
            region.sample(x, 4, seed),
            region.sample(x, 4, seed, corners=True),
            region.minimiser(far, x),
            region.project(far, x),
            region.project(near, x),
        ]
        points = np.concatenate([array(some) for some in points], axis=1)
        self.assertTrue(np.isfinite(points).all())
        self.assertTrue(region.contains(points, x).all())
        lower, upper = (array(end)[:, None] for end in region.interval(x))
        self.assertTrue(((lower <= points) & (points <= upper)).all())
        for c, some in zip(x, points, strict=True):
            for point in some:
                self.assertTrue(in_region_exactly(region, point, c), (region, point, c))

    @parameterized.parameters(*NORMS)
    @settings
    @hp.given(seed=seeds)
    def test_contains_agrees_with_fractions_at_the_surface(self, norm, seed):
        region = regions.LpBall(0.1, norm, clip=(-1.0, 1.0))
        x = make_x(seed)
        points = array(region.sample(x, 4, seed, corners=True))
        # A float further out, or the whole point a little.
        further = np.nextafter(points, np.where(points > x[:, None], 2, -2).astype("float32"))
        moves = points.astype("float64") - x[:, None]
        scaled = [x[:, None] + factor * moves for factor in (1 + 1e-6, 1 + 1e-5, 1.001)]
        points = np.concatenate([points, further, *scaled], 1)
        inside = region.contains(points, x)
        expected = [
            [in_region_exactly(region, p, c) for p in some]
            for c, some in zip(x, points, strict=True)
        ]
        np.testing.assert_array_equal(inside, expected)
        self.assertTrue(inside.any() and not inside.all())

    def test_contains_takes_one_point_per_input_and_points_of_higher_precision(self):
        region = regions.LpBall(0.25)
        x = np.zeros((2, 1), "float32")
        np.testing.assert_array_equal(region.contains([[0.25], [0.26]], x), [True, False])
        # Rounded to x's precision, these points would be inside.
        self.assertFalse(region.contains(np.full((2, 1), 0.25 + 1e-12), x).any())
        x = np.array([[-1e-25], [1e-25]], "float32")
        np.testing.assert_array_equal(region.contains([[0.25], [0.25]], x), [False, True])

    @parameterized.parameters(1, 1.5, 2, 3, 8)
    def test_samples_fill_the_ball_evenly(self, norm):
        # The distance to the centre of a uniform point in n dimensions is at most t with
        # probability t^n, and the surface is reached by corners.
        x = np.zeros((1, 4), "float32")
        region = regions.LpBall(0.5, norm)
        points = array(region.sample(x, 20_000, 3))[0] / 0.5
        distance = (np.abs(points) ** norm).sum(-1) ** (1 / norm)
        for t in (0.5, 0.8, 0.95):
            self.assertAlmostEqual((distance <= t).mean(), t**4, delta=0.015)
        np.testing.assert_allclose(points.mean(0), 0, atol=0.02)
        # On the sphere |x_i|^p is Beta(1 / p, (n - 1) / p) distributed, so that in the ball the
        # mean of |x_i|^2p is (1 + p) / ((n + p) (n + 2 p)).
        moment = (np.abs(points) ** (2 * norm)).mean()
        np.testing.assert_allclose(moment, (1 + norm) / (4 + norm) / (4 + 2 * norm), rtol=0.02)
        corners = array(region.sample(x, 100, 3, corners=True))[0] / 0.5
        distance = (np.abs(corners) ** norm).sum(-1) ** (1 / norm)
        np.testing.assert_allclose(distance, 1, rtol=1e-4)
        if norm == 1:
            self.assertTrue(((corners != 0).sum(-1) == 1).all())

    def test_samples_of_boxes(self):
        x = np.zeros((1, 3), "float32")
        region = regions.Box([-1.0, 0.0, -2.0], [1.0, 0.0, 2.0])
        points = array(region.sample(x, 20_000, 3))[0]
        np.testing.assert_allclose(points.std(0), [1 / 3**0.5, 0, 2 / 3**0.5], atol=0.02)
        corners = array(region.sample(x, 200, 3, corners=True))[0]
        self.assertLen(np.unique(corners, axis=0), 4)
        np.testing.assert_array_equal(np.abs(corners) * [1, 1, 0.5], np.ones((200, 3)) * [1, 0, 1])

    @parameterized.parameters("inf", 1, 3)
    def test_seeds(self, norm):
        region, x = regions.LpBall(0.5, norm), make_x(0)
        first = array(region.sample(x, 2, 1))
        np.testing.assert_array_equal(first, array(region.sample(x, 2, 1)))
        self.assertFalse((first == array(region.sample(x, 2, 2))).all())
        generator = keras.random.SeedGenerator(1)
        draws = [array(region.sample(x, 2, generator)) for _ in range(3)]
        self.assertFalse((draws[0] == draws[1]).all() or (draws[1] == draws[2]).all())
        draw = compiled(lambda x, seed: region.sample(x, 2, seed))
        a, b, c = (array(draw(x, ops.convert_to_tensor(s))) for s in ([1, 5], [1, 6], [1, 5]))
        np.testing.assert_array_equal(a, c)
        self.assertFalse((a == b).all())
        self.assertTrue(region.contains(a, x).all() and region.contains(b, x).all())
        one, other = (array(draw(x, ops.convert_to_tensor(s))) for s in (7, 8))
        self.assertFalse((one == other).all())
        with self.assertRaisesRegex(ValueError, r"`seed` must be an integer.*seed='x'"):
            region.sample(x, 2, "x")

    @parameterized.parameters(*NORMS)
    def test_no_rounding_leads_out_of_the_ball(self, norm):
        # A float of x is a good part of this eps.
        region, x = regions.LpBall(1e-6, norm), make_x(0)
        for points in (
            region.sample(x, 4, 0),
            region.sample(x, 4, 0, corners=True),
            region.minimiser(make_x(1, shape=(4, *SHAPE)), x),
            region.project(make_x(1, shape=(4, *SHAPE)), x),
        ):
            self.assertTrue(region.contains(points, x).all())
            self.assertTrue((array(points) != x[:, None]).any())
        # Points that are outside by a few bits do not pass for points inside.
        region = regions.LpBall(0.5, norm)
        corners = array(region.sample(x, 4, 0, corners=True))
        for factor in 1 + np.geomspace(1e-7, 1e-4, 8):
            points = x[:, None] + factor * (corners - x[:, None])
            self.assertTrue(region.contains(region.project(points, x), x).all())

    def test_large_numbers_and_tiny_balls(self):
        x = make_x(0, 1e3)
        for norm in NORMS:
            for eps in (1e-6, 1e-30, 1e10):
                region = regions.LpBall(eps, norm)
                far = np.full((BATCH, 4, *SHAPE), 1e20, "float32")
                for points in (
                    region.project(far, x),
                    region.sample(x, 4, 0),
                    region.minimiser(far, x),
                ):
                    self.assertTrue(np.isfinite(array(points)).all())
                    self.assertTrue(region.contains(points, x).all())


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


class ProjectTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    @settings
    @hp.given(seed=seeds)
    def test_points_inside_stay_and_twice_is_once(self, norm, eps, clip, seed):
        region, x = make_ball(norm, eps, clip), make_x(seed)
        points = make_x(seed + 1, 1.5, shape=(3, *SHAPE))
        once = array(region.project(points, x))
        np.testing.assert_array_equal(once, array(region.project(once, x)))
        center = array(region.project(x, x))
        np.testing.assert_array_equal(center, x)
        inner = array(region.scaled(0.99).sample(x, 3, seed))
        np.testing.assert_array_equal(inner, array(region.project(inner, x)))

    @parameterized.parameters(
        ("inf", "full", True), ("inf", "scalar", False), (2, "scalar", False), (1, "scalar", False)
    )
    @settings
    @hp.given(seed=seeds, scale=scales)
    def test_closest(self, norm, eps, clip, seed, scale):
        # p is the point of a convex set closest to z iff (z - p) . (s - p) <= 0 for all s in it;
        # for a linear function of s it is enough to look at the minimiser.
        region, x = make_ball(norm, eps, clip, scale), make_x(seed, scale)
        points = x[:, None] + 0.3 * make_x(seed + 1, scale, shape=(4, *SHAPE))
        closest = array(region.project(points, x)).astype("float64")
        outwards = points - closest
        best = array(region.minimiser(-outwards.astype("float32"), x))
        product = (outwards * (best - closest)).sum((-1, -2, -3))
        size = (outwards**2).sum((-1, -2, -3)) ** 0.5 * scale
        self.assertTrue((product <= 1e-6 * size).all())

    @parameterized.parameters(1, 2)
    def test_closest_by_an_optimiser(self, norm):
        x = np.array([[0.1, -0.2, 0.3]], "float32")
        point = np.array([[0.5, 0.3, -0.4]], "float32")
        got = array(regions.LpBall(0.25, norm).project(point, x))[0]

        # The move is the difference of two vectors >= 0, whose sum is |move| where it matters:
        # with it the constraint is smooth.
        def move(z):
            return z[:3] - z[3:]

        found = optimize.minimize(
            lambda z: ((x[0] + move(z) - point[0]) ** 2).sum(),
            np.full(6, 0.01),
            bounds=[(0, None)] * 6,
            constraints={"type": "ineq", "fun": lambda z: 0.25**norm - (z**norm).sum()},
            method="SLSQP",
        )
        np.testing.assert_allclose(got, x[0] + move(found.x), atol=1e-3)

    def test_by_hand(self):
        x = np.zeros((1, 2), "float32")
        for norm, expected in (("inf", [0.5, 0.25]), (1, [0.5, 0.0]), (2, [0.48507, 0.12127])):
            got = regions.LpBall(0.5, norm).project(np.array([[1.0, 0.25]], "float32"), x)
            np.testing.assert_allclose(array(got)[0], expected, rtol=1e-4, atol=1e-6)

    def test_wrong_shape(self):
        region = regions.LpBall(0.5)
        with self.assertRaisesRegex(ValueError, r"points must have the shape of x.*\(3, 8\)"):
            region.project(np.zeros((3, 8), "float32"), make_x(0))


class BoxTest(parameterized.TestCase):
    @settings
    @hp.given(seed=seeds)
    def test_points_lie_inside_exactly(self, seed):
        rng = np.random.default_rng(seed)
        x = make_x(seed)
        lower = x - rng.uniform(0, 1, x.shape)  # float64: not representable in float32
        upper = x + rng.uniform(0, 1, x.shape)
        box = regions.Box(lower, upper)
        ends = [array(end) for end in box.interval(x)]
        points = [array(box.sample(x, 3, seed, corners=c)) for c in (False, True)]
        points.append(array(box.project(make_x(seed, 5.0, shape=(3, *SHAPE)), x)))
        for b in range(BATCH):
            for i in np.ndindex(SHAPE):
                self.assertLessEqual(float(ends[0][b][i]), lower[b][i])
                self.assertGreaterEqual(float(ends[1][b][i]), upper[b][i])
        for some in points:
            self.assertTrue((some >= lower[:, None]).all() and (some <= upper[:, None]).all())
            self.assertTrue(box.contains(some, x).all())
        self.assertFalse(box.contains(np.nextafter(ends[1], np.float32(9)), x).any())

    @settings
    @hp.given(seed=seeds, fraction=hps.floats(0.0, 1.0, width=32))
    def test_scaled(self, seed, fraction):
        x = make_x(seed)
        lower, upper = [-1.0, -1.25], 1.5
        box = regions.Box(lower, upper)
        sizes = {
            "number": fraction,
            "tensor": ops.convert_to_tensor(fraction, "float32"),
            "per sample": ops.full((BATCH,), fraction, "float32"),
        }
        for size in sizes.values():
            scaled = box.scaled(size)
            ends = [array(end) for end in scaled.interval(x)]
            points = array(scaled.sample(x, 4, seed, corners=True))
            self.assertTrue(scaled.contains(points, x).all())
            f = exact(fraction)
            for b, *i in np.ndindex(x.shape):
                c, low = exact(x[(b, *i)]), exact(lower[i[-1]])
                low, high = c + f * (low - c), c + f * (exact(upper) - c)
                self.assertLessEqual(exact(ends[0][(b, *i)]), low)
                self.assertGreaterEqual(exact(ends[1][(b, *i)]), high)
                for point in points[b]:
                    self.assertTrue(low <= exact(point[tuple(i)]) <= high)
            np.testing.assert_allclose(ends[0], x + fraction * (lower - x), atol=1e-6)
        whole = box.scaled(ops.ones(()))
        for one, other in zip(whole.interval(x), box.interval(x), strict=True):
            np.testing.assert_array_equal(array(one), array(other))

    def test_x_at_the_nearest_float_of_a_limit_is_valid(self):
        x = np.array([[0.3, 0.9]], "float32")  # above 0.3, below 0.9
        box = regions.Box([0.0, 0.9], [0.3, 1.0])
        np.testing.assert_array_equal(array(box.project(x, x)), x)
        self.assertTrue(box.contains(x, x).all())
        self.assertTrue(box.contains(box.sample(x, 20, 0), x).all())

    def test_has_no_eps(self):
        box = regions.Box(-1.0, 1.0)
        self.assertIs(box.with_eps(0.1), box)

    def test_limits_computed_in_a_compiled_function(self):
        x = make_x(0)

        @compiled
        def run(x):
            box = regions.Box(x - 0.25, x + 0.5)
            return (
                box.bind(x),
                box.scaled(0.5).bind(x).upper,
                box.minimise(ops.ones_like(x)[:, None], x),
            )

        bound, half, minimum = run(ops.convert_to_tensor(x))
        np.testing.assert_allclose(array(bound.lower), x - 0.25, atol=1e-6)
        np.testing.assert_allclose(array(half), x + 0.25, atol=1e-6)
        np.testing.assert_allclose(array(minimum)[:, 0], (x - 0.25).sum((1, 2, 3)), atol=1e-5)

    def test_limits_per_sample_and_per_channel(self):
        x = make_x(0)
        box = regions.Box(np.full(x.shape, -2.0), [1.0, 3.0])
        upper = array(box.bind(x).upper)
        self.assertEqual((upper[..., 0] == 1).all(), (upper[..., 1] == 3).all())


class SizeTest(parameterized.TestCase):
    @parameterized.parameters(*NORMS)
    def test_with_eps(self, norm):
        x = make_x(0)
        for eps in EPS:
            region = make_ball(norm, eps, True)
            proportion = EPS[eps] / EPS[eps].max()
            sizes = np.array([0.1, 0.2, 0.05], "float32")
            for size in (
                0.25,
                ops.convert_to_tensor(0.25),
                sizes.tolist(),
                ops.convert_to_tensor(sizes),
            ):
                resized = region.with_eps(size)
                ends = [array(end) for end in resized.interval(x)]
                wide = np.asarray(size, "float64").reshape((-1, 1, 1, 1)) * proportion
                upper = np.minimum(x + wide, 1.0)
                np.testing.assert_allclose(ends[1], np.broadcast_to(upper, x.shape), rtol=2e-6)
                self.assertTrue((ends[1] >= upper - 1e-16).all())
                for corners in (False, True):
                    points = resized.sample(x, 4, 1, corners=corners)
                    self.assertTrue(resized.contains(points, x).all())
                shown = array(resized.eps)
                np.testing.assert_allclose(
                    shown.ravel(), wide[..., : shown.size].ravel(), rtol=1e-6
                )

    def test_a_scalar_ball_takes_the_tensor_for_its_eps(self):
        # Without a rounding: float32(2/255) counts with its own value.
        x, eps = make_x(0), np.float32(2 / 255)
        got = regions.LpBall(0.5).with_eps(ops.convert_to_tensor(eps)).interval(x)
        expected = regions.LpBall(float(eps)).interval(x)
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(array(one), array(other))

    def test_the_largest_component_is_exactly_the_new_eps(self):
        region = regions.LpBall([0.1, 0.3, 0.7]).with_eps(0.9)
        self.assertEqual(region.eps[2], 0.9)
        np.testing.assert_allclose(region.eps, np.array([0.1, 0.3, 0.7]) * 0.9 / 0.7)

    @settings
    @hp.given(seed=seeds, fraction=hps.floats(0.0, 2.0, width=32))
    def test_scaled_rounds_outward(self, seed, fraction):
        region, x = regions.LpBall(2 / 255), make_x(seed)
        radius = exact(2 / 255) * exact(fraction)
        for size in (ops.convert_to_tensor(fraction, "float32"), ops.full((BATCH,), fraction)):
            scaled = region.scaled(size)
            points = scaled.sample(x, 1, seed, corners=True)
            tensors = [x, *scaled.interval(x), points]
            for numbers in zip(*(array(tensor).ravel() for tensor in tensors), strict=True):
                c, low, high, point = map(exact, numbers)
                self.assertLessEqual(low, c - radius)
                self.assertGreaterEqual(high, c + radius)
                self.assertLessEqual(abs(point - c), radius)
        np.testing.assert_allclose(region.scaled(fraction).eps, 2 / 255 * fraction)

    def test_full_fraction_is_the_ball_itself(self):
        region, x = regions.LpBall(2 / 255), make_x(0)
        for size in (1.0, ops.ones(()), ops.ones((BATCH,)), keras.Variable(1.0)):
            for one, other in zip(region.scaled(size).interval(x), region.interval(x), strict=True):
                np.testing.assert_array_equal(array(one), array(other))

    def test_sizes_multiply(self):
        x = make_x(0)
        region = regions.LpBall(1.0, 2).with_eps(ops.convert_to_tensor([0.1, 0.2, 0.4]))
        region = region.scaled(0.5).scaled(ops.convert_to_tensor(0.5))
        expected = np.array([0.025, 0.05, 0.1]).reshape(3, 1, 1, 1)
        np.testing.assert_allclose(array(region.interval(x).upper), x + expected, rtol=1e-5)
        np.testing.assert_allclose(array(region.eps), expected.ravel(), rtol=1e-6)
        resized = region.with_eps(ops.convert_to_tensor(0.3))
        np.testing.assert_allclose(array(resized.interval(x).upper), x + 0.3, rtol=1e-5)

    def test_one_program_for_all_sizes(self):
        traces = []
        region, x = regions.LpBall(0.1, 2, clip=(-1.0, 1.0)), ops.convert_to_tensor(make_x(0))

        def run(x, eps):
            traces.append(None)
            resized = region.with_eps(eps)
            return resized.interval(x), resized.minimise(ops.ones_like(x)[:, None], x)

        run = compiled(run)
        for eps in (0.0, 0.1, 0.3):
            (_, upper), _ = run(x, ops.convert_to_tensor(eps))
            np.testing.assert_allclose(array(upper), np.minimum(array(x) + eps, 1), rtol=1e-6)
        self.assertLen(traces, 1)


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"eps": -0.1}, r"`eps` must be finite and at least 0. Received: eps=-0.1"),
        (
            {"eps": [0.1, -0.2]},
            r"`eps` must be finite and at least 0. Received: eps=\[0.1, -0.2\]",
        ),
        ({"eps": math.nan}, r"`eps` must not be NaN. Received: eps=nan"),
        ({"eps": math.inf}, r"`eps` must be finite and at least 0. Received: eps=inf"),
        ({"eps": "a"}, r"`eps` must be a number or an array of numbers. Received: eps='a'"),
        (
            {"eps": 0.1, "norm": 0.5},
            r'`norm` must be "inf" or a number from 1 on. Received: norm=0.5',
        ),
        ({"eps": 0.1, "norm": math.nan}, r"`norm` must be .* Received: norm=nan"),
        ({"eps": 0.1, "norm": "l2"}, r"`norm` must be .* Received: norm='l2'"),
        ({"eps": 0.1, "norm": None}, r"`norm` must be .* Received: norm=None"),
        ({"eps": 0.1, "clip": (1.0, 0.0)}, r"low <= high. Received: clip=\(1.0, 0.0\)"),
        (
            {"eps": 0.1, "clip": ([0, 2], [1, 1])},
            r"low <= high. Received: clip=\(\[0.0, 2.0\], \[1.0, 1.0\]\)",
        ),
        ({"eps": 0.1, "clip": (0, math.nan)}, r"`clip` must not be NaN. Received: clip=nan"),
        (
            {"eps": 0.1, "clip": (0, 1, 2)},
            r"`clip` must be a pair \(low, high\). Received: clip=\(0, 1, 2\)",
        ),
        ({"eps": 0.1, "clip": 1.0}, r"`clip` must be a pair \(low, high\). Received: clip=1.0"),
        ({"eps": 0.1, "clip": ([0, 0], [1, 1, 1])}, r"low of shape \(2,\), high of shape \(3,\)"),
    )
    def test_ball(self, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            regions.LpBall(**arguments)

    @parameterized.parameters(
        (
            {"lower": 1.0, "upper": 0.0},
            r"`lower` must not exceed `upper`. Received: lower=1.0, upper=0.0",
        ),
        ({"lower": [0, 2], "upper": [1, 1]}, r"lower=\[0.0, 2.0\].* in 1 of 2 entries"),
        ({"lower": math.nan, "upper": 0.0}, r"`lower` must not be NaN"),
        ({"lower": 0.0, "upper": math.inf}, r"`upper` must be finite. Received: upper=inf"),
        ({"lower": [0.0] * 2, "upper": [1.0] * 3}, r"lower of shape \(2,\), upper of shape \(3,\)"),
    )
    def test_box(self, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            regions.Box(**arguments)

    @parameterized.parameters(
        (
            regions.LpBall(np.ones(3)),
            r"`eps` must broadcast against one input .*\(2, 2, 2\). Received: eps of shape \(3,\)",
        ),
        (
            regions.LpBall(np.ones((1, 1, 1, 1))),
            r"`eps` must broadcast .*Received: eps of shape \(1, 1, 1, 1\)",
        ),
        (
            regions.LpBall(0.1, clip=([-9] * 3, 9)),
            r"`clip` must broadcast .*Received: clip of shape \(3,\)",
        ),
        (
            regions.LpBall(0.1).with_eps([0.1, 0.2]),
            r"`eps` must hold one number per sample. Received: 2 numbers for a batch of 3",
        ),
        (regions.LpBall(0.1).with_eps([0.1]), r"Received: 1 numbers for a batch of 3"),
        (
            regions.Box(np.zeros(3), np.ones(3)),
            r"`lower` must broadcast .*Received: lower of shape \(3,\)",
        ),
        (
            regions.Box(-9.0, np.full((2, *SHAPE), 9)),
            r"`upper` must have the shape of x, \(3, 2, 2, 2\)",
        ),
        (regions.Box(-9.0, 9.0).scaled([0.5, 0.5]), r"`fraction` must hold one number per sample"),
    )
    def test_shapes(self, region, message):
        x = make_x(0)
        for use in (region.validate, region.interval, region.bind, compiled(region.bind)):
            with self.assertRaisesRegex(ValueError, message):
                use(ops.convert_to_tensor(x))
        with self.assertRaisesRegex(ValueError, "of x|one input"):
            make_region = (
                regions.LpBall(np.ones(3))
                if isinstance(region, regions.LpBall)
                else regions.Box([0.0] * 3, 1.0)
            )
            make_region.validate(keras.KerasTensor((None, *SHAPE)))

    @parameterized.parameters(
        (
            regions.LpBall(0.1, clip=(0.0, 1.0)),
            r"inside clip=\(0.0, 1.0\). Received: values in \[-0.5, 2\]; 2 of 4 lie outside, .* 1",
        ),
        (
            regions.LpBall(0.1, clip=([0.0, 0.0], [2.0, 0.25])),
            r"inside clip=\(\[0.0, 0.0\], \[2.0, 0.25\]\).*; 2 of 4 lie outside, by at most 0.5",
        ),
        (
            regions.Box(0.0, 3.0),
            r"x must lie inside the box. Received: values in \[-0.5, 2\]; 1 of 4",
        ),
    )
    def test_x_outside(self, region, message):
        x = np.array([[2.0, -0.5], [0.25, 0.5]], "float32")
        for use in (
            region.validate,
            region.interval,
            lambda x: region.sample(x, 1, 0),
            lambda x: region.project(x, x),
            lambda x: region.contains(x, x),
            lambda x: region.minimise(x[:, None], x),
            lambda x: region.minimiser(x[:, None], x),
        ):
            with self.assertRaisesRegex(ValueError, message):
                use(x)
        compiled(region.interval)(ops.convert_to_tensor(x))  # values are unknown there

    @parameterized.parameters(regions.LpBall(0.1), regions.Box(-1.0, 1.0))
    def test_x_not_finite(self, region):
        x = make_x(0)
        x[0, 0, 0, 0], x[1, 0, 0, 0] = np.nan, np.inf
        with self.assertRaisesRegex(ValueError, r"finite. Received: 1 NaN and 1 infinite of 24"):
            region.validate(x)

    def test_precision_and_batch_axis(self):
        with self.assertRaisesRegex(ValueError, "x must be float32 or float64. .*float16"):
            regions.LpBall(0.1).interval(make_x(0).astype("float16"))
        with self.assertRaisesRegex(ValueError, "x must have a batch axis"):
            regions.LpBall(0.1).interval(1.0)

    def test_sizes(self):
        region = regions.LpBall(0.1)
        for size in (-0.1, ops.convert_to_tensor(-0.1), [0.1, -0.1, 0.1]):
            with self.assertRaisesRegex(ValueError, "`eps` must be finite and at least 0. .*-0.1"):
                region.with_eps(size)
            with self.assertRaisesRegex(ValueError, "`fraction` must be finite and at least 0"):
                region.scaled(size)
        with self.assertRaisesRegex(ValueError, r"one number, or one per sample.*shape \(3, 1\)"):
            region.with_eps(np.ones((3, 1)))
        with self.assertRaisesRegex(ValueError, "`eps` must not be NaN"):
            region.with_eps(math.nan)
        with self.assertRaisesRegex(ValueError, "needs a ball that is larger than 0"):
            regions.LpBall([0.0, 0.0]).with_eps(0.1)
        with self.assertRaisesRegex(ValueError, r"`fraction` must lie in \[0, 1\]. .*1.5"):
            regions.Box(-1.0, 1.0).scaled(1.5)

    def test_symbolic_eps_points_to_with_eps(self):
        def make(x):
            return regions.LpBall(ops.sum(x)).bind(x)

        with self.assertRaisesRegex(ValueError, "symbolic tensor.*`with_eps`"):
            compiled(make)(ops.convert_to_tensor(make_x(0)))

    def test_symbolic_inputs_of_any_size_are_accepted(self):
        for region in (make_ball(2, "full", True), regions.Box(-1.0, [1.0, 2.0])):
            region.validate(keras.KerasTensor((None, *SHAPE)))
        regions.LpBall([0.1, 0.2]).validate(keras.KerasTensor((None, None, None, 2)))

    def test_empty_batch(self):
        x = make_x(0)[:0]
        for norm in NORMS:
            region = regions.LpBall(0.1, norm, (0.0, 1.0))
            region.validate(x)
            self.assertEqual(region.interval(x).lower.shape, (0, *SHAPE))
            self.assertEqual(region.minimise(np.zeros((0, 2, *SHAPE), "float32"), x).shape, (0, 2))
            self.assertEqual(region.sample(x, 2, 0).shape, (0, 2, *SHAPE))


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        regions.LpBall(0.1),
        regions.LpBall(2 / 255, 2, (0.0, 1.0)),
        regions.LpBall([[0.1], [0.2]], 1.5, ([0.0, -1.0], [1.0, math.inf])),
        regions.LpBall(0.1).with_eps([0.1, 0.2]),
        regions.LpBall(np.float32(0.1), "1").scaled(0.5),
        regions.Box(0.0, [1.0, 2.0]),
        regions.Box(0.0, [1.0, 2.0]).scaled(0.25),
        regions.Box(0.0, [1.0, 2.0]).scaled([0.25, 0.5]),
    )
    def test_round_trip(self, region):
        for safe_mode in (True, False):
            config = keras.saving.serialize_keras_object(region)
            again = keras.saving.deserialize_keras_object(config, safe_mode=safe_mode)
            self.assertEqual(region, again)
            self.assertEqual(hash(region), hash(again))
            self.assertEqual(repr(region), repr(again))
        self.assertEqual(region, type(region).from_config(region.get_config()))

    def test_tensors_are_refused(self):
        for region in (
            regions.LpBall(0.1).with_eps(ops.ones(())),
            regions.Box(-1.0, 1.0).scaled(ops.ones(())),
            regions.Box(ops.zeros((2,)), ops.ones((2,))),
        ):
            with self.assertRaisesRegex(
                ValueError, "tensors cannot be serialised. Received: <tensor"
            ):
                region.get_config()
            self.assertIn("<tensor of shape (", repr(region))
            self.assertEqual(region, region)
            hash(region)

    def test_equality_and_text(self):
        self.assertEqual(regions.LpBall(0.1, 2), regions.LpBall(0.1, "2"))
        self.assertEqual(regions.LpBall(0.1), regions.LpBall(0.1, math.inf))
        others = [
            regions.LpBall(0.1),
            regions.LpBall(0.2),
            regions.LpBall(0.1, 2),
            regions.LpBall([0.1]),
            regions.LpBall(0.1, clip=(0, 1)),
            regions.LpBall(0.1).with_eps(ops.ones(())),
            regions.Box(0.0, 0.1),
            regions.Box(0.0, 0.1).scaled(0.5),
            None,
        ]
        for one, other in itertools.combinations(others, 2):
            self.assertNotEqual(one, other)
        text = "LpBall(eps=0.1, norm=2.0, clip=([0.0, 0.0], 1.0))"
        self.assertEqual(repr(regions.LpBall(0.1, 2, ([0, 0], 1))), text)
        self.assertIn(
            "<array of shape (28, 28) in [1, 1]>", repr(regions.LpBall(np.ones((28, 28))))
        )

    def test_every_region_is_registered(self):
        for region in Region.__subclasses__():
            name = f"tfcert>{region.__name__}"
            self.assertIs(keras.saving.get_registered_object(name), region)

    @parameterized.parameters("box", "lp_ball")
    def test_examples(self, name):
        result = doctest.testmod(getattr(regions, name))
        self.assertGreater(result.attempted, 3)
        self.assertEqual(result.failed, 0)
