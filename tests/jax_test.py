"""Bounds on JAX: without TensorFlow, with weights that change, in float64 only where there is one.

Each test starts a process of its own, since Keras chooses its backend once. Where the suite itself
runs on JAX (``KERAS_BACKEND=jax``), the last tests would repeat it and are skipped.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap
import unittest

import keras
import pytest

from tests import support

# Where training is short, XLA's optimizations take longer than they save.
COMPILED_FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def run(arguments, **environment):
    """What a new interpreter prints, with JAX as Keras's backend."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=support.ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_without_tensorflow(code, **environment):
    """Runs code behind imports of a small network, where TensorFlow cannot be imported."""
    start = """
    import keras
    import numpy as np
    import tfcert
    from tfcert import methods

    def same(values, expected):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)

    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(3, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(4),
    ])
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 1)).astype("float32")
    y = np.array([1, 2])
    region = tfcert.LpBall(0.05, clip=(0.0, 1.0))
    """
    end = """
    import sys
    assert not any(name.startswith("tensorflow") for name in sys.modules), "imported"
    print("done")
    """
    parts = [support.BLOCK_TENSORFLOW, *map(textwrap.dedent, (start, code, end))]
    printed = run(["-c", "\n".join(parts)], **environment)
    assert printed.split()[-1] == "done", printed


