"""The same bounds however they are computed: compiled, in pieces, after other calls."""

import keras
import numpy as np
import pytest
from absl.testing import absltest
from keras import layers, ops

import tfcert
from tests import rule_cases, soundness
from tfcert import bounds as bounds_lib

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tests the TensorFlow backend"
)


def small_net(seed=0):
    """A convolution, normalisation, a branch, a maximum and dense layers."""
    entry = keras.Input((4, 4, 1))
    x = layers.Conv2D(3, 2, padding="same", activation="relu")(entry)
    x = layers.Add()([layers.MaxPooling2D(2, 1, padding="same")(x), layers.Conv2D(3, 1)(x)])
    x = layers.Flatten()(layers.BatchNormalization()(x))
    model = keras.Model(entry, layers.Dense(3)(layers.Dense(6, activation="relu")(x)))
    return rule_cases.randomise(model, seed)


def inputs(batch=3, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 0.8, (batch, 4, 4, 1)).astype("float32")


def assert_same(first, second, tolerance=1e-5):
    for a, b in zip(soundness.flat(first), soundness.flat(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


METHODS = {
    "ibp": tfcert.methods.IBP(),
    "crown-ibp": tfcert.methods.CrownIBP(),
    "crown": tfcert.methods.Crown(),
    "alpha-crown": tfcert.methods.AlphaCrown(iterations=2, optimize_intermediate=True),
}
REGION = tfcert.LpBall(0.15)


class CompilationTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.x = small_net(), inputs()
        with soundness.eagerly():
            cls.eager = {
                name: tfcert.bound(cls.model, cls.x, REGION, method)
                for name, method in METHODS.items()
            }

    @pytest.mark.slow
    def test_compiled_bounds_equal_eager_ones(self):
        for name, method in METHODS.items():
            with self.subTest(name):
                assert_same(tfcert.bound(self.model, self.x, REGION, method), self.eager[name])

    @tensorflow_only
    def test_inside_of_a_users_function(self):
        import tensorflow as tf

        @tf.function
        def user(x):
            return tfcert.bound(self.model, x, REGION, "crown-ibp")

        assert_same(user(tf.constant(self.x)), self.eager["crown-ibp"])

    @tensorflow_only
    def test_inside_of_a_users_function_of_any_batch(self):
        import tensorflow as tf

        @tf.function(
            input_signature=[tf.TensorSpec((None, 4, 4, 1)), tf.TensorSpec((None,), "int32")]
        )
        def user(x, y):
            return tfcert.bound_margins(self.model, x, y, REGION, "crown-ibp")

        y = np.array([0, 2, 1], "int32")
        with soundness.eagerly():
            expected = tfcert.bound_margins(self.model, self.x, y, REGION, "crown-ibp")
        specs = tf.TensorSpec((None, 4, 4, 1)), tf.TensorSpec((None,), "int32")
        compiled = user.get_concrete_function(*specs)
        assert_same(compiled(tf.constant(self.x), tf.constant(y)), expected)

    @tensorflow_only
    @pytest.mark.slow
    def test_xla(self):
        for name in ("ibp", "crown"):
            method = type(METHODS[name])(jit_compile=True)
            assert_same(tfcert.bound(self.model, self.x, REGION, method), self.eager[name])

    def test_pieces(self):
        # Few neurons a turn, and a batch that is cut.
        with soundness.eagerly():
            for method in (
                tfcert.methods.Crown(chunk=1),
                tfcert.methods.Crown(chunk=7),
                tfcert.methods.Crown(max_memory=1 << 20),
            ):
                assert_same(tfcert.bound(self.model, self.x, REGION, method), self.eager["crown"])
            x = inputs(batch=70, seed=1)
            whole = tfcert.bound(self.model, x, REGION, "crown")
            pieces = tfcert.bound(self.model, x, REGION, tfcert.methods.Crown(max_memory=1 << 20))
            assert_same(pieces, whole)

    @pytest.mark.slow
    def test_one_by_one(self):
        with soundness.eagerly():
            for name in ("ibp", "crown", "alpha-crown"):
                alone = [
                    soundness.flat(tfcert.bound(self.model, x[None], REGION, METHODS[name]))
                    for x in self.x
                ]
                together = [np.concatenate(ends) for ends in zip(*alone, strict=True)]
                assert_same(together, soundness.flat(self.eager[name]))


class TracesTest(absltest.TestCase):
    def test_size_and_unstable_neurons_cause_no_traces(self):
        model, x = small_net(), inputs()
        for method in ("ibp", "crown"):
            for _ in range(2):  # At once, then compiled.
                tfcert.bound(model, x, REGION, method)
            before = bounds_lib.trace_count(model)
            for eps in (0.0, 1e-3, 0.1, 2.0):
                tfcert.bound(model, x, tfcert.LpBall(eps), method)
                tfcert.bound(model, inputs(seed=5), REGION.with_eps(eps), method)
            self.assertEqual(bounds_lib.trace_count(model), before)
        y = np.array([0, 1, 2])
        for _ in range(2):
            tfcert.bound_margins(model, x, y, REGION, "ibp")
        before = bounds_lib.trace_count(model)
        tfcert.bound_margins(model, x, y[::-1].copy(), tfcert.LpBall(0.01), "ibp")
        self.assertEqual(bounds_lib.trace_count(model), before)


class ChangesTest(absltest.TestCase):
    """No call sees what only an earlier one was given."""

    def assert_as_new(self, model, x, region=REGION, methods=("ibp",)):
        """Raises unless a model that was never bounded gives the same."""
        fresh = keras.models.clone_model(model)
        fresh.set_weights(model.get_weights())
        for method in methods:
            found = tfcert.bound(model, x, region, method)
            with soundness.eagerly():
                assert_same(found, tfcert.bound(fresh, x, region, method))

    def test_weights(self):
        model, x = small_net(), inputs()
        for seed in (1, 2):
            tfcert.bound(model, x, REGION, "crown")
            rule_cases.randomise(model, seed)
            self.assert_as_new(model, x, methods=("ibp", "crown"))

    def test_weights_after_training(self):
        model, x = small_net(), inputs()
        tfcert.bound(model, x, REGION, "ibp")
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, np.array([0, 1, 2]), epochs=2, verbose=0)
        self.assert_as_new(model, x)

    @pytest.mark.slow
    def test_regions(self):
        model, x = small_net(), inputs()
        eps = np.linspace(0.0, 0.2, 16, dtype="float32").reshape(4, 4, 1)
        some, others = np.array([0.0, 0.1, 0.2], "float32"), np.array([0.3, 0.0, 0.1], "float32")
        box = tfcert.Box(np.float32(0.0), np.float32(1.0))
        # Each differs from one before it in one respect.
        for region in (
            tfcert.LpBall(0.1),
            tfcert.LpBall(0.2),
            tfcert.LpBall(0.3, clip=(0.0, 1.0)),
            tfcert.LpBall(0.3, clip=(0.1, 0.9)),
            tfcert.LpBall(eps),
            tfcert.LpBall(2.0 * eps),
            tfcert.LpBall(eps, clip=(np.zeros((4, 4, 1)), 1.0)),
            tfcert.LpBall(0.1).with_eps(some),
            tfcert.LpBall(0.1).with_eps(others),
            tfcert.LpBall(0.2, norm=2),
            tfcert.LpBall(0.4, norm=2),
            tfcert.LpBall(0.4, norm=2, clip=(0.1, 0.9)),
            tfcert.LpBall(0.4, norm=1),
            tfcert.LpBall(0.4, norm=3),
            tfcert.Box(x - 0.1, x + 0.2),
            tfcert.Box(x - 0.2, x + 0.1),
            box,
            box.scaled(0.5),
            tfcert.Box(np.float32(0.1), np.float32(0.9)).scaled(0.25),
        ):
            with self.subTest(str(region)[:60]):
                self.assert_as_new(model, x, region)

    def test_settings_of_layers(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(3, "softmax")])
        x = np.ones((1, 4), "float32")
        tfcert.bound(model, x, REGION, "ibp")
        model.layers[-1].activation = keras.activations.linear
        self.assert_as_new(model, x)
        model.layers[0].activation = keras.activations.tanh
        self.assert_as_new(model, x)
        model.pop()
        self.assert_as_new(model, x)
        model.add(layers.Dense(2))
        self.assert_as_new(model, x)

    def test_statistics_of_normalisation(self):
        layer = layers.Normalization()
        model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
        x = np.ones((1, 4), "float32")
        for seed in (0, 1):
            layer.adapt(np.random.default_rng(seed).normal(seed, 1.0 + seed, (20, 4)))
            soundness.check_point(model, x, "ibp")
            soundness.check_point(model, x, "crown")

    def test_low_rank_updates(self):
        dense, conv = layers.Dense(4), layers.Conv1D(2, 2)
        model = keras.Sequential(
            [keras.Input((4,)), dense, layers.Reshape((4, 1)), conv, layers.Flatten()]
        )
        x = np.ones((1, 4), "float32")
        soundness.check_point(model, x, "crown")
        for layer in (dense, conv):
            layer.enable_lora(2)
            for seed in (0, 1):
                rule_cases.randomise(model, seed)
                soundness.check_point(model, x, "crown")

    @pytest.mark.slow
    def test_names_of_methods_with_other_options(self):
        model, x = small_net(), inputs()
        with soundness.eagerly():
            expected = tfcert.bound(model, x, REGION, tfcert.methods.Crown(slope="zero"))
        tfcert.bound(model, x, REGION, "crown")
        assert_same(tfcert.bound(model, x, REGION, tfcert.methods.Crown(slope="zero")), expected)


class StructureTest(absltest.TestCase):
    def test_outputs_keep_their_structure(self):
        entry = keras.Input((4,))
        hidden = layers.Dense(3, activation="relu")(entry)
        model = keras.Model(
            entry, {"b": layers.Dense(2)(hidden), "a": [hidden, ops.expand_dims(hidden, 1)]}
        )
        x = np.ones((2, 4), "float32")
        bounds = tfcert.bound(model, x, REGION, "ibp")
        self.assertIsInstance(bounds, tfcert.Bounds)
        outputs = model(x)
        for end in bounds:
            keras.tree.assert_same_structure(end, outputs)
            shapes = [keras.tree.map_structure(lambda t: tuple(t.shape), s) for s in (end, outputs)]
            self.assertEqual(*shapes)


if __name__ == "__main__":
    absltest.main()
