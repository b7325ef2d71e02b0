"""Attacks: their points lie inside, for all kinds of regions, inputs and models."""

import doctest
import functools
import itertools

import hypothesis as hp
import keras
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops

from tests import attack_support as support
from tfcert import attacks, regions
from tfcert.attacks import inputs, pgd
from tfcert.programs import programs_of

NORMS = ("inf", 2, 1, 1.5, 3)

settings = hp.settings(derandomize=True, deadline=None, database=None, max_examples=3)
seeds = hps.integers(0, 2**31 - 1)


@functools.cache
def small():
    return support.network((4, 2))


class InsideTest(parameterized.TestCase):
    @parameterized.parameters(*itertools.product(NORMS, (False, True)))
    @pytest.mark.slow
    @settings
    @hp.given(seed=seeds)
    def test_points_lie_in_balls_and_are_no_better_than_x(self, norm, clip, seed):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-1, 1, (5, 4, 2)).astype("float32")
        y = rng.integers(0, 3, 5)
        region = regions.LpBall([0.5, 1.0], norm, ([-1.0, -1.2], 1.0) if clip else None)
        region = region.with_eps(rng.uniform(0, 2, 5) * (rng.uniform(size=5) < 0.8))
        model = small()
        before = support.margin(model, x, y)
        for attack in (
            attacks.APGD(region, 5, 2, loss="logits_ratio"),
            attacks.PGD(region, 3, restarts=2, momentum=0.5, early_stop=False)
            if clip
            else attacks.FGSM(region, loss="margin"),
        ):
            points = support.array(attack(model, x, y, seed))
            self.assertEqual(points.dtype, "float32")
            self.assertTrue(region.contains(points, x).all())
            if not isinstance(attack, attacks.FGSM):
                self.assertTrue((support.margin(model, points, y) >= before - 1e-5).all())

    @parameterized.parameters("inf", 2, 1)
    def test_points_of_a_broken_model(self, norm):
        model = support.network()
        kernel, *rest = model.get_weights()
        kernel[0, 0] = np.nan
        model.set_weights([kernel, *rest])
        x, y = np.random.default_rng(0).uniform(size=(6, 8)).astype("float32"), np.arange(6) % 3
        self.assertTrue(np.isnan(support.array(model(x))).any())
        region = regions.LpBall(0.3, norm)
        for kind in (attacks.FGSM, attacks.PGD, attacks.APGD):
            points = support.array(kind(region)(model, x, y))
            self.assertTrue(np.isfinite(points).all(), kind)
            self.assertTrue(region.contains(points, x).all(), kind)

    @parameterized.parameters(1.0, 0.5)
    @settings
    @hp.given(seed=seeds)
    def test_points_lie_in_boxes(self, fraction, seed):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-1, 1, (5, 4, 2)).astype("float32")
        lower, upper = x - rng.uniform(0, 1, x.shape), x + rng.uniform(0, 1, x.shape)
        region = regions.Box(*{1.0: (lower, upper), 0.5: (lower, 2.0)}[fraction]).scaled(fraction)
        for attack in (attacks.PGD(region, 3), attacks.APGD(region, 5)):
            attack.early_stop = False
            points = support.array(attack(small(), x, rng.integers(0, 3, 5), seed))
            self.assertTrue(region.contains(points, x).all())
            self.assertTrue((points != x).any())

    def test_eps_zero_is_x(self):
        x, y = (
            np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32"),
            np.array([0, 1, 2]),
        )
        for norm in ("inf", 2):
            points = support.array(attacks.PGD(regions.LpBall(0.0, norm), 3)(small(), x, y))
            np.testing.assert_array_equal(points, x)


