"""Bad input, and models that are not supported: what errors say."""

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


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


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
        text = "`method` must be one of 'ibp', 'lipschitz', 'crown-ibp', 'crown', 'fast-lin'"
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
        self.margins("must be one-hot.*a single 1 .*Received: y with the row", np.ones((2, 3)))
        self.margins(
            r"one integer label per input, shape \(2,\). Received: y of shape \(3,\)", [0, 1, 2]
        )
        self.margins(
            r"one integer label per input.*Received: y of shape \(2,\) and type float32", [0.0, 1.0]
        )
        self.margins("`y` is required if there is no `specification`", None)

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
        text = "`region` must be a dictionary, or where the model takes a list a list"
        self.check(ValueError, text, model, zeros_of(4))

    def test_sizes_left_open(self):
        model = functional(layers.Conv1D(2, 3), shape=(None, 2))
        text = "bounds need every size but the batch. Give keras.Input a fixed shape"
        self.check(ValueError, text, model, np.zeros((1, 6, 2), "float32"))

    def test_models_written_as_classes_that_are_not_built(self):
        class Own(keras.Model):
            def call(self, x):
                return 2.0 * x

        with self.assertRaisesRegex(ValueError, "'own.*is not built.*Call the model on data first"):
            tfcert.lipschitz.factor(Own())

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
        text = "Some bounds are infinite. At layer 'exp.*' values became too large for float32"
        with self.assertWarnsRegex(UserWarning, text):
            lower, upper = tfcert.bound(model, zeros(model), tfcert.LpBall(1.0), "ibp")
        self.assertTrue(np.isneginf(lower).all() and np.isposinf(upper).all())
        with self.assertWarnsRegex(UserWarning, text):
            margins = tfcert.least_margins(model, zeros(model), [0, 0], tfcert.LpBall(1.0), "ibp")
        self.assertFalse((np.asarray(margins) > 0).any())

    def test_executions_that_may_overflow(self):
        model = model_of(layers.Dense(2), layers.Dense(2))
        for layer in model.layers:
            layer.kernel.assign(np.full(layer.kernel.shape, 1e30))
        text = "Some bounds are infinite. An execution of model .* in float32 may overflow"
        with self.assertWarnsRegex(UserWarning, text):
            method = tfcert.methods.Crown(float_safe=True)
            lower, upper = tfcert.bound(model, zeros(model), tfcert.LpBall(1.0), method)
        self.assertTrue(np.isneginf(lower).all() and np.isposinf(upper).all())


if __name__ == "__main__":
    absltest.main()
