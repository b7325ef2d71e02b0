"""The margin rule: declared l-inf Lipschitz factors, radii, and bounds from them."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import lipschitz, methods

RADIUS = 0.2


def _moved(*steps, shape=(4, 4, 2)):
    """A model of layers or functions, one behind the other."""
    entry = x = keras.Input(shape)
    for step in steps:
        x = step(x)
    return keras.Model(entry, x)


_VARIANCES = [0.3081**2, 4.0]
# A model of each kind of step that declares a factor, and the factor.
FACTORS = {
    "normalization": (_moved(layers.Normalization(mean=0.13, variance=0.3081**2)), 1 / 0.3081),
    "normalization_channels": (
        _moved(layers.Normalization(mean=[0.1, 0.2], variance=_VARIANCES)),
        1 / 0.3081,
    ),
    "inverted": (_moved(layers.Normalization(mean=0.1, variance=4.0, invert=True)), 2.0),
    "rescaling": (_moved(layers.Rescaling(-2.5, offset=3.0)), 2.5),
    "rescaling_channels": (_moved(layers.Rescaling([0.5, -3.0])), 3.0),
    "two_scales": (_moved(layers.Rescaling(-2.0), layers.Rescaling(0.25)), 0.5),
    "batch_normalization": (_moved(layers.BatchNormalization(epsilon=0.0)), 1.0),
    "moves": (
        _moved(
            layers.Permute((3, 2, 1)),
            layers.ZeroPadding2D(1),
            layers.Cropping2D(1),
            layers.Flatten(),
            lambda x: x[:, ::-1],
            layers.RepeatVector(3),
        ),
        1.0,
    ),  # fmt: skip
    "average_pooling": (_moved(layers.AveragePooling2D(2)), 1.0),
    # Windows at the edge average fewer entries.
    "average_pooling_same": (_moved(layers.AveragePooling2D(3, 2, padding="same")), 1.0),
    "global_average": (_moved(layers.GlobalAveragePooling2D()), 1.0),
    "sum": (_moved(lambda x: ops.sum(x, axis=(1, 2))), 16.0),
    "max_pooling": (_moved(layers.MaxPooling2D(3, 2, padding="same")), 1.0),
    "pieces": (_moved(layers.LeakyReLU(3.0), ops.abs, layers.ReLU()), 3.0),
    "relu6": (_moved(layers.ReLU(6.0)), 1.0),
    "prelu": (_moved(layers.PReLU(alpha_initializer=keras.initializers.Constant(-2.0))), 2.0),
    "residual": (_moved(lambda x: x + 0.5 * layers.ReLU()(x)), 1.5),
    "concatenated": (_moved(lambda x: layers.Concatenate()([3.0 * x, -x])), 3.0),
    "difference": (_moved(lambda x: x - ops.flip(x, axis=1)), 2.0),
    "larger_branch": (_moved(lambda x: layers.Maximum()([2.0 * x, -x, x])), 2.0),
    "constant_added": (_moved(lambda x: x + np.float32(3.0)), 1.0),
}


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def _data(model, count=3, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).uniform(-1.0, 1.0, size=shape).astype("float32")


def _largest(values):
    return np.abs(np.reshape(values, (len(values), -1))).max(axis=1)


@pytest.mark.parametrize("name", FACTORS)
def test_factors_hold_and_no_smaller_one_does(name):
    model, expected = FACTORS[name]
    assert float(lipschitz.factor(model)) == pytest.approx(expected, rel=1e-6)
    x, rng = _data(model, 400), np.random.default_rng(1)
    moves = RADIUS * rng.choice([-1.0, 1.0], size=x.shape)
    moves[:200] = RADIUS * np.sign(moves[:200, :1, :1, :1])  # All entries the same way.
    z = (x + moves).astype("float32")
    apart = _largest(np.asarray(model(x)) - np.asarray(model(z))) / RADIUS
    assert apart.max() <= expected * (1 + 1e-5)
    assert apart.max() >= 0.99 * expected


def _scores():
    """A network of layers with factors, whose output are three scores."""
    return _moved(
        layers.Normalization(mean=0.1, variance=0.25),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.LeakyReLU(0.5),
        lambda x: x[:, :3] - 0.25 * x[:, 3:6],
    )


def test_radius_is_the_margin_over_twice_the_factor():
    model = _scores()
    x = _data(model, 8)
    scores = np.asarray(model(x))
    assert float(lipschitz.factor(model)) == pytest.approx(2.5)
    first, second = np.sort(scores, axis=1)[:, ::-1][:, :2].T
    found = np.array(lipschitz.radius(model, x))
    np.testing.assert_allclose(found, (first - second) / 5.0, rtol=1e-5)
    y = scores.argmax(axis=1)
    np.testing.assert_allclose(lipschitz.radius(model, x, y), found, rtol=1e-6)
    y[::2] = (y[::2] + 1) % 3  # Another class wins there.
    found[::2] = 0.0
    np.testing.assert_allclose(lipschitz.radius(model, x, y), found, rtol=1e-6)


def test_no_input_within_the_radius_changes_the_class():
    model = _scores()
    x = _data(model, 8)
    found = np.array(lipschitz.radius(model, x))
    label = np.asarray(model(x)).argmax(axis=1)
    region = tfcert.LpBall(1.0).with_eps(0.999 * found)
    reached = soundness.Reached(model, x, region, count=200, attacks=6)
    assert (reached.outputs[0].argmax(axis=-1) == label[:, None]).all()


def test_radius_of_scores_at_hand():
    scores = np.array([[1.0, 3.0, 2.0], [1.0, 1.0, 0.0]], "float32")
    np.testing.assert_allclose(lipschitz.radius_of(scores, 2.0), [0.25, 0.0])
    np.testing.assert_allclose(lipschitz.radius_of(scores, 2.0, np.array([2, 0])), [0.0, 0.0])
    np.testing.assert_allclose(lipschitz.radius_of(scores, 0.0), [np.inf, 0.0])
    np.testing.assert_allclose(lipschitz.radius_of(scores, np.inf), [0.0, 0.0])


@pytest.mark.parametrize("float_safe", [False, True])
@pytest.mark.parametrize("kind", ["ball", "clipped", "sizes", "box", "l2"])
def test_bounds_are_sound_and_those_of_the_rule(kind, float_safe):
    if float_safe:
        soundness.needs_float64()
    model = _scores()
    x = _data(model)
    sizes = np.random.default_rng(5).uniform(0.0, RADIUS, size=x.shape[1:])
    region = {
        "ball": tfcert.LpBall(RADIUS),
        "clipped": tfcert.LpBall(RADIUS, clip=(-1.0, 1.0)),
        "sizes": tfcert.LpBall(sizes),
        "box": tfcert.Box(x - 0.5 * sizes.astype("float32"), x + sizes.astype("float32")),
        "l2": tfcert.LpBall(RADIUS, norm=2),
    }[kind]
    method = methods.Lipschitz(float_safe=float_safe)
    bounds = tfcert.bound(model, x, region, method)
    soundness.Reached(model, x, region, count=200).check(bounds, kind)
    most = sizes.max() if kind in ("sizes", "box") else RADIUS
    scores = np.asarray(model(x))
    np.testing.assert_allclose(bounds.lower, scores - 2.5 * most, atol=1e-4)
    np.testing.assert_allclose(bounds.upper, scores + 2.5 * most, atol=1e-4)
    y = scores.argmax(axis=1)
    margins = np.asarray(tfcert.bound_margins(model, x, y, region, method))
    clean = np.take_along_axis(scores, y[:, None], axis=1) - scores
    others = np.arange(3) != y[:, None]
    np.testing.assert_allclose(margins[others], clean[others] - 5.0 * most, atol=1e-4)
    assert (margins[~others] == 0).all()
    certified = np.where(others, margins, np.inf).min(axis=1) > 0
    near = np.abs(np.asarray(lipschitz.radius(model, x)) - most) < 1e-4
    assert ((np.asarray(lipschitz.radius(model, x)) > most) == certified)[~near].all()
    row = tfcert.bound_margins(model, x, None, region, method, specification=[[1.0, -2.0, 0.0]])
    expected = scores @ [1.0, -2.0, 0.0] - 3 * 2.5 * most
    np.testing.assert_allclose(np.asarray(row)[:, 0], expected, atol=1e-4)


def test_names_the_method():
    assert methods.get("lipschitz") == methods.Lipschitz()
    model = _scores()
    x = _data(model)
    found = tfcert.bound(model, x, tfcert.LpBall(RADIUS), "lipschitz")
    expected = tfcert.bound(model, x, tfcert.LpBall(RADIUS), methods.Lipschitz())
    np.testing.assert_array_equal(found.lower, expected.lower)


def test_large_batches_are_cut():
    model = _scores()
    x = _data(model, 64)
    region = tfcert.LpBall(RADIUS)
    whole = tfcert.bound(model, x, region, "lipschitz")
    parts = tfcert.bound(model, x, region, methods.Lipschitz(max_memory=1 << 20))
    np.testing.assert_allclose(parts.lower, whole.lower, rtol=1e-6)


_REFUSED = {
    "dense": lambda x: layers.Dense(3, name="last")(layers.Flatten()(x)),
    "convolution": lambda x: layers.Conv2D(3, 2, name="last")(x),
    "softmax": lambda x: layers.Softmax(name="last")(x),
    "product": lambda x: layers.Multiply(name="last")([x, ops.abs(x)]),
    "sigmoid": lambda x: layers.Activation("sigmoid", name="last")(x),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_refuses_layers_without_a_factor(name):
    model = _moved(_REFUSED[name])
    x, message = _data(model), re.escape("Layer 'last': declares no l-inf Lipschitz factor")
    for call in (
        lambda: tfcert.bound(model, x, tfcert.LpBall(RADIUS), "lipschitz"),
        lambda: lipschitz.factor(model),
    ):
        with pytest.raises(NotImplementedError, match=message):
            call()


def test_a_radius_needs_scores():
    model = _moved(layers.ReLU())
    with pytest.raises(ValueError, match=r"one output of shape \(batch, classes\)"):
        lipschitz.radius(model, _data(model))


def test_a_radius_needs_two_scores_and_one_label_each():
    one = keras.Sequential([keras.Input((3,)), tfcert.layers.LInfDistance(1)])
    with pytest.raises(ValueError, match=r"at least two scores.*a single score z as \(0, z\)"):
        lipschitz.radius(one, np.zeros((2, 3), "float32"))
    several = keras.Sequential([keras.Input((3,)), tfcert.layers.LInfDistance(4)])
    x = np.zeros((5, 3), "float32")
    for y, message in (
        (np.zeros((5, 2), int), "one integer label per input"),
        (np.zeros(1, int), "one integer label per input"),
        (np.full(5, 9), r"lie in \[0, 4\)"),
        (np.full(5, 0.5), "one integer label per input"),
    ):
        with pytest.raises(ValueError, match=message):
            lipschitz.radius(several, x, y)
