"""Attacks: every setting does what it says."""

import functools

import hypothesis as hp
import keras
import numpy as np
from absl.testing import parameterized
from hypothesis import strategies as hps
from keras import ops

from tests import attack_support as support
from tfcert import attacks, regions, schedules
from tfcert.attacks import directions

NORMS = ("inf", 2, 1, 1.5, 3)

settings = hp.settings(derandomize=True, deadline=None, database=None, max_examples=3)
seeds = hps.integers(0, 2**31 - 1)


class SettingTest(parameterized.TestCase):
    # One score that falls with x, from 4 at x = 0; x is misclassified from 4 on.
    x, y = np.array([[0.0, 0.0]], "float32"), np.array([0])

    def model(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.set_weights([np.array([[-1.0, 0.0], [0.0, 0.0]]), np.array([4.0, 0.0])])
        return model

    def end(self, model=None, region=None, **arguments):
        region = region or regions.LpBall(10.0)
        attack = attacks.PGD(region, loss="margin", random_start=False, **arguments)
        return support.array(attack(model or self.model(), self.x, self.y))[0, 0]

    def test_number_and_size_of_steps(self):
        self.assertAlmostEqual(self.end(steps=3, step_size=0.0625, early_stop=False), 1.875)
        self.assertAlmostEqual(self.end(steps=40, step_size=0.0625, early_stop=False), 10.0)
        self.assertAlmostEqual(self.end(steps=2, early_stop=False), 10.0)
        box = regions.Box(-2.0, 30.0)  # Steps count half the width.
        self.assertAlmostEqual(self.end(region=box, steps=1, step_size=0.125, early_stop=False), 2)

    @parameterized.parameters("steps", "epochs")
    def test_step_schedules(self, unit):
        step = schedules.Piecewise([1, 3], [0.125, 0.0625, 0.0], unit)
        self.assertAlmostEqual(self.end(steps=9, step_size=step, early_stop=False), 2.5)

    def test_step_schedules_that_move_nothing_or_back(self):
        for step in (
            schedules.Linear(0.0, 0.0, 0, 3),
            schedules.Linear(-0.1, 0.1, 0, 3),
            schedules.Piecewise([1], [0.1, -0.1]),
        ):
            with self.assertRaisesRegex(ValueError, "at least 0 everywhere and above 0 somewhere"):
                attacks.PGD(regions.LpBall(0.1), step_size=step)

    def test_early_stop(self):
        # The point at 4.375 ends it; the step behind it is taken along.
        self.assertAlmostEqual(self.end(steps=20, step_size=0.0625), 5.0)
        self.assertAlmostEqual(self.end(steps=20, step_size=0.0625, early_stop=False), 10.0)
        attack = attacks.PGD(regions.LpBall(10.0), 20, 0.0625, loss="margin", random_start=False)
        x = np.array([[0.0, 0.0], [-99.0, 0.0]], "float32")  # the second one is never misclassified
        points = support.array(attack(self.model(), x, np.array([0, 0])))
        np.testing.assert_allclose(points, [[10, 0], [-89, 0]])

    def test_early_stop_of_later_restarts(self):
        attack = functools.partial(attacks.PGD, regions.LpBall(4.5), 1, 0.001, 50)
        eager, patient = (
            support.array(attack(early_stop=stop)(self.model(), self.x, self.y))[0, 0]
            for stop in (True, False)
        )
        self.assertGreater(eager, 4.0)
        self.assertGreater(patient, eager)

    @parameterized.parameters(attacks.PGD, attacks.APGD)
    def test_restarts_start_elsewhere(self, kind):
        # Only starts in [0.6, 0.8], of [-1, 1], have a gradient.
        model = support.peak(0.7, 1.0, 20.0, floor=-1.0)
        x, y = np.zeros((20, 1), "float32"), np.zeros(20, int)
        once, often = (
            support.survivors(model, kind(regions.LpBall(1.0), 1, restarts=n)(model, x, y), y)
            for n in (1, 200)
        )
        self.assertGreater(once, 12)
        self.assertEqual(often, 0)

    @parameterized.parameters((attacks.PGD, {"step_size": 0.005}), (attacks.APGD, {}))
    def test_the_last_of_several_restarts_is_at_x(self, kind, steps):
        # Only starts within 0.015 of x, of [-1, 1], have a gradient.
        model = support.peak(0.01, 0.5, 100.0, floor=-1.0)
        x, y = np.zeros((20, 1), "float32"), np.zeros(20, int)
        attack = functools.partial(kind, regions.LpBall(1.0), 60, loss="margin", **steps)
        for restarts, least, most in ((1, 15, 20), (2, 0, 0)):
            points = attack(restarts=restarts)(model, x, y)
            self.assertBetween(support.survivors(model, points, y), least, most)

    def test_momentum_carries_over_a_flat_place(self):
        # The score rises up to 0.3, is flat up to 0.5, and rises behind.
        class Terrace(keras.layers.Layer):
            def call(self, x):
                height = ops.minimum(x, 0.3) + ops.maximum(x, 0.5)
                return ops.concatenate([2.0 + 0.0 * x, height], axis=1)

        model = keras.Sequential([keras.Input((1,)), Terrace()])
        x, y = np.zeros((1, 1), "float32"), np.zeros(1, int)
        ends = [
            support.array(
                attacks.PGD(regions.LpBall(1.0), 20, 0.1, momentum=mu, random_start=False)(
                    model, x, y
                )
            )[0, 0]
            for mu in (0.0, 0.9)
        ]
        self.assertLess(ends[0], 0.5)
        self.assertAlmostEqual(ends[1], 1.0, places=5)

    def test_apgd_halves_its_step(self):
        # Misclassified within 0.02 of 0.3137: where steps of a fixed size pass by.
        model = support.peak(0.3137, 0.02)
        x, y = np.zeros((20, 1), "float32"), np.zeros(20, int)
        region = regions.LpBall(1.0)
        for step in (2.0, 0.3):
            fixed = attacks.PGD(region, 100, step, loss="margin")(model, x, y)
            self.assertGreater(support.survivors(model, fixed, y), 10)
        for momentum in (0.75, 1.0):
            own = attacks.APGD(region, 100, loss="margin", momentum=momentum)(model, x, y)
            self.assertEqual(support.survivors(model, own, y), 0)

    @parameterized.parameters(0.75, 1.0, 0.3)
    def test_apgd_walks_as_written_out(self, momentum):
        top = np.array([0.3137, -0.2, 0.9], "float32")
        x, y = np.zeros((60, 3), "float32"), np.zeros(60, int)
        region = regions.LpBall(1.0)
        for steps in (7, 23):  # Longer walks meet ties, which rounding decides.
            attack = attacks.APGD(region, steps, loss="margin", momentum=momentum, early_stop=False)
            found = support.array(attack(support.peak(top, 0.0), x, y))
            # The seed and the start of the first restart; x is met too.
            seed = ops.convert_to_tensor(np.array([0, 0], "int32"))
            starts = support.array(region.sample(x, 1, seed))[:, 0].astype("float64")
            marks = attack.checkpoints()
            expected = [support.plain_apgd(s, top, steps, marks, momentum) for s in starts]
            worst = np.minimum(np.abs(expected - top).sum(axis=1), np.abs(top).sum())
            same = np.isclose(np.abs(found - top).sum(axis=1), worst, atol=1e-5)
            self.assertGreater(same.mean(), 0.95)

    def test_apgd_keeps_the_step_while_it_pays(self):
        # 60 steps of the same size lead straight up; with halved ones 0.9 is out of reach.
        start = np.full((1, 1), -1.0, "float32")
        attack = attacks.APGD(regions.Box(-1.0, 1.0), 30, loss="margin", early_stop=False)
        points = support.array(attack(support.peak(0.9, 1.0), start, np.zeros(1, int)))
        np.testing.assert_allclose(points, 0.9, atol=0.05)

    def test_apgd_momentum_is_used(self):
        model, x, y = support.digits()
        one, other = (
            support.array(attacks.APGD(regions.LpBall(0.1), 5, momentum=mu)(model, x[:9], y[:9]))
            for mu in (0.75, 1.0)
        )
        self.assertTrue((one != other).any())

    def test_checkpoints_are_the_paper_s(self):
        marks = attacks.APGD(regions.LpBall(0.1), 100).checkpoints()
        self.assertEqual(marks, [22, 41, 57, 70, 80, 87, 93, 99])
        for steps in (1, 2, 10, 37, 1000):
            marks = attacks.APGD(regions.LpBall(0.1), steps).checkpoints()
            self.assertTrue(all(1 <= mark <= steps for mark in marks))
            self.assertEqual(marks, sorted(set(marks)))

    def test_sparsity(self):
        weights = np.stack([-np.arange(1.0, 9.0), np.zeros(8)], axis=1)
        x, y = np.ones((1, 8), "float32"), np.array([0])
        for share, moved in ((0.05, 1), (0.25, 2), (0.5, 4), (1.0, 8)):
            region = regions.LpBall(0.8, 1)
            attack = attacks.PGD(region, 1, 1.0, sparsity=share, random_start=False)
            model = support.linear(weights)
            ends = attack.last_point(model, *map(ops.convert_to_tensor, (x, y)), seed=None)
            moves = support.array(ends) - x
            expected = np.where(np.arange(8) >= 8 - moved, 0.8 / moved, 0.0)
            np.testing.assert_allclose(moves[0], expected, atol=1e-5)

    def test_repr_tells_all_settings(self):
        attack = attacks.PGD(regions.LpBall(0.1), 5, 0.5, momentum=0.3)
        self.assertEqual(
            repr(attack),
            "PGD(region=LpBall(eps=0.1, norm='inf', clip=None), steps=5, "
            "step_size=Constant(value=0.5), restarts=1, loss='cross_entropy', momentum=0.3, "
            "random_start=True, early_stop=True, sparsity=0.05, targets=None)".replace(
                "'inf'", '"inf"'
            ),
        )
        self.assertNotIn("step_size", repr(attacks.APGD(regions.LpBall(0.1))))


class DirectionTest(parameterized.TestCase):
    @parameterized.parameters("inf", 2, 1.5, 3, 1.05, 20)
    @settings
    @hp.given(seed=seeds)
    def test_no_direction_of_the_unit_ball_is_steeper(self, norm, seed):
        rng = np.random.default_rng(seed)
        region, x = regions.LpBall(rng.uniform(0.1, 1, 6), norm), np.zeros((3, 6), "float32")
        slope = (rng.normal(size=(3, 6)) * 10.0 ** rng.integers(-20, 20)).astype("float32")
        found = support.array(directions.steepest(region, slope, x, x))
        np.testing.assert_allclose(
            (found.astype("float64") * slope).sum(axis=1),
            -support.array(region.minimise((slope / np.abs(slope).max())[:, None], x))[:, 0]
            * np.abs(slope).max(),
            rtol=1e-4,
        )
        length = np.linalg.norm(found / region.eps, np.inf if norm == "inf" else norm, axis=1)
        np.testing.assert_allclose(length, 1, rtol=1e-4)

    @parameterized.parameters(1, 2)
    def test_coordinates_at_their_limit_get_no_share(self, norm):
        region, x = regions.LpBall(1.0, norm, (0, 1)), np.array([[1.0, 0.5, 0.0]], "float32")
        for slope, expected in (([9.0, 1.0, -9.0], [0, 1, 0]), ([-9.0, 0.0, -9.0], [-1, 0, 0])):
            found = directions.steepest(region, np.array([slope], "float32"), x, x)
            np.testing.assert_allclose(support.array(found), [expected], atol=1e-6)

    @parameterized.parameters(*NORMS)
    def test_zero_gradients_stay(self, norm):
        x = np.ones((2, 6), "float32")
        found = directions.steepest(regions.LpBall(0.5, norm), np.zeros_like(x), x, x)
        np.testing.assert_array_equal(support.array(found), np.zeros_like(x))
