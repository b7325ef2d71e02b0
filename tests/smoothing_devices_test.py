"""Smoothed classifiers on two devices, and on JAX: in processes of their own."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import unittest

import keras
import pytest

from tests import support


class DevicesTest(unittest.TestCase):
    @unittest.skipIf(keras.backend.backend() != "tensorflow", "tf.distribute needs TensorFlow")
    @pytest.mark.slow
    def test_two_devices_count_as_one(self):
        work = """
        import numpy as np
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        one = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [one, one])
        import keras
        from tests import smoothing_classifier_test as here
        from tfcert import CertifiedTrainer, objectives, smoothing

        x = here.inputs(3)
        found = []
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for scope in (tf.distribute.get_strategy().scope(), strategy.scope()):
            with scope:
                smoothed = smoothing.SmoothedClassifier(here.network(), 0.5, batch_size=300)
            # Less than a call of one device, parts of calls, and several calls.
            found.append([here.votes(smoothed, x, draws) for draws in (40, 150, 7070, 45_000)])
            found[-1] += [smoothed.certify(x, n=3000), smoothed.certify(x, n=3000, adaptive=True)]
        assert smoothed._counter._devices == 2
        for a, b in zip(*found):
            np.testing.assert_array_equal(a, b)

        # In training every device has noise of its own.
        with strategy.scope():
            trainer = CertifiedTrainer(here.network(), objectives.GaussianSmoothing(0.5))
        seeds = strategy.run(lambda: trainer._noise_seed(tf.constant(7), True))
        first, second = (s.numpy().tolist() for s in strategy.experimental_local_results(seeds))
        assert first == [0, 7] and second[0] != 0 and second[1] == 7, (first, second)
        print("done")
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(work)],
            cwd=support.ROOT,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(support.ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(result.stdout.split()[-1:], ["done"], result.stderr[-3000:])


class JaxTest(unittest.TestCase):
    @pytest.mark.slow
    def test_runs_without_tensorflow(self):
        if importlib.util.find_spec("jax") is None:
            self.skipTest("needs jax, which is not installed")
        work = """
        import keras
        import numpy as np
        from tfcert import backend, smoothing

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        kernel = np.array([[0.0, 3.0], [0.0, -4.0]], "float32")
        model.layers[0].set_weights([kernel, np.zeros(2, "float32")])
        x = np.array([[0.3, -0.1], [0.0, 0.2]], "float32")
        for noise in (smoothing.Gaussian(0.25), smoothing.Laplace(0.25), smoothing.Uniform(0.6)):
            smoothed = smoothing.SmoothedClassifier(model, noise=noise)
            whole = smoothed.certify(x, n=5000)
            assert whole.prediction.tolist() == [1, 0], whole
            limit = [0.26, 0.16] if noise.norm == 2 else [0.325, 0.2]  # Distances to the plane.
            assert (whole.radius > 0).all() and (whole.radius < limit).all(), whole
            alone = smoothed.certify(x[1:], n=5000, index=1)
            assert alone.p_lower[0] == whole.p_lower[1]
        assert not any(name.startswith("tensorflow") for name in sys.modules), "imported"
        print("done")
        """
        code = support.BLOCK_TENSORFLOW + textwrap.dedent(work)
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=support.ROOT,
            env={**os.environ, "KERAS_BACKEND": "jax"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(result.stdout.strip(), "done", result.stderr)