class InputTest(parameterized.TestCase):
    @parameterized.parameters(
        ("float64", "float64"), ("float32", "float64"), ("float64", "float32")
    )
    @pytest.mark.slow
    def test_precisions(self, of_model, of_x):
        if not support.has_float64():
            self.skipTest("needs float64")
        model = support.network(dtype=of_model)
        x = np.random.default_rng(0).normal(size=(4, 8)).astype(of_x)
        ball = regions.LpBall(0.3)
        sizes = regions.LpBall(0.3, 2).with_eps([0.1, 0.0, 0.2, 0.3])
        for attack in (
            attacks.PGD(sizes, 4, momentum=0.5, early_stop=False),
            attacks.PGD(ball, 4, loss="margin", early_stop=False),
            attacks.APGD(ball, 4, early_stop=False),
            attacks.APGD(sizes, 4, loss="logits_ratio", early_stop=False),
        ):
            points = support.array(attack(model, x, np.arange(4) % 3))
            self.assertEqual(points.dtype, of_x)
            self.assertTrue(attack.region.contains(points, x).all())
            self.assertTrue((points != x).any())

    def test_half_precision_inside_of_the_model(self):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, dtype="mixed_float16")])
        x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
        scores = inputs.scores_of(model)(ops.convert_to_tensor(x))
        self.assertEqual(keras.backend.standardize_dtype(scores.dtype), "float32")
        attack = attacks.APGD(regions.LpBall(0.3), 4, early_stop=False)
        points = support.array(attack(model, x, np.arange(4) % 3))
        self.assertTrue(regions.LpBall(0.3).contains(points, x).all())
        self.assertTrue((points != x).any())

    def test_integers_and_lists(self):
        model = support.linear(np.eye(2))
        attack = attacks.PGD(regions.LpBall(0.5), 4, early_stop=False)
        points = support.array(attack(model, np.array([[3, 2]]), [0]))
        np.testing.assert_array_equal(points, [[2.5, 2.5]])

    def test_batches(self):
        model, x, y = support.digits()
        size = np.linspace(0, 0.2, 50)
        region = regions.LpBall(0.1, clip=(0.0, 1.0)).with_eps(size)
        attack = attacks.PGD(region, 5)
        for batch_size in (7, 50, 1000):
            points = support.array(attack(model, x[:50], y[:50], batch_size=batch_size))
            self.assertEqual(points.shape, (50, 8, 8, 1))
            self.assertTrue(region.contains(points, x[:50]).all())
            moved = np.abs(points - x[:50]).max(axis=(1, 2, 3))
            np.testing.assert_allclose(moved, size, atol=1e-6)  # each its own size

    def test_seeds_decide(self):
        model, x, y = support.digits()
        attack = attacks.PGD(regions.LpBall(0.01), 1, step_size=0.5)
        one, same, other = (
            support.array(attack(model, x[:9], y[:9], s, 4)) for s in (1, 1, 2**40 + 2)
        )
        np.testing.assert_array_equal(one, same)
        self.assertTrue((one != other).any(axis=(1, 2, 3)).all())

    def test_inference_mode(self):
        model = support.network()
        x, y = np.random.default_rng(0).normal(size=(4, 8)).astype("float32"), np.arange(4) % 3
        before = [support.array(v) for v in model.variables]
        attack = attacks.PGD(regions.LpBall(0.3), 4, random_start=False, early_stop=False)
        one, other = (support.array(attack(model, x, y)) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        for old, new in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(old, support.array(new))

    def test_models_written_as_classes(self):
        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(3)

            def call(self, x):
                return self.dense(x)

        x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
        points = attacks.PGD(regions.LpBall(0.3), 4)(Model(), x, np.zeros(4, int))
        self.assertTrue(regions.LpBall(0.3).contains(points, x).all())


class CompileTest(parameterized.TestCase):
    def test_one_program_for_all_calls(self):
        model, x, y = support.digits()

        def calls(region, n=20, **arguments):
            before = programs_of(model).traces("attack")
            points = support.array(
                attacks.PGD(region, 3, **arguments)(model, x[:n], y[:n], batch_size=10)
            )
            self.assertTrue(region.contains(points, x[:n]).all())
            return programs_of(model).traces("attack") - before

        ball = regions.LpBall(1.0, clip=(0, 1))
        self.assertGreater(calls(ball), 0)
        self.assertEqual(calls(ball), 0)
        self.assertGreater(calls(ball.with_eps(np.full(20, 0.1))), 0)
        self.assertEqual(calls(ball.with_eps(np.full(20, 0.2))), 0)
        self.assertEqual(calls(ball.with_eps(np.full(35, 0.2)), 35), 0)  # a last batch of 5
        self.assertGreater(calls(regions.Box(x[:20] - 0.1, x[:20] + 0.1)), 0)
        self.assertEqual(calls(regions.Box(x[:20] - 0.2, x[:20] + 0.1)), 0)
        self.assertGreater(calls(ball, loss="margin"), 0)
        self.assertEqual(calls(ball.scaled(0.5)), 0)
        self.assertEqual(calls(regions.LpBall(0.3, clip=(-1, 2))), 0)
        self.assertGreater(calls(regions.LpBall(0.3)), 0)
        self.assertEqual(calls(ball), 0)

    def test_follows_the_model(self):
        model = support.linear([[1.0, 0.0], [0.0, 1.0]])
        attack = attacks.PGD(regions.LpBall(1.0), 3, early_stop=False, random_start=False)
        x, y = np.array([[4.0, 0.0]], "float32"), np.array([0])
        np.testing.assert_array_equal(support.array(attack(model, x, y)), [[3, 1]])
        model.set_weights([np.array([[1.0, 0.0], [0.0, -1.0]])])
        np.testing.assert_array_equal(support.array(attack(model, x, y)), [[3, -1]])
        model.layers[0].activation = ops.negative
        np.testing.assert_array_equal(support.array(attack(model, x, np.array([1]))), [[3, -1]])
        attack.region = regions.LpBall(0.5)
        np.testing.assert_array_equal(support.array(attack(model, x, np.array([1]))), [[3.5, -0.5]])


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"region": 0.1}, "`region` must be a tfcert.LpBall or tfcert.Box. Received: region=0.1"),
        ({"steps": 0}, "`steps` must be a positive integer. Received: steps=0"),
        ({"steps": 2.5}, "`steps` must be a positive integer. Received: steps=2.5"),
        ({"restarts": -1}, "`restarts` must be a positive integer. Received: restarts=-1"),
        ({"loss": "mse"}, r"`loss` must be one of \('cross_entropy', .*Received: 'mse'"),
        ({"sparsity": 0.0}, r"`sparsity` must lie in \(0, 1\]. Received: sparsity=0.0"),
    )
    def test_settings(self, arguments, message):
        for kind in (attacks.PGD, attacks.APGD):
            with self.assertRaisesRegex(ValueError, message):
                kind(**{"region": regions.LpBall(0.1), **arguments})

    @parameterized.parameters(
        (attacks.PGD, {"momentum": 1.0}, r"`momentum` must lie in \[0, 1\). .*momentum=1.0"),
        (attacks.APGD, {"momentum": 0.0}, r"`momentum` must lie in \(0, 1\]. .*momentum=0.0"),
        (
            attacks.PGD,
            {"step_size": 0.0},
            "`step_size` must be > 0. A schedule .*. Received: step_size=0.0",
        ),
        (attacks.PGD, {"step_size": "a"}, "A number or a schedule"),
        (
            attacks.PGD,
            {"restarts": 2, "random_start": False},
            "need random starts.* Received: restarts=2, random_start=False",
        ),
    )
    def test_settings_of_one_attack(self, kind, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            kind(regions.LpBall(0.1), **arguments)

    @parameterized.parameters(
        ({"y": np.zeros(3, int)}, r"one integer label per input, shape \(2,\). .*\(3,\) .*int64"),
        ({"y": np.zeros(2)}, r"one integer label per input.*type float"),
        ({"y": np.zeros((2, 2), int)}, r"one integer label per input.*of shape \(2, 2\)"),
        ({"y": np.array([0, 3])}, r"`y` must lie in \[0, 3\).*Received: labels from 0 to 3"),
        ({"y": np.array([-1, 0])}, r"`y` must lie in \[0, 3\).*Received: labels from -1 to 0"),
        ({"x": np.zeros((0, 8), "float32")}, r"`x` is empty. Received: .*\(0, 8\)"),
        ({"x": np.full((2, 8), np.nan, "float32")}, "x must be finite. Received: 16 NaN"),
        ({"x": np.full((2, 8), 3.0, "float32")}, r"x must lie inside clip=\(0.0, 2.0\)"),
        ({"seed": 0.5}, "`seed` must be an integer. Received: seed=0.5"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"model": None}, "`model` must be a keras.Model. Received: NoneType"),
    )
    def test_calls(self, arguments, message):
        given = {"model": support.network(), "x": np.ones((2, 8), "float32"), "y": np.zeros(2, int)}
        with self.assertRaisesRegex(ValueError, message.replace("int64", r"int\d\d")):
            attacks.PGD(regions.LpBall(0.1, clip=(0, 2)))(**{**given, **arguments})

    def test_models(self):
        x, y = np.ones((2, 8), "float32"), np.zeros(2, int)
        attack = attacks.PGD(regions.LpBall(0.1), loss="logits_ratio")
        with self.assertRaisesRegex(ValueError, "at least 3 classes. Received: a model with 2"):
            attack(support.network(classes=2), x, y)
        attacks.FGSM(regions.LpBall(0.1))(support.network(classes=1), x, y)  # Two classes.
        inputs = keras.Input((8,))
        for outputs in ([inputs, inputs], keras.layers.Reshape((4, 2))(inputs)):
            with self.assertRaisesRegex(ValueError, "one output of shape .batch, classes.. Rec"):
                attack(keras.Model(inputs, outputs), x, y)

    def test_example(self):
        result = doctest.testmod(pgd)
        self.assertGreater(result.attempted, 3)
        self.assertEqual(result.failed, 0)