class JaxTest(unittest.TestCase):
    def setUp(self):
        if importlib.util.find_spec("jax") is None:
            self.skipTest("needs jax, which is not installed")

    def test_the_library_and_its_bounds_need_no_tensorflow(self):
        run_without_tensorflow(
            """
        for name in tfcert.__all__:
            getattr(tfcert, name)
        (digits, _), _ = tfcert.datasets.load("digits")
        assert digits.shape == (1437, 8, 8, 1)

        points = np.asarray(region.sample(x, 50, seed=0)).reshape(-1, 6, 6, 1)
        scores = np.asarray(model(points)).reshape(2, 50, 4)
        for method in ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown"):
            low, high = map(np.asarray, tfcert.bound(model, x, region, method))
            assert (low[:, None] <= scores + 1e-5).all() and (scores <= high[:, None] + 1e-5).all()
            margins = np.asarray(tfcert.bound_margins(model, x, y, region, method))
            own = np.take_along_axis(scores, y[:, None, None], axis=2)
            assert (margins[:, None] <= own - scores + 1e-5).all()

        # Programs read the weights of the call, and serve every eps.
        before = tfcert.bounds.trace_count(model)
        first = np.asarray(tfcert.bound(model, x, region, "crown").lower)
        last = model.layers[-1]
        last.kernel.assign(2.0 * last.kernel)
        last.bias.assign(2.0 * last.bias)
        same(tfcert.bound(model, x, region, "crown").lower, 2.0 * first)
        model.layers[1].moving_mean.assign([5.0, 5.0, 5.0])
        point = tfcert.bound(model, x, region.with_eps(0.0), "crown")
        same(point.lower, model(x))
        assert tfcert.bounds.trace_count(model) == before
        """,
            **COMPILED_FAST,
        )

    @pytest.mark.slow
    def test_training_without_tensorflow(self):
        run_without_tensorflow(
            """
            from tfcert import objectives
            digits, labels = tfcert.datasets.load("digits")[0]
            ball = tfcert.LpBall(0.02, clip=(0.0, 1.0))
            for objective in (
                objectives.IBP(ball, ramp=(0, 2), regularizer=0.5),
                objectives.MAAR(ball, ramp=(0, 2)),
                objectives.TightRelaxation(ball, base="fast-lin", ramp=(0, 2)),
                objectives.AdvIBP(ball, (0, 1)),
            ):
                trained = tfcert.models.get("mlp_1x16", (8, 8, 1), 10)
                trainer = tfcert.CertifiedTrainer(trained, objective, verified_share=0.5)
                trainer.compile(keras.optimizers.Adam(1e-2))
                history = trainer.fit(
                    digits[:640], labels[:640], batch_size=64, epochs=8, verbose=0,
                    validation_data=(digits[640:768], labels[640:768]),
                ).history
                assert int(trainer.step) == 80, trainer.step
                assert history["val_accuracy"][-1] > 0.5, (objective, history)
                assert history["val_verified_accuracy"][-1] > 0.2, (objective, history)
                verified = tfcert.bound_margins(trained, digits[:50], labels[:50], ball, "ibp")
                assert np.isfinite(np.asarray(verified)).all()

            # A void step changes neither weights nor statistics nor the optimizer's state.
            for objective in (objectives.IBP(ball), objectives.AdvIBP(ball)):
                trainer = tfcert.CertifiedTrainer(keras.models.clone_model(model), objective)
                trainer.compile(keras.optimizers.Adam(1e-2))
                trainer.train_on_batch(x, y)
                kept = [*trainer.model.variables, *trainer.optimizer.variables]
                kept += [v for v in trainer.variables if "gradient" in v.name]
                before = [np.array(v) for v in kept]
                assert np.isnan(trainer.train_on_batch(np.where(x < 0.5, x, np.nan), y)[0])
                assert np.isnan(trainer.train_on_batch(x, y + 2)[0])  # The label 4 of 0 to 3.
                assert int(trainer.step) == 3 and int(trainer.void_step) == 1
                for variable, value in zip(kept, before, strict=True):
                    np.testing.assert_array_equal(np.array(variable), value)

            # The noise of layers follows from the step, and a scaled loss is scaled back.
            def losses(optimizer, *stops):
                keras.utils.set_random_seed(0)
                layers = [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(10)]
                plain = keras.Sequential([keras.Input((8, 8, 1)), *layers])
                found = []
                for first, last in zip((0, *stops), (*stops, 4), strict=True):
                    objective = objectives.GaussianSmoothing(0.1)
                    trainer = tfcert.CertifiedTrainer(plain, objective)
                    trainer.compile(optimizer)
                    trainer.step.assign(first)
                    fit = {"batch_size": 64, "initial_epoch": first, "epochs": last, "verbose": 0}
                    found += trainer.fit(digits[:64], labels[:64], **fit).history["loss"]
                return found

            expected = losses(keras.optimizers.SGD(0.1))
            same(losses(keras.optimizers.SGD(0.1), 2), expected)
            same(losses(keras.optimizers.SGD(0.1, loss_scale_factor=8.0)), expected)
            inner = keras.optimizers.SGD(0.1)
            same(losses(keras.optimizers.LossScaleOptimizer(inner)), expected)

            # Distances, and float64 is asked for.
            keras.utils.set_random_seed(0)
            wider = tfcert.LpBall(0.05, clip=(0.0, 1.0))
            network = tfcert.models.get("linf_mlp_2x32", (8, 8, 1), 10)
            trainer = tfcert.CertifiedTrainer(
                network,
                objectives.LInfDistance(wider, ramp=(3, 9), weight=(1.0, 0.01), train_eps=0.1),
                verified_share=0.0,
            )
            trainer.compile(keras.optimizers.Adam(5e-2, beta_2=0.99, epsilon=1e-10))
            history = trainer.fit(
                digits[:640], labels[:640], batch_size=64, epochs=12, verbose=0,
                validation_data=(digits[640:704], labels[640:704]),
            ).history
            assert history["val_accuracy"][-1] > 0.6, history
            assert history["val_verified_accuracy"][-1] > 0.3, history
            layers = tfcert.layers.distance_layers(network)
            assert all(np.isinf(layer.p.numpy()) for layer in layers)
            radius = np.asarray(tfcert.lipschitz.radius(network, digits[640:704], labels[640:704]))
            assert abs((radius > 0.05).mean() - history["val_verified_accuracy"][-1]) < 1e-6

            safe = methods.Crown(float_safe=True)
            double = keras.Sequential(
                [keras.Input((2,), dtype="float64"), keras.layers.Dense(2, dtype="float64")]
            )
            for call in (
                lambda: tfcert.bound(model, x, region, safe),
                lambda: tfcert.bound_margins(model, x, y, region, safe),
                lambda: tfcert.bound(double, np.ones((1, 2)), tfcert.LpBall(0.1)),
            ):
                try:
                    call()
                except ValueError as error:
                    assert "needs float64" in str(error) and "JAX_ENABLE_X64=1" in str(error), error
                else:
                    raise AssertionError("not refused")
            """,
            **COMPILED_FAST,
        )

    @pytest.mark.slow
    def test_float_safe_with_float64(self):
        run_without_tensorflow(
            """
            for method in (methods.IBP, methods.Crown):
                low, high = map(np.asarray, tfcert.bound(model, x, region, method(float_safe=True)))
                inner = [np.asarray(t) for t in tfcert.bound(model, x, region, method())]
                assert low.dtype == "float64" and inner[0].dtype == "float32"
                assert (low < inner[0]).all() and (inner[1] < high).all()
                same(low, inner[0])
            double = keras.Sequential(
                [keras.Input((2,), dtype="float64"), keras.layers.Dense(2, dtype="float64")]
            )
            third = np.full((1, 2), 1 / 3)
            bounds = tfcert.bound(double, third, tfcert.LpBall(0.0))
            kernel = np.asarray(double.layers[0].kernel)
            assert kernel.dtype == "float64" and np.abs(bounds.lower - third @ kernel).max() < 1e-15
            """,
            JAX_ENABLE_X64="1",
        )

    @pytest.mark.slow
    def test_a_part_of_the_suite(self):
        chosen = "mnist_fc_3layer and (linf_moderate_clip or CROWN) or bounds[dense-chain]"
        files = "tests/agreement_test.py tests/rules_test.py"
        self.run_suite(files, chosen, JAX_ENABLE_X64="1", **COMPILED_FAST)

    @pytest.mark.slow
    def test_rounding(self):
        """As XLA compiles by itself."""
        chosen = "padded_borders or wrong_in_float32 or computed_separately"
        self.run_suite("tests/float_safe_test.py", chosen, JAX_ENABLE_X64="1")

    @pytest.mark.slow
    def test_pages(self):
        self.run_suite("tests/docs_test.py", "code_runs and bounds", **COMPILED_FAST)

    def run_suite(self, files, chosen, **environment):
        if keras.backend.backend() == "jax":
            self.skipTest("the suite runs on JAX already")
        options = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        printed = run([*options, *files.split(), "-k", chosen], **environment)
        self.assertIn(" passed", printed)
