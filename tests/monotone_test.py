"""Monotone outputs: derivatives as models, and what is proved of them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import backend
from tfcert.properties import Linear, Monotone

BOX = tfcert.Box(np.full(3, -1.0), np.full(3, 1.0))
CENTER = np.zeros((1, 3), "float32")


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def randomised(model, seed=0):
    random = np.random.default_rng(seed)
    for variable in model.weights:
        value = random.normal(size=variable.shape)
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value)
    return model


def dense(activation, dtype="float64"):
    return randomised(
        keras.Sequential(
            [
                keras.Input((3,), dtype=dtype),
                layers.Dense(5, activation=activation, dtype=dtype),
                layers.Dense(4, activation=activation, dtype=dtype),
                layers.Dense(2, dtype=dtype),
            ]
        )
    )


def branched():
    """Normalisation, a skip connection, a layer that is called twice, activations as layers."""
    x = keras.Input((3,), dtype="float64")
    shared = layers.Dense(3, activation="tanh", dtype="float64")
    y = layers.BatchNormalization(dtype="float64")(x)
    y = shared(shared(y))
    y = layers.Add(dtype="float64")([x, layers.LeakyReLU(0.3, dtype="float64")(y)])
    y = ops.concatenate([y, ops.negative(x[:, :1])], axis=1)
    y = layers.Reshape((2, 2), dtype="float64")(y)
    y = layers.Conv1D(2, 2, activation="softplus", dtype="float64")(y)
    y = layers.Dropout(0.5, dtype="float64")(layers.Flatten(dtype="float64")(y))
    y = layers.ReLU(dtype="float64")(layers.Dense(3, dtype="float64")(y))
    return randomised(keras.Model(x, layers.Dense(2, "sigmoid", dtype="float64")(y)))


MODELS = {
    **{
        name: lambda name=name: dense(name)
        for name in ("relu", "leaky_relu", "relu6", "elu", "tanh", "sigmoid", "softplus")
    },
    "branched": branched,
}


def points(count=400, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3))


@pytest.mark.parametrize("name", MODELS)
def test_the_derivative_is_that_of_automatic_differentiation(name):
    model, x = MODELS[name](), points(30)
    for feature in (0, 2):
        found = np.asarray(tfcert.derivative(model, feature)(x))
        for output in range(2):

            def total(variables, output=output):
                value = ops.sum(model(variables[0], training=False)[:, output])
                return value, value

            given = ops.convert_to_tensor(x)
            gradient = backend.value_and_gradients(total, [given])[2][0]
            np.testing.assert_allclose(
                found[:, output], np.asarray(gradient)[:, feature], atol=1e-6
            )


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", MODELS)
def test_bounds_hold_for_differences_of_outputs(name, method):
    model, feature = MODELS[name](), 1
    bounds = tfcert.bound(tfcert.derivative(model, feature), CENTER.astype("float64"), BOX, method)
    lower, upper = (np.asarray(end)[0] for end in bounds)
    start = points()
    random = np.random.default_rng(2)
    end = start.copy()
    end[:, feature] = random.uniform(start[:, feature], 1.0)
    length = (end - start)[:, feature, None]
    rise = np.asarray(model(end)) - np.asarray(model(start))
    assert (rise >= lower * length - 1e-9).all() and (rise <= upper * length + 1e-9).all()


def rising(seed, dtype="float32"):
    """Rises with feature 0: all weights on the way from it are positive."""
    model = keras.Sequential(
        [keras.Input((3,), dtype=dtype), layers.Dense(6, "relu"), layers.Dense(1)]
    )
    randomised(model, seed)
    first, bias, last, end = model.get_weights()
    first[0] = np.abs(first[0]) * np.sign(last[:, 0]) + 0.01 * np.sign(last[:, 0])
    bias[:2] = 8.0  # Two units never rest, so that the slope is above 0.
    model.set_weights([first, bias, last, end])
    return model


def test_what_rises_is_proved_and_what_does_not_is_refuted():
    model = rising(0)
    for increasing, verdict in ((True, "holds"), (False, "violated")):
        outcome = tfcert.verify(model, Monotone(0, increasing), CENTER, BOX, time_limit=60)
        assert outcome.verdict == verdict, outcome
    # At the counterexample the output does rise.
    point = np.asarray(outcome.counterexample).reshape(1, 3)
    step = np.array([[1e-3, 0.0, 0.0]], "float32")
    assert float(model(point + step)[0, 0]) > float(model(point - step)[0, 0])
    result = tfcert.certify(model, CENTER, Monotone(0), BOX, method="complete")
    assert result.verdict.tolist() == ["verified"]
    asked = Linear(np.eye(1))
    margins = tfcert.bound_margins(model, CENTER, Monotone(0), BOX)
    expected = tfcert.bound_margins(tfcert.derivative(model, 0), CENTER, asked, BOX)
    np.testing.assert_allclose(np.asarray(margins), np.asarray(expected))


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_a_fine_grid(seed):
    model = randomised(
        keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(1)]), seed
    )
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 3, indexing="ij"), -1)
    values = np.asarray(model(grid.reshape(-1, 3).astype("float32"))).reshape(21, 21, 21)
    least = np.diff(values, axis=1).min() / 0.1
    for slack, verdict in ((max(0.0, -least) + 0.6, "holds"), (max(0.0, -least) - 0.2, "violated")):
        if slack < 0:
            continue
        asked = Monotone(1, slack=slack)
        outcome = tfcert.verify(model, asked, CENTER, BOX, time_limit=60)
        assert outcome.verdict == verdict, (outcome, least)


def test_a_slope_of_zero_needs_slack():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, "relu")])
    model.set_weights([np.array([[1.0], [1.0]]), np.array([-5.0])])
    x, box = np.zeros((1, 2), "float32"), tfcert.Box([-1.0, -1.0], [1.0, 1.0])
    assert tfcert.verify(model, Monotone(0), x, box).verdict == "violated"
    assert tfcert.verify(model, Monotone(0, slack=1e-6), x, box).verdict == "holds"


def test_derivatives_follow_the_weights_and_leave_the_model_alone():
    model = dense("tanh")
    names = [layer.name for layer in model.layers]
    slopes = tfcert.derivative(model, 0)
    assert tfcert.derivative(model, 0) is slopes
    before = np.asarray(slopes(points(5)))
    model.layers[-1].kernel.assign(2.0 * model.layers[-1].kernel)
    np.testing.assert_allclose(np.asarray(slopes(points(5))), 2.0 * before)
    assert [layer.name for layer in model.layers] == names
    assert [layer.activation.__name__ for layer in model.layers] == ["tanh", "tanh", "linear"]
    restored = keras.Model.from_config(keras.Model(model.inputs, model.outputs).get_config())
    assert restored.count_params() == model.count_params()


def test_configuration_round_trip():
    asked = Monotone(2, increasing=False, output=1, slack=0.25)
    config = keras.saving.serialize_keras_object(asked)
    assert repr(keras.saving.deserialize_keras_object(config)) == repr(asked)
    assert repr(asked) == "Monotone(feature=2, increasing=False, output=1, slack=0.25)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "`feature` must be an integer >= 0"),
        ((0, "up"), "`increasing` must be"),
        ((0, True, 0.5), "`output` must be an integer"),
        ((0, True, None, -1.0), "`slack` must be"),
        ((3,), "`feature` must be an integer in"),
        ((0, True, 2), "`output` must lie in"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfcert.verify(dense("relu", "float32"), Monotone(*arguments), CENTER, BOX)


def test_says_what_has_no_derivative():
    for layer, message in (
        (layers.Dense(3, "gelu"), "activation gelu"),
        (layers.LayerNormalization(name="norm"), "'norm' .*no derivative"),
        (layers.ReLU(6.0), "ReLU"),
    ):
        model = keras.Sequential([keras.Input((3,)), layer, layers.Dense(1)])
        with pytest.raises(NotImplementedError, match=message):
            tfcert.derivative(model, 0)
    image = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(1)])
    with pytest.raises(ValueError, match="one input of shape"):
        tfcert.derivative(image, 0)
    box = tfcert.Box(np.zeros(3), np.ones(3), groups=[[0, 1]])
    with pytest.raises(ValueError, match="one-hot group"):
        tfcert.bound_margins(dense("relu"), np.eye(3)[:1], Monotone(0), box)
    region = tfcert.regions.Alternatives(np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="one along lines"):
        tfcert.bound_margins(dense("relu"), CENTER, Monotone(0), region)
