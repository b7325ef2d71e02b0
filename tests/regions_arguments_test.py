"""Arguments of regions: sizes in all forms, configurations, and what is refused."""

import doctest
import itertools
import math

import hypothesis as hp
import keras
import numpy as np
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops

from tests.regions_support import (
    BATCH,
    EPS,
    NORMS,
    SHAPE,
    array,
    compiled,
    exact,
    make_ball,
    make_x,
    seeds,
    settings,
)
from tfcert import regions
from tfcert.regions.region import Region


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
        ({"eps": 0.1, "norm": "l0"}, r"`norm` must be .* Received: norm='l0'"),
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
        with self.assertRaisesRegex(ValueError, "needs a ball with an eps above 0"):
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
        own = [r for r in Region.__subclasses__() if r.__module__.startswith("tfcert.")]
        self.assertLen(own, 4)
        for region in own:
            name = f"tfcert>{region.__name__}"
            self.assertIs(keras.saving.get_registered_object(name), region)

    @parameterized.parameters("box", "lp_ball")
    def test_examples(self, name):
        result = doctest.testmod(getattr(regions, name))
        self.assertGreater(result.attempted, 3)
        self.assertEqual(result.failed, 0)
