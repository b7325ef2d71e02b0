"""Layers and operations that are not supported: what errors say."""

import functools

import keras
import numpy as np
import pytest
from absl.testing import absltest
from keras import layers, ops

import tfcert
from tests import soundness
from tests.errors_support import (
    REGION,
    ErrorsTest,
    classifier,
    functional,
    model_of,
    zeros,
    zeros_of,
)
from tfcert.rules import registry


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


class LayersTest(ErrorsTest):
    """Layers and operations without a rule, and rules that refuse."""

    def test_unsupported_layer(self):
        text = (
            r"Layer 'my_resizing' \(Resizing\) has no bound rule. Apply this layer to the data "
            "before the model. .* Or register a rule with tfcert.register_rule, .* or give the "
            r"layer a method propagate_interval\(bounds\): docs/adding_a_rule.md shows each. "
            "Attacks .* and smoothing .* work for any model"
        )
        model = model_of(layers.Resizing(4, 4, name="my_resizing"), shape=(3, 3, 1))
        self.check(NotImplementedError, text, model)

    def test_other_unsupported_layers(self):
        for layer, shape in (
            (layers.Resizing(4, 4), (3, 3, 1)),
            (layers.Masking(), (3, 2)),
        ):
            model = model_of(layer, shape=shape)
            name = type(layer).__name__
            self.check(NotImplementedError, rf"Layer '.*' \({name}\) has no bound rule", model)

    def test_layers_for_which_there_is_another_way(self):
        text = r"Layer 'words' \(Embedding\) has no bound rule.* tfcert.split_embedding\(model\)"
        self.check(NotImplementedError, text, model_of(layers.Embedding(3, 2, name="words")))
        integers = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(3, 2)])
        self.check(ValueError, r"type int32.* tfcert.split_embedding\(model\)", integers)
        text = r"Layer '.*' \(ConvLSTM1D\) has no bound rule. Use TimeDistributed convolutions"
        self.check(NotImplementedError, text, model_of(layers.ConvLSTM1D(1, 2), shape=(2, 3, 1)))
        text = r"Layer '.*' \(LSTM\): it is stateful.* Rebuild it with stateful=False"
        entry = keras.Input(batch_shape=(1, 3, 2))
        stateful = keras.Model(entry, layers.LSTM(2, stateful=True)(entry))
        self.check(NotImplementedError, text, stateful)
        text = r"a constant of shape \(2, 2\).* Give one state for all samples, of shape \(1, units"
        model = functional(
            lambda x: layers.GRU(2)(x, initial_state=np.ones((2, 2), "float32")), shape=(3, 2)
        )
        self.check(NotImplementedError, text, model)
        open_end = keras.Sequential([keras.Input((None, 2)), layers.GRU(2)])
        x = np.zeros((1, 3, 2), "float32")
        self.check(ValueError, "Give keras.Input a fixed shape", open_end, x)

    def test_cells_without_a_rule(self):
        class Cell(layers.Layer):
            state_size = 2

            def call(self, x, states):
                return states[0] + x, states

        text = r"\(Cell\) has no bound rule"
        self.check(NotImplementedError, text, model_of(layers.RNN(Cell()), shape=(3, 2)))
        registry.register_rule(Cell, lambda cell, x, states: x)
        text = r"the rule of its cell Cell must return the output and the new states"
        self.check(NotImplementedError, text, model_of(layers.RNN(Cell()), shape=(3, 2)))

    def test_unsupported_operation(self):
        model = functional(lambda x: ops.sin(x))
        self.check(NotImplementedError, r"\(Sin\) has no bound rule", model)

    def test_call_overridden_without_its_bounds(self):
        class Twice(layers.Layer):
            def call(self, x):
                return 2.0 * x

            def propagate_interval(self, bounds):
                return tfcert.Bounds(2.0 * bounds.lower, 2.0 * bounds.upper)

        class Thrice(Twice):
            def call(self, x):
                return 3.0 * x

        text = (
            r"\(Thrice\) overrides `call` but inherits `propagate_interval` from Twice, which "
            "bounds another function. Override `propagate_interval` too"
        )
        self.check(NotImplementedError, text, model_of(Thrice()))
        tfcert.bound(model_of(Twice()), zeros_of(4), REGION)  # The base class itself is fine.

    def test_unknown_activations(self):
        text = (
            r"Layer 'dense.*' \(Dense\): the activation 'wave' has no bound rule. Register one with"
        )

        def wave(x):
            return ops.sin(x)

        self.check(NotImplementedError, text, model_of(layers.Dense(3, activation=wave)))
        self.check(
            NotImplementedError,
            r"\(Activation\): the activation '.*lambda.*' has no bound rule",
            model_of(layers.Activation(lambda x: x)),
        )

    def test_training_inside_of_the_model(self):
        for layer in (layers.Dropout(0.5), layers.BatchNormalization()):
            model = functional(lambda x, layer=layer: layer(x, training=True))
            text = rf"\({type(layer).__name__}\) is called with training=True inside the model"
            self.check(NotImplementedError, text, model)

    def test_masks(self):
        entry = keras.Input((4,))
        mask = keras.ops.ones((1, 4), dtype="bool")
        model = keras.Model(entry, layers.Softmax()(entry, mask=mask))
        self.check(NotImplementedError, r"\(Softmax\) is called with a mask", model)

    def test_nested_models_that_convert_their_input(self):
        inner = functional(layers.Dense(2), shape=(4,))
        model = functional(lambda x: inner(x), shape=(4, 1))
        self.check(NotImplementedError, "Keras converts such values on the way", model)

    @pytest.mark.slow
    def test_quantized_weights(self):
        model = classifier()
        model.quantize("float8")
        self.check(NotImplementedError, r"quantized \(float8\)", model)

    def test_rms_scaling(self):
        model = model_of(layers.LayerNormalization(rms_scaling=True))
        self.check(NotImplementedError, "rms_scaling=True has no rule", model)

    def test_up_sampling_with_negative_weights(self):
        for method in ("bicubic", "lanczos3", "lanczos5"):
            model = model_of(layers.UpSampling2D(2, interpolation=method), shape=(2, 2, 1))
            text = rf"\(UpSampling2D\): interpolation='{method}' has negative weights"
            self.check(NotImplementedError, text, model)

    def test_dot_products_of_matrices(self):
        dot = layers.Dot(axes=(2, 2), normalize=True)
        model = functional(lambda x: dot([x, x]), shape=(2, 3))
        self.check(NotImplementedError, "Put keras.layers.UnitNormalization before", model)

    @pytest.mark.slow
    def test_domains(self):
        for name, text in (
            ("log", "log needs inputs > 0"),
            ("log1p", "log1p needs inputs > -1"),
            ("sqrt", "sqrt needs inputs >= 0"),
            ("rsqrt", "rsqrt needs inputs > 0"),
            ("reciprocal", "reciprocal needs inputs that are all > 0 or all < 0"),
        ):
            model = functional(lambda x, name=name: getattr(ops, name)(2.0 * x))
            x = zeros(model) + (0.05 if name != "log1p" else -0.5)
            for method in ("ibp", "crown", "alpha-crown"):
                self.check(
                    ValueError,
                    f"Layer '{name}.*': {text}, but its inputs may lie in .*over this region. "
                    "Use a smaller region, a tighter method, or clip the inputs",
                    model,
                    x,
                    region=tfcert.LpBall(0.5 if name == "log1p" else 0.1),
                    method=method,
                )

    def test_division_by_an_interval_around_0(self):
        model = functional(lambda x: 1.0 / layers.Dense(2)(x))
        self.check(ValueError, "reciprocal needs inputs that are all > 0 or all < 0", model)


