"""Bad input, and what is not supported: what errors say."""

import functools

import keras
import numpy as np
import pytest
from absl.testing import absltest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert.rules import registry

REGION = tfcert.LpBall(0.1)


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def model_of(*stack, shape=(4,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def classifier():
    return model_of(layers.Dense(5, activation="relu"), layers.Dense(3))


def functional(apply, shape=(4,)):
    entry = keras.Input(shape)
    return keras.Model(entry, apply(entry))


def zeros(model, batch=2):
    return np.zeros((batch, *model.input_shape[1:]), "float32")


class ErrorsTest(absltest.TestCase):
    def check(self, kind, text, model, x=None, region=REGION, method="crown"):
        x = zeros(model) if x is None else x
        with self.assertRaisesRegex(kind, text):
            tfcert.bound(model, x, region, method)


class ValuesTest(ErrorsTest):
    """Arguments that are wrong."""

    def test_nan_in_inputs(self):
        model = classifier()
        x = zeros(model)
        x[0, 1] = np.nan
        self.check(ValueError, "x must be finite. Received: 1 NaN and 0 infinite", model, x)

    def test_empty_batch(self):
        model = classifier()
        self.check(
            ValueError, r"`x` is empty. Received: x of shape \(0, 4\)", model, zeros(model, 0)
        )

    def test_shape_of_inputs(self):
        text = r"`x` must have the shape \(batch, 4\).*Received: x of shape"
        for shape in ((4,), (2, 5), (2, 4, 1)):
            self.check(
                ValueError, text + rf" \({shape[0]},", classifier(), np.zeros(shape, "float32")
            )

    def test_method(self):
        text = "`method` must be one of 'ibp', 'lipschitz', 'crown-ibp', 'fast-lin', 'crown'"
        self.check(
            ValueError, text + ".*Received: method='deeppoly'", classifier(), method="deeppoly"
        )
        self.check(ValueError, text, classifier(), method=None)

    def test_region(self):
        text = "`region` must be a tfcert.LpBall or tfcert.Box. Received: region=0.1"
        self.check(ValueError, text, classifier(), region=0.1)

    def test_region_that_does_not_fit(self):
        self.check(ValueError, "eps", classifier(), region=tfcert.LpBall(np.ones(3)))

    def test_something_else_than_a_model(self):
        text = "`model` must be a keras.Model. Received: .*Dense"
        with self.assertRaisesRegex(ValueError, text):
            tfcert.bound(layers.Dense(2), np.zeros((1, 4)), REGION)

    def test_options_of_methods(self):
        for text, make in (
            ("`slope` must be one of", lambda: tfcert.methods.Crown(slope="steep")),
            ("`chunk` must be a positive integer", lambda: tfcert.methods.Crown(chunk=0)),
            ("`max_memory` must be at least 1 MiB", lambda: tfcert.methods.IBP(max_memory=10)),
            ("`iterations` must be positive", lambda: tfcert.methods.AlphaCrown(iterations=0)),
        ):
            with self.assertRaisesRegex(ValueError, text):
                make()


class MarginsTest(ErrorsTest):
    """Labels and specifications."""

    def margins(self, text, y, model=None, kind=ValueError, **options):
        model = model or classifier()
        with self.assertRaisesRegex(kind, text):
            tfcert.bound_margins(model, zeros(model), y, REGION, "ibp", **options)

    def test_labels(self):
        self.margins("`y` must lie in \\[0, 3\\).*Received: labels from 0 to 3", np.array([0, 3]))
        self.margins("`y` must lie in \\[0, 3\\).*Received: labels from -1 to 2", np.array([-1, 2]))
        self.margins("one integer label per input.*One-hot labels: pass y.argmax", np.eye(3)[:2])
        self.margins(
            r"one integer label per input, shape \(2,\). Received: y of shape \(3,\)", [0, 1, 2]
        )
        self.margins("`y` must be integer class indices. Received: dtype=float32", [0.0, 1.0])
        self.margins("`y` must be given where no `specification` is", None)

    def test_specification(self):
        text = r"`specification` must have the shape \(rows, 3\) or \(2, rows, 3\)"
        for shape in ((3,), (2, 4), (3, 1, 3), (1, 2, 3, 3)):
            rows = np.zeros(shape, "float32")
            self.margins(text + rf".*Received: shape \({shape[0]},", None, specification=rows)
        rows = np.full((1, 3), np.nan, "float32")
        self.margins("`specification` must be finite", None, specification=rows)

    def test_outputs_that_are_no_scores(self):
        text = r"one output of shape \(batch, classes\)"
        self.margins(text, [0, 1], functional(lambda x: [layers.Dense(2)(x), x]))
        self.margins(text, [0, 1], functional(layers.RepeatVector(2)))


class ModelsTest(ErrorsTest):
    """Models as a whole."""

    def test_unbuilt(self):
        model = keras.Sequential([layers.Dense(3)])
        self.check(ValueError, "is not built, so its shapes are unknown", model, np.zeros((1, 4)))
        model = keras.Sequential()
        self.check(ValueError, "is not built, so its shapes are unknown", model, np.zeros((1, 4)))

    def test_two_inputs(self):
        first, second = keras.Input((4,)), keras.Input((4,))
        model = keras.Model([first, second], first + second)
        self.check(
            NotImplementedError, "has 2 inputs. Bounds are for models with one", model, zeros_of(4)
        )

    def test_sizes_left_open(self):
        model = functional(layers.Conv1D(2, 3), shape=(None, 2))
        text = "bounds need every size but the batch. Give keras.Input a fixed shape"
        self.check(ValueError, text, model, np.zeros((1, 6, 2), "float32"))

    def test_subclassed_models(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(3)

            def call(self, x):
                return self.dense(x)

        model = Own()
        model(zeros_of(4))
        self.check(
            NotImplementedError, "has no graph of layers that tfcert can follow", model, zeros_of(4)
        )

    def test_overridden_calls_of_models(self):
        class Doubled(keras.Sequential):
            def call(self, x, **options):
                return 2.0 * super().call(x, **options)

        class Twice(keras.Model):
            def call(self, x, **options):
                return 2.0 * super().call(x, **options)

        entry = keras.Input((4,))
        doubled = Doubled([keras.Input((4,)), layers.Dense(3)])
        for model in (doubled, Twice(entry, layers.Dense(3)(entry)), functional(doubled)):
            self.check(NotImplementedError, "overrides `call`", model, zeros_of(4))

    def test_mixed_precision(self):
        model = model_of(layers.Dense(3, dtype="mixed_bfloat16"))
        text = "Layer 'dense.*stores float32 and computes in bfloat16.*mixed precision is not"
        self.check(ValueError, text, model)

    def test_types_that_are_no_float32_or_float64(self):
        model = model_of(layers.Dense(3, dtype="float16"), dtype="float16")
        self.check(ValueError, "has the type float16. Supported types: float32, float64", model)
        model = model_of(layers.Rescaling(1.0), layers.Dense(3), dtype="uint8")
        self.check(ValueError, "Input .* has the type uint8", model)

    def test_several_types(self):
        model = model_of(layers.Dense(3), layers.Dense(3, dtype="float64"))
        text = "computes in several types: float32 .*, float64 .layer 'dense"
        self.check(ValueError, text, model)

    def test_nan_weights(self):
        for layer, shape in (
            (layers.Dense(3), (4,)),
            (layers.Conv2D(2, 2), (3, 3, 1)),
            (layers.BatchNormalization(), (4,)),
            (layers.PReLU(), (4,)),
        ):
            for after in ([], [layers.ReLU()], [layers.Flatten(), layers.Dense(2)]):
                model = model_of(
                    layer.__class__.from_config(layer.get_config()), *after, shape=shape
                )
                kernel = model.layers[0].weights[-1]
                kernel.assign(np.full(kernel.shape, np.nan))
                for method in ("ibp", "crown"):
                    text = (
                        f"Layer '{model.layers[0].name}' has NaN or infinite values in its weight"
                    )
                    self.check(ValueError, text, model, method=method)

    def test_nan_weights_before_a_maximum(self):
        model = model_of(
            layers.Conv2D(1, 2, padding="same"), layers.MaxPooling2D(3), shape=(3, 3, 1)
        )
        model.layers[0].bias.assign([np.nan])
        self.check(ValueError, "has NaN or infinite values in its weight 'bias'", model)

    def test_values_that_are_too_large(self):
        model = functional(lambda x: ops.exp(1000.0 * x) - ops.exp(900.0 * x))
        text = (
            "The bounds of layer 'subtract.*' are not numbers: values became too large for float32"
        )
        self.check(ValueError, text, model, region=tfcert.LpBall(1.0))


class LayersTest(ErrorsTest):
    """Layers and operations without a rule, and rules that refuse."""

    def test_unsupported_layer(self):
        text = (
            r"Layer 'my_lstm' \(LSTM\) has no bound rule. Register one with "
            "tfcert.register_affine, register_activation, register_monotone or register_rule, or "
            r"give the layer a method propagate_interval\(bounds\). Supported layers: "
            ".*Conv2D.*Dense"
        )
        model = model_of(layers.LSTM(2, name="my_lstm"), shape=(3, 2))
        self.check(NotImplementedError, text, model)

    def test_other_unsupported_layers(self):
        for layer, shape in (
            (layers.Embedding(3, 2), (4,)),
            (layers.MultiHeadAttention(1, 2), None),
            (layers.Resizing(4, 4), (3, 3, 1)),
            (layers.Masking(), (3, 2)),
            (layers.GroupNormalization(1), (4,)),
            (layers.UnitNormalization(), (4,)),
        ):
            if shape is None:
                model = functional(lambda x, layer=layer: layer(x, x), shape=(3, 2))
            else:
                model = model_of(layer, shape=shape)
            name = type(layer).__name__
            self.check(NotImplementedError, rf"Layer '.*' \({name}\) has no bound rule", model)

    def test_unsupported_operation(self):
        model = functional(lambda x: ops.sin(x))
        self.check(NotImplementedError, r"\(Sin\) has no bound rule", model)

    def test_subclass_of_a_supported_layer(self):
        class Squared(layers.Dense):
            def call(self, x):
                return ops.square(super().call(x))

        text = (
            r"\(Squared\) has no bound rule. Its base class Dense has a rule, but a subclass may "
            "compute something else; if it does not, register the rule for Squared too"
        )
        self.check(NotImplementedError, text, model_of(Squared(3)))

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

    def test_quantized_weights(self):
        model = classifier()
        model.quantize("int8")
        self.check((NotImplementedError, ValueError), "quantized|several types|mixed", model)

    def test_rms_scaling(self):
        model = model_of(layers.LayerNormalization(rms_scaling=True))
        self.check(NotImplementedError, "rms_scaling=True has no rule", model)

    def test_up_sampling_with_negative_weights(self):
        for method in ("bicubic", "lanczos3", "lanczos5"):
            model = model_of(layers.UpSampling2D(2, interpolation=method), shape=(2, 2, 1))
            text = rf"\(UpSampling2D\): interpolation='{method}' has negative weights"
            self.check(NotImplementedError, text, model)

    def test_dot_products_of_matrices(self):
        model = functional(lambda x: layers.Dot(axes=(2, 2))([x, x]), shape=(2, 3))
        self.check(NotImplementedError, "Dot has a rule for two vectors", model)

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
        text = "takes for a bias and adds along another axis"
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


def zeros_of(*shape):
    return np.zeros((2, *shape), "float32")


if __name__ == "__main__":
    absltest.main()
