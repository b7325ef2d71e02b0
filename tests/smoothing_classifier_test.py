"""Smoothed classifiers: votes are recounted, certificates held against a known truth."""

import math
import statistics
import warnings

import keras
import numpy as np
import pytest
from absl.testing import parameterized
from keras import layers, ops

from tfcert import backend, smoothing
from tfcert.smoothing import counting, drawing

SHAPE = (4, 4, 1)
NORMAL = statistics.NormalDist()


def linear(weight, offset=0.0):
    """Two classes, divided by a plane: class 1 where ``weight . x > offset``."""
    weight = np.asarray(weight, "float32")
    model = keras.Sequential([keras.Input(weight.shape), layers.Dense(2)])
    kernel = np.stack([np.zeros_like(weight), weight], axis=-1)
    model.layers[0].set_weights([kernel, np.array([0.0, -offset], "float32")])
    return model


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, kernel_initializer="glorot_normal"),
        ]
    )


def inputs(batch=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(batch, *SHAPE)).astype("float32")


def votes(smoothed, x, draws, index=0, key=(0, 1), start=0):
    places = index + np.arange(len(x))
    return smoothed._counter.count(x, places, smoothed.model.output_shape[-1], key, start, draws)


class CountingTest(parameterized.TestCase):
    @parameterized.parameters(1, 99, 100, 250, 1000)
    def test_equals_a_recount(self, draws):
        model, x = network(), inputs()
        smoothed = smoothing.SmoothedClassifier(model, sigma=0.5, batch_size=300)
        found = votes(smoothed, x, draws, index=5)
        self.assertEqual(found.dtype, np.int64)
        np.testing.assert_array_equal(found.sum(axis=1), draws)
        for row, place in enumerate(x):
            keys = counting._block_keys(0, 1, 5 + row, 10).view("uint32").reshape(-1, 2)
            noise = drawing.draw(
                smoothing.Gaussian(0.5), backend.noise_keys(keys), (100, *SHAPE), "float32"
            )
            noise = ops.convert_to_numpy(noise).reshape(-1, *SHAPE)[:draws]
            classes = ops.convert_to_numpy(model(place + noise)).argmax(axis=-1)
            np.testing.assert_array_equal(found[row], np.bincount(classes, minlength=3))

    @parameterized.parameters(100, 700, 5000)
    def test_does_not_depend_on_the_batch(self, batch_size):
        model, x = network(), inputs(4)
        wanted = votes(smoothing.SmoothedClassifier(model, sigma=0.5), x, 1250)
        smoothed = smoothing.SmoothedClassifier(model, sigma=0.5, batch_size=batch_size)
        np.testing.assert_array_equal(votes(smoothed, x, 1250), wanted)
        np.testing.assert_array_equal(votes(smoothed, x[2:], 1250, index=2), wanted[2:])

    def test_continues_where_it_stopped(self):
        smoothed, x = smoothing.SmoothedClassifier(network(), sigma=0.5), inputs()
        parts = [votes(smoothed, x, 300), votes(smoothed, x, 1050, start=300)]
        np.testing.assert_array_equal(sum(parts), votes(smoothed, x, 1050))

    def test_noise_is_fresh_in_every_block(self):
        smoothed, x = smoothing.SmoothedClassifier(linear([1.0]), sigma=1.0), np.zeros((1, 1))
        x = x.astype("float32")
        blocks = [
            votes(smoothed, x, start + 100, start=start)[0, 0] for start in range(0, 7000, 100)
        ]
        self.assertGreater(len(set(blocks)), 10)
        # As many as independent draws vary: a binomial's variance, 25, within 5 standard errors.
        self.assertAlmostEqual(np.var(blocks), 25.0, delta=5 * 25.0 * math.sqrt(2 / len(blocks)))

    def test_noise_depends_on_seed_purpose_and_place(self):
        smoothed = smoothing.SmoothedClassifier(linear([1.0]), sigma=1.0)
        x = np.zeros((1, 1), "float32")
        settings = [
            (seed, purpose, index) for seed in (0, 1) for purpose in (0, 1) for index in (0, 1)
        ]
        found = [votes(smoothed, x, 9000, i, (seed, use))[0, 0] for seed, use, i in settings]
        self.assertEqual(len(set(found)), 8)
        again = [votes(smoothed, x, 9000, i, (seed, use))[0, 0] for seed, use, i in settings]
        self.assertEqual(found, again)
        keys = np.concatenate([counting._block_keys(s, u, i, 1000) for s, u, i in settings])
        self.assertEqual(len(np.unique(keys)), 8000)

    def test_follows_the_weights(self):
        model, x = linear([1.0, 0.0]), np.array([[3.0, 0.0]], "float32")
        smoothed = smoothing.SmoothedClassifier(model, sigma=0.5)
        self.assertEqual(smoothed.certify(x, n=500).prediction[0], 1)
        model.set_weights([-model.get_weights()[0], model.get_weights()[1]])
        self.assertEqual(smoothed.certify(x, n=500).prediction[0], 0)

    def test_nan_votes_for_nobody(self):
        model, x = linear([1.0, 0.0]), np.array([[3.0, 0.0]], "float32")
        model.set_weights([np.full((2, 2), np.nan), np.zeros(2)])
        smoothed = smoothing.SmoothedClassifier(model, sigma=0.5)
        self.assertEqual(votes(smoothed, x, 500).sum(), 0)
        found = smoothed.certify(x, n=500)
        self.assertEqual((found.prediction[0], found.radius[0], found.p_lower[0]), (-1, 0.0, 0.0))
        self.assertEqual(smoothed.predict(x)[0], -1)