class BatchTest(ErrorsTest):
    """Operations that mix the samples of a batch."""

    def refused(self, apply, text, shape=(4,)):
        self.check(NotImplementedError, text, functional(apply, shape))

    def test_reductions(self):
        for reduce in (ops.sum, ops.mean, ops.max, ops.min):
            self.refused(lambda x, f=reduce: x + f(x, axis=0, keepdims=True), "mixes samples")
            self.refused(lambda x, f=reduce: x + f(x, axis=-2, keepdims=True), "mixes samples")
            self.refused(lambda x, f=reduce: x + f(x), "mixes the samples of a batch")
        self.refused(lambda x: ops.softmax(x, axis=0), "mixes samples")

    def test_indices(self):
        some = slice(1)
        for key in (0, (some,), (slice(None, None, -1), 0), (Ellipsis, some, 0), (None, some)):
            self.refused(lambda x, key=key: x[key], "picks samples of the batch")

    def test_moves(self):
        self.refused(lambda x: ops.transpose(x), "moves the batch axis")
        self.refused(lambda x: ops.transpose(x, (1, 0)), "moves the batch axis")
        self.refused(lambda x: ops.flip(x, axis=-2), "mixes samples")
        self.refused(lambda x: ops.flip(x), "mixes the samples")
        self.refused(lambda x: ops.roll(x, 1, axis=0), "mixes samples")
        self.refused(lambda x: ops.repeat(x, 2, axis=0), "mixes samples")
        self.refused(lambda x: ops.expand_dims(x, -3), "mixes samples")
        self.refused(lambda x: ops.stack([x, x], axis=-3), "mixes samples")
        self.refused(lambda x: ops.concatenate([x, x], axis=0), "batch axis mixes samples")
        self.refused(lambda x: layers.Concatenate(axis=0)([x, x]), "batch axis mixes samples")
        self.refused(lambda x: ops.pad(x, ((0, 1), (0, 0))), "keep axis 0")

    def test_shapes(self):
        self.refused(lambda x: ops.reshape(x, (-1, 2)), "moves entries between samples")
        self.refused(lambda x: ops.reshape(x, (2, 4)), "moves entries between samples")
        self.refused(lambda x: ops.einsum("bi,bj->ij", x, np.ones((1, 3), "float32")), "batch axis")

    def test_products_of_two(self):
        def refuses(equation, text):
            self.refused(lambda x: ops.einsum(equation, x, 2.0 * x), text)

        refuses("bi,bj->ij", "batch axis")
        refuses("bi,ci->bc", "batch axis")
        refuses("bi,ji->bj", "batch axis")
        refuses("bi,bj->bi", "sums one of its values alone")
        self.refused(lambda x: ops.einsum("bii,bi->bi", x[:, None] * x[:, :, None], x), "diagonal")
        self.refused(lambda x: ops.matmul(x, 2.0 * x[:, :, None]), "at least 3")

    def test_masks_of_attention(self):
        def attends(mask):
            layer = layers.MultiHeadAttention(1, 2)
            return lambda x: layer(x[:, :, None], x[:, :, None], attention_mask=mask(x))

        self.refused(attends(lambda x: x[:, :, None] * x[:, None]), "computed from the input")
        self.refused(attends(lambda x: np.ones((2, 4, 4), bool)), "differs from sample to sample")
        self.refused(
            attends(lambda x: np.zeros((1, 4, 4), bool)), "hides every key from some query"
        )
        layer = layers.MultiHeadAttention(1, 2, attention_axes=2)
        self.refused(
            lambda x: layer(x[:, None, :, None], x[:, None, :, None], use_causal_mask=True),
            "attention over axis 1 alone",
        )

    def test_axes_that_do_not_line_up(self):
        for operator in (ops.add, ops.subtract, ops.multiply, ops.divide, ops.maximum, ops.minimum):
            self.refused(
                lambda x, f=operator: f(layers.Reshape((4, 1))(x), x),
                "samples of the batch are mixed",
            )

    def test_constants_with_a_batch(self):
        self.refused(lambda x: x * np.ones((2, 4), "float32"), "varies along the batch axis")
        self.refused(lambda x: x * np.ones((1, 1, 4), "float32"), "adds axes to a value")

    @absltest.skipIf(keras.backend.backend() != "tensorflow", "a matter of TensorFlow's backend")
    def test_sums_that_keras_computes_along_another_axis(self):
        column = np.arange(3.0, dtype="float32")[:, None]
        model = functional(lambda x: x + column, shape=(3, 3))
        # Should this fail, Keras adds such constants as NumPy does, and the check can go.
        wrong = soundness.flat(model(np.zeros((1, 3, 3), "float32")))[0]
        self.assertFalse(np.array_equal(wrong[0], np.broadcast_to(column, (3, 3))))
        text = "treats such a value as a bias"
        self.check(NotImplementedError, text, model)
        # So it does with a batch of 1.
        for add in (ops.add, lambda x, y: layers.Add()([x, y])):
            model = functional(lambda x, add=add: add(x, x[:, :, :1]), shape=(3, 3))
            self.check(NotImplementedError, text, model)

    def test_variables_outside_of_layers(self):
        variable = keras.Variable(np.ones(4, "float32"))
        self.refused(lambda x: x * variable, "outside of any layer")


