"""Regions: enclosed by their bounds, and never left by their points.

What lies inside is decided here by exact fractions, apart from the code under test.
"""

import math

import hypothesis as hp
import keras
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops
from scipy import optimize

from tests.regions_support import (
    BATCH,
    CASES,
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
    @pytest.mark.slow
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

    def test_limits_that_are_tensors_like_x_are_taken_as_they_are(self):
        x = make_x(0)
        limits = x - np.float32(0.3), x + np.float32(0.7)
        box = regions.Box(*map(ops.convert_to_tensor, limits))
        bound = box.bind(ops.convert_to_tensor(x))
        self.assertIs(bound.lower, box.lower)
        for found, wanted in zip(bound[:2], regions.Box(*limits).bind(x)[:2], strict=True):
            np.testing.assert_array_equal(array(found), array(wanted))
        wide = array(box.bind(ops.convert_to_tensor(x, dtype="float64")).lower)
        self.assertEqual((wide.dtype, wide.shape), (np.float64, x.shape))

    def test_limits_per_sample_and_per_channel(self):
        x = make_x(0)
        box = regions.Box(np.full(x.shape, -2.0), [1.0, 3.0])
        upper = array(box.bind(x).upper)
        self.assertEqual((upper[..., 0] == 1).all(), (upper[..., 1] == 3).all())
