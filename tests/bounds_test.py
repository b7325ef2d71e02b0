"""What the bound functions promise beside soundness: gradients, graphs, statistics, caches."""

from __future__ import annotations

import gc
import logging
import weakref

import keras
import numpy as np
import pytest
from absl.testing import parameterized
from keras import ops

import tfcert
from tfcert import backend
from tfcert.bounds import trace_count

_LAYERS = keras.layers


def _convolutional(batch_norm: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            _LAYERS.Conv2D(3, 3, strides=2, padding="same"),
            _LAYERS.BatchNormalization() if batch_norm else _LAYERS.Identity(),
            _LAYERS.ReLU(),
            _LAYERS.Conv2D(4, 3, padding="same", activation="relu"),
            _LAYERS.Flatten(),
            _LAYERS.Dense(8, activation="relu"),
            _LAYERS.Dense(3),
        ]
    )
    for weight in model.weights:  # Away from the symmetric start, where slopes are undecided.
        noise = 0.1 * np.random.default_rng(weight.shape[0]).normal(size=weight.shape)
        weight.assign(weight + np.abs(noise) if "variance" in weight.path else weight + noise)
    return model


def _inputs(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 8, 8, 1)).astype("float32"), np.arange(count) % 3


_DIFFERENTIABLE = ("ibp", "crown-ibp", "fast-lin", "crown")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
class GradientTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_gradient_equals_finite_differences(self) -> None:
        self.check_gradient(_DIFFERENTIABLE[-1])

    @parameterized.parameters(*_DIFFERENTIABLE[:-1])
    @pytest.mark.slow
    def test_gradient_of_other_methods_equals_finite_differences(self, method: str) -> None:
        self.check_gradient(method)

    def check_gradient(self, method: str) -> None:
        import tensorflow as tf

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            model = _convolutional()
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")
        x, y = _inputs(2)
        region = tfcert.LpBall(0.02)
        kernel = model.layers[0].kernel

        def loss() -> tf.Tensor:
            return tf.reduce_sum(tfcert.bound_margins(model, x, y, region, method=method))

        @tf.function
        def gradient() -> tf.Tensor:
            with tf.GradientTape() as tape:
                value = loss()
            return tape.gradient(value, kernel.value)

        direction = np.random.default_rng(1).normal(size=kernel.shape)
        expected, start, step = 0.0, kernel.numpy(), 1e-6
        for sign in (1.0, -1.0):
            kernel.assign(start + sign * step * direction)
            expected += sign * float(loss()) / (2 * step)
        kernel.assign(start)
        found = float(tf.reduce_sum(gradient() * direction))
        self.assertAlmostEqual(found, expected, delta=1e-4 * max(1.0, abs(expected)))
        self.assertGreater(abs(expected), 1e-3)

    @parameterized.parameters(*_DIFFERENTIABLE[:2])
    def test_unknown_batch_size_inside_a_graph(self, method: str) -> None:
        self.check_unknown_batch_size(method)

    @parameterized.parameters(*_DIFFERENTIABLE[2:], "alpha-crown")
    @pytest.mark.slow
    def test_unknown_batch_size_of_sweeps_inside_a_graph(self, method: str) -> None:
        self.check_unknown_batch_size(method)

    def check_unknown_batch_size(self, method: str) -> None:
        import tensorflow as tf

        model, (x, y) = _convolutional(batch_norm=True), _inputs()
        region = tfcert.LpBall(0.5, clip=(0.0, 1.0))

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 8, 8, 1)),
                tf.TensorSpec((None,), "int64"),
                tf.TensorSpec(()),
            ]
        )
        def inside(inputs: tf.Tensor, labels: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
            return tfcert.bound_margins(model, inputs, labels, region.with_eps(eps), method=method)

        for count, eps in ((5, 0.01), (2, 0.03)):
            outside = tfcert.bound_margins(
                model, x[:count], y[:count], region.with_eps(eps), method=method
            )
            np.testing.assert_allclose(inside(x[:count], y[:count], eps), outside, atol=2e-4)


class StatisticsTest(parameterized.TestCase):
    def test_batch_statistics_are_those_of_the_clean_batch(self) -> None:
        model, (x, _) = _convolutional(batch_norm=True), _inputs()
        for method in ("ibp", "crown"):
            bounds = tfcert.bound(model, x, tfcert.LpBall(0.0), method, statistics="batch")
            before = [np.asarray(v) for v in model.non_trainable_variables]
            training = np.asarray(model(x, training=True))
            for variable, value in zip(model.non_trainable_variables, before, strict=True):
                variable.assign(value)
            np.testing.assert_allclose(bounds.lower, training, atol=1e-4)
            np.testing.assert_allclose(bounds.upper, training, atol=1e-4)
        self.assertGreater(np.abs(training - np.asarray(model(x))).max(), 1e-2)

    def test_unknown_statistics(self) -> None:
        model, (x, _) = _convolutional(), _inputs()
        with self.assertRaisesRegex(ValueError, '"moving" or "batch"'):
            tfcert.bound(model, x, tfcert.LpBall(0.1), statistics="running")


class OptimisationTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_never_looser(self) -> None:
        model, (x, y) = _convolutional(), _inputs()
        region = tfcert.LpBall(0.05)
        alpha = tfcert.methods.AlphaCrown
        results = [
            np.asarray(tfcert.bound_margins(model, x, y, region, method=method))
            for method in (
                "crown",
                alpha(iterations=5),
                alpha(iterations=5, optimize_intermediate=True),
            )
        ]
        for looser, tighter in zip(results, results[1:], strict=False):
            self.assertTrue((tighter >= looser - 1e-5).all())
            self.assertGreater((tighter - looser).max(), 1e-4)


class CacheTest(parameterized.TestCase):
    @parameterized.parameters("ibp", "crown", "alpha-crown")
    def test_one_program_for_all_sizes_and_weights(self, method: str) -> None:
        model, (x, y) = _convolutional(), _inputs()
        first = np.asarray(tfcert.bound_margins(model, x, y, tfcert.LpBall(0.001), method))
        self.assertEqual(trace_count(model), 0)  # The first call is answered at once.
        again = tfcert.bound_margins(model, x, y, tfcert.LpBall(0.001), method)
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)
        traces = trace_count(model)
        self.assertEqual(traces, 1)
        for eps in (0.0, 0.01, 0.2, 1.0):  # From no unstable neuron to nearly all.
            tfcert.bound_margins(model, x, y, tfcert.LpBall(eps), method)
        for weight in model.layers[-1].weights:
            weight.assign(2.0 * weight)
        doubled = tfcert.bound_margins(model, x, y, tfcert.LpBall(0.001), method)
        self.assertEqual(trace_count(model), traces)
        np.testing.assert_allclose(doubled, 2.0 * first, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_programs_are_gone_with_their_model(self) -> None:
        model, (x, y) = _convolutional(), _inputs()
        tfcert.bound_margins(model, x, y, tfcert.LpBall(0.01), "crown")
        gone = weakref.ref(model)
        del model
        for _ in range(3):
            gc.collect()
        self.assertIsNone(gone())

    def test_pieces_of_the_batch_give_the_same_bounds(self) -> None:
        model, (x, y) = _convolutional(), _inputs(7)
        region = tfcert.LpBall(np.full((8, 8, 1), 0.02), norm=2)
        whole = tfcert.bound_margins(model, x, y, region, method="crown")
        small = tfcert.methods.Crown(max_memory=1 << 20, chunk=3)
        np.testing.assert_allclose(
            tfcert.bound_margins(model, np.tile(x, (20, 1, 1, 1)), np.tile(y, 20), region, small),
            np.tile(np.asarray(whole), (20, 1)),
            atol=1e-5,
        )


def test_symbolic_values_are_told_from_numbers() -> None:
    assert backend.is_symbolic(keras.KerasTensor((1, 2)))
    assert not backend.is_symbolic(ops.zeros((1, 2)))


def test_many_programs_bring_no_warning_of_tracing(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow counts those of the same lines, which here are not made anew for every call."""
    model = keras.Sequential([keras.Input((2,)), _LAYERS.Dense(3)])
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        for size in range(1, 8):
            tfcert.bound(model, np.zeros((size, 2), "float32"), tfcert.LpBall(0.1), "ibp")
            tfcert.bound(model, np.zeros((size, 2), "float32"), tfcert.LpBall(0.1, norm=2), "ibp")
    finally:
        logger.removeHandler(caplog.handler)
    assert "triggered tf.function retracing" not in caplog.text