class RegistrationTest(ErrorsTest):
    def test_a_class_is_registered_once(self):
        text = "A rule for Dense is registered already. Two rules for one class would make bounds"
        for register in (
            functools.partial(tfcert.register_rule, rule=lambda layer, x: x),
            functools.partial(tfcert.register_affine, radius=lambda layer, r: r),
            tfcert.register_monotone,
            functools.partial(tfcert.register_activation, curve=tfcert.relaxations.CURVES["relu"]),
        ):
            with self.assertRaisesRegex(ValueError, text):
                register(layers.Dense)
        with self.assertRaisesRegex(ValueError, "A rule for tanh is registered already"):
            curve = tfcert.relaxations.CURVES["tanh"]
            tfcert.register_activation(keras.activations.tanh, curve)

    def test_own_rules(self):
        class Mixed(layers.Layer):
            def call(self, x):
                return x * ops.sigmoid(x) - 1.0

        class Affine(layers.Layer):
            def call(self, x):
                return -2.0 * x + 1.0

        class Steps(layers.Layer):
            def call(self, x):
                return ops.floor(2.0 * x)

        rules = tfcert.rules
        tfcert.register_rule(
            Mixed,
            lambda layer, x: rules.add(rules.multiply(x, rules.activation("sigmoid", x)), -1.0),
        )
        tfcert.register_affine(Affine, radius=lambda layer, r: 2.0 * r)
        tfcert.register_monotone(Steps)
        for kind in (Mixed, Affine, Steps):
            self.addCleanup(registry._RULES.pop, kind)
            model = model_of(layers.Dense(3), kind(), layers.Dense(2))
            x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
            # The attack would find no slope of the staircase.
            reached = soundness.Reached(model, x, tfcert.LpBall(0.5), attacks=0)
            for method in ("ibp", "crown-ibp", "crown", "alpha-crown"):
                reached.check(tfcert.bound(model, x, tfcert.LpBall(0.5), method), method)


if __name__ == "__main__":
    absltest.main()