class CertifyTest(parameterized.TestCase):
    @parameterized.product(adaptive=(False, True))
    def test_is_close_to_the_truth_of_a_linear_network(self, adaptive):
        weight, x = (
            np.array([3.0, -4.0]),
            np.array([[0.3, -0.1], [-0.1, 0.1], [0.0, -0.2]], "float32"),
        )
        smoothed = smoothing.SmoothedClassifier(linear(weight), sigma=0.25)
        found = smoothed.certify(x, n=50_000, adaptive=adaptive)
        distance = x.astype("float64") @ weight / 5.0
        np.testing.assert_array_equal(found.prediction, distance > 0)
        true = np.abs(distance)
        self.assertTrue((found.radius < true).all())
        self.assertTrue((found.radius > (0.9 if adaptive else 0.93) * true).all(), found)
        p = [NORMAL.cdf(d / 0.25) for d in true]
        self.assertTrue((found.p_lower < p).all())
        if adaptive:
            self.assertLess(found.samples.max(), 50_000)
        else:
            self.assertEqual(found.samples.tolist(), [50_000] * 3)

    @parameterized.parameters(
        (smoothing.Laplace(0.3), lambda t: 0.5 * math.exp(-t / 0.3)),
        (smoothing.Uniform(0.4), lambda t: 0.5 - t / 0.8),
    )
    def test_l1_radius_is_close_to_the_truth_along_an_axis(self, noise, other):
        x = np.array([[0.15, 9.0, -9.0]], "float32")
        found = smoothing.SmoothedClassifier(linear([2.0, 0.0, 0.0]), noise=noise).certify(
            x, n=50_000
        )
        self.assertLess(found.p_lower[0], 1 - other(0.15))
        self.assertLess(found.radius[0], 0.15)
        self.assertGreater(found.radius[0], 0.9 * 0.15)

    def test_fields(self):
        smoothed = smoothing.SmoothedClassifier(network(), sigma=0.5)
        found = smoothed.certify(inputs(), n=500)
        self.assertEqual(found._fields, ("prediction", "radius", "p_lower", "samples"))
        kinds = [field.dtype.name for field in found]
        self.assertEqual(kinds, ["int64", "float64", "float64", "int64"])
        self.assertTrue(all(field.shape == (3,) for field in found))
        np.testing.assert_array_equal(found.radius > 0, found.prediction >= 0)

    def test_bound_comes_from_the_estimation_alone(self):
        smoothed, x = smoothing.SmoothedClassifier(linear([1.0, 0.0]), sigma=1.0), np.zeros((40, 2))
        x[:, 0] = 1.0
        found = smoothed.certify(x, n0=300, n=700, alpha=0.01)
        own = votes(smoothed, x.astype("float32"), 700, key=(0, 1))[:, 1]
        np.testing.assert_array_equal(found.p_lower, smoothing.lower_bound(own, 700, 0.01))

    def test_class_is_chosen_by_other_samples(self):
        smoothed = smoothing.SmoothedClassifier(linear([1.0, 1.0]), sigma=0.5)
        found = smoothed.certify(np.zeros((400, 2), "float32"), n0=300, n=300)
        # Chosen by the samples that are counted, it would have at least half of the votes always;
        # by others it has more than half of them half of the time, within 5 standard errors.
        more = found.p_lower > smoothing.lower_bound(150, 300, 0.001)
        self.assertLess(more.mean(), 0.5 + 5 * math.sqrt(0.25 / 400))

    def test_abstains_on_the_boundary(self):
        smoothed = smoothing.SmoothedClassifier(linear([1.0, 1.0]), sigma=0.5)
        x = np.zeros((200, 2), "float32")
        for adaptive in (False, True):
            found = smoothed.certify(x, n=2000, alpha=0.001, adaptive=adaptive)
            # Each may err with probability 0.001: more than two of 200 would be a chance of 0.1 %.
            self.assertLessEqual((found.prediction != -1).sum(), 2)
            np.testing.assert_array_equal(found.radius[found.prediction == -1], 0.0)
        self.assertLess(found.samples.mean(), 1500)
        self.assertLessEqual((smoothed.predict(x) != -1).sum(), 2)

    def test_same_seed_same_result_in_any_batch(self):
        smoothed, x = smoothing.SmoothedClassifier(network(), sigma=0.3), inputs(5)
        for adaptive in (False, True):
            whole = smoothed.certify(x, n=3000, seed=7, index=10, adaptive=adaptive)
            for i in range(5):
                alone = smoothed.certify(
                    x[i : i + 1], n=3000, seed=7, index=10 + i, adaptive=adaptive
                )
                for one, every in zip(alone, whole, strict=True):
                    self.assertEqual(one[0], every[i])
        places = smoothed.certify(x[::2], n=3000, seed=7, index=[10, 12, 14])
        whole = smoothed.certify(x, n=3000, seed=7, index=10)
        np.testing.assert_array_equal(places.p_lower, whole.p_lower[::2])
        other = smoothed.certify(x, n=3000, seed=8, index=10)
        self.assertFalse(np.array_equal(other.p_lower, whole.p_lower))

    def test_predicts(self):
        smoothed = smoothing.SmoothedClassifier(linear([1.0, 0.0]), sigma=0.5)
        x = np.array([[0.4, 0.0], [-0.4, 0.0], [0.001, 0.0]])
        found = smoothed.predict(x)
        self.assertEqual(found.dtype, np.int64)
        self.assertEqual(found.tolist(), [1, 0, -1])

    def test_takes_tensors_and_integers(self):
        smoothed = smoothing.SmoothedClassifier(linear([1.0, 0.0]), sigma=0.5)
        x = np.array([[2, 0]], "uint8")
        wanted = smoothed.certify(x.astype("float32"), n=300)
        for form in (x, ops.convert_to_tensor(x), x.tolist()):
            self.assertEqual(smoothed.certify(form, n=300), wanted)


class ErrorsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.smoothed = smoothing.SmoothedClassifier(linear([1.0, 0.0]), sigma=0.5)
        self.x = np.zeros((2, 2), "float32")

    @parameterized.parameters(
        ({"n": 0}, "`n` must be an integer of at least 1. Received: n=0"),
        ({"n": 10.5}, "`n` must be an integer"),
        ({"n": True}, "`n` must be an integer"),
        ({"n0": -1}, "`n0` must be an integer of at least 1"),
        ({"alpha": 0.0}, "`alpha` must lie strictly between 0 and 1"),
        ({"alpha": 1.0}, "`alpha` must lie strictly between 0 and 1"),
        ({"alpha": math.nan}, "`alpha` must lie strictly between 0 and 1"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"seed": 0.5}, "`seed` must be a non-negative integer"),
        ({"index": -1}, "`index` must be the place"),
        ({"index": [1, 2, 3]}, "`index` must be the place"),
        ({"index": 0.5}, "`index` must be the place"),
        ({"adaptive": 0.1}, "`adaptive` must be True, False or a tfcert.smoothing.Adaptive"),
    )
    def test_refuses_arguments(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            self.smoothed.certify(self.x, **arguments)
        if not {"n0", "adaptive"} & set(arguments):
            with self.assertRaisesRegex(ValueError, text):
                self.smoothed.predict(self.x, **arguments)

    @parameterized.parameters((9, False), (9, True))
    def test_warns_where_no_votes_could_suffice(self, n, adaptive):
        text = f"No input can be certified: even where all of n={n} samples agree"
        with pytest.warns(UserWarning, match=text):
            found = self.smoothed.certify(self.x + 9.0, n=n, adaptive=adaptive)
        self.assertEqual(found.prediction.tolist(), [-1, -1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # The fewest that do suffice.
            found = self.smoothed.certify(self.x + 9.0, n=10)
        self.assertEqual(found.prediction.tolist(), [1, 1])

    def test_warns_where_every_prediction_abstains(self):
        with pytest.warns(UserWarning, match="all of n=10 votes for one class does not reach"):
            found = self.smoothed.predict(self.x + 9.0, n=10)
        self.assertEqual(found.tolist(), [-1, -1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.assertEqual(self.smoothed.predict(self.x + 9.0, n=11).tolist(), [1, 1])

    @parameterized.parameters(((2,),), ((3, 3),), ((1, 2, 1),), ((0, 2),))
    def test_refuses_shapes(self, shape):
        for method in (self.smoothed.certify, self.smoothed.predict):
            with self.assertRaisesRegex(ValueError, "`x` (must have the shape|is empty).*Received"):
                method(np.zeros(shape, "float32"))

    def test_refuses_inputs_that_are_not_finite(self):
        self.x[0, 0] = np.nan
        with self.assertRaisesRegex(ValueError, "`x` must be finite"):
            self.smoothed.certify(self.x)

    def test_refuses_inputs_that_are_no_numbers(self):
        for x in (self.x + 1j, self.x.astype(str), self.x.astype(object)):
            with self.assertRaisesRegex(ValueError, "`x` must hold real numbers"):
                self.smoothed.certify(x)

    def test_refuses_models(self):
        one = keras.Input((2,))
        number = keras.Input((2,), dtype="int32")
        image = keras.Input((4, 4, 1))
        cases = (
            (lambda x: x, "`model` must be a keras.Model"),
            (keras.Sequential([layers.Dense(2)]), "no known input"),
            (keras.Model([one, image], layers.Dense(2)(one)), "must have one input"),
            (keras.Model(number, layers.Embedding(5, 2)(number)), "must take float32 or float64"),
            (keras.Model(one, layers.Dense(1)(one)), r"\(batch, classes\) with at least two"),
            (keras.Model(image, layers.Conv2D(2, 1)(image)), r"\(batch, classes\)"),
            (keras.Model(one, [layers.Dense(2)(one), one]), r"\(batch, classes\)"),
        )
        for model, text in cases:
            with self.assertRaisesRegex(ValueError, text):
                smoothing.SmoothedClassifier(model, sigma=0.5)

    def test_scores_may_be_in_a_list_or_dictionary(self):
        model = linear([1.0, -1.0])
        wanted = smoothing.SmoothedClassifier(model, sigma=0.5).certify(self.x, n=1000)
        image = keras.Input((2,))
        scores = model(image)
        for out in ([scores], {"scores": scores}):
            smoothed = smoothing.SmoothedClassifier(keras.Model(image, out), sigma=0.5)
            found = smoothed.certify(self.x, n=1000)
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(a, b)

    @parameterized.parameters(0.0, -1.0, math.nan)
    def test_refuses_sigma(self, sigma):
        with self.assertRaisesRegex(ValueError, "`sigma` must be a positive finite number"):
            smoothing.SmoothedClassifier(linear([1.0]), sigma=sigma)

    @parameterized.parameters(0, 99, 150.0)
    def test_refuses_batch_sizes(self, batch_size):
        with self.assertRaisesRegex(ValueError, "`batch_size` must be an integer of at least 100"):
            smoothing.SmoothedClassifier(linear([1.0]), sigma=0.5, batch_size=batch_size)
