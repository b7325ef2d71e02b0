"""Intervals whose radius is the same for all samples, as around inputs that nothing clips."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tfcert.bounds import methods, propagation
from tfcert.network import network_of
from tfcert.rules.interval import Interval

# What a network may begin with: inputs are of the shape (6, 6, 2).
_BEGINNINGS = {
    "convolution": [layers.Conv2D(3, 3, strides=2, padding="same")],
    "dense": [layers.Dense(3)],
    "padding": [layers.ZeroPadding2D(1), layers.Conv2D(3, 3)],
    "flattened": [layers.Flatten(), layers.Dense(5)],
    "scaled": [layers.Rescaling(-2.0, 0.3), layers.Conv2D(3, 3)],
    "averaged": [layers.AveragePooling2D(2), layers.Dense(3)],
    "turned": [layers.Permute((3, 2, 1)), layers.Dense(3)],
    "depthwise": [layers.DepthwiseConv2D(3)],
    "largest": [layers.MaxPooling2D(2), layers.Dense(3)],
    "nonlinear": [layers.ReLU(), layers.Dense(3)],
    "recurrent": [layers.Reshape((12, 6)), layers.SimpleRNN(3)],
    "each step": [layers.TimeDistributed(layers.Dense(3))],
}


def _model(beginning):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    value = inputs
    for layer in beginning:
        value = type(layer).from_config(layer.get_config())(value)
    hidden = layers.Dense(8, activation="relu")(layers.Flatten()(value))
    # Another way from the inputs, so that both kinds of intervals meet.
    beside = layers.Dense(8)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([hidden, beside])))


def _inputs(count):
    return np.random.default_rng(0).normal(size=(count, 6, 6, 2)).astype("float32")


def _sizes():
    eps = np.random.default_rng(1).uniform(0.0, 0.2, (6, 6, 2))
    return {"number": 0.1, "array": eps, "zero": 0.0, "channels": np.array([0.0, 0.1])}


@pytest.mark.parametrize("name", _BEGINNINGS)
def test_bounds_are_those_of_a_ball_that_is_clipped_far_away(name):
    model, x = _model(_BEGINNINGS[name]), _inputs(3)
    for eps in _sizes().values():
        found = tfcert.bound(model, x, tfcert.LpBall(eps), "ibp")
        same = tfcert.bound(model, x, tfcert.LpBall(eps, clip=(-50.0, 50.0)), "ibp")
        np.testing.assert_allclose(found.lower, same.lower, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.upper, same.upper, rtol=1e-5, atol=1e-5)
        assert (ops.convert_to_numpy(found.lower) <= ops.convert_to_numpy(model(x)) + 1e-5).all()


@pytest.mark.parametrize("clip", [None, (-50.0, 50.0)])
@pytest.mark.parametrize("name", ["padding", "averaged", "turned"])
def test_graphs_give_the_bounds_of_single_operations(name, clip):
    """Graphs move and add centres and radii where single operations move and add ends."""
    model, x = _model(_BEGINNINGS[name]), _inputs(2)
    hidden = keras.Model(model.inputs, model.layers[-2].output)  # Ends in a sum.
    calls = [tfcert.bound(hidden, x, tfcert.LpBall(0.1, clip=clip), "ibp") for _ in range(2)]
    for first, later in zip(*calls, strict=True):
        np.testing.assert_allclose(later, first, rtol=1e-5, atol=1e-5)


def _first_interval(model, x, region):
    network, method = network_of(model), methods.get("ibp")
    x = ops.convert_to_tensor(x)
    evaluation = propagation.evaluate(network, region, region.bind(x), method, point=x)
    first = next(node for node in network.nodes if node.name == model.layers[1].name)
    return evaluation.intervals[first]


@pytest.mark.parametrize("name", ["convolution", "dense", "padding", "scaled", "averaged"])
def test_the_radius_is_computed_once_for_all_samples(name):
    model, x = _model(_BEGINNINGS[name]), _inputs(3)
    interval = _first_interval(model, x, tfcert.LpBall(0.1))
    assert interval.is_alike and interval.spread.shape[0] == 1
    assert interval.radius.shape == interval.lower.shape == interval.center.shape
    np.testing.assert_allclose(interval.upper, interval.center + interval.radius, atol=1e-6)


class Sideways(tfcert.LpBall):
    """A ball with limits of its own, which x is not the middle of."""

    def _limits(self, x, outward):
        lower, upper = super()._limits(x, outward)
        return lower, upper + 1.0


@pytest.mark.parametrize(
    "region",
    [
        tfcert.LpBall(0.1, clip=(-9.0, 9.0)),
        tfcert.LpBall(1.0).with_eps([0.1, 0.2, 0.3]),
        tfcert.Box(-9.0, 9.0),
        Sideways(0.1),
    ],
)
def test_other_regions_have_no_common_radius(region):
    model, x = _model(_BEGINNINGS["convolution"]), _inputs(3)
    assert region.spread(ops.convert_to_tensor(x)) is None
    interval = _first_interval(model, x, region)
    assert not interval.is_alike
    points = ops.convert_to_numpy(region.interval(x).upper)
    value = ops.convert_to_numpy(model.layers[1](points))
    assert (value <= ops.convert_to_numpy(interval.upper) + 1e-5).all()


@pytest.mark.parametrize("norm", ["inf", 2, 1])
@pytest.mark.parametrize("eps", _sizes().values(), ids=_sizes())
def test_the_common_radius_covers_the_region(norm, eps):
    x = ops.convert_to_tensor(_inputs(4))
    region = tfcert.LpBall(eps, norm=norm)
    spread = ops.convert_to_numpy(region.spread(x))
    assert spread.shape == (1, 6, 6, 2)
    assert (spread.astype("float64") >= np.broadcast_to(eps, (6, 6, 2))).all()
    ends = [ops.convert_to_numpy(end).astype("float64") for end in region.interval(x)]
    np.testing.assert_allclose(
        0.5 * (ends[1] - ends[0]), np.broadcast_to(spread, x.shape), atol=1e-6
    )


def test_moved_intervals_keep_their_ends():
    center = ops.convert_to_tensor(np.arange(12.0, dtype="float32").reshape(3, 4))
    alike = Interval.alike(center, ops.ones((1, 4)))
    # Not a map of one sample: the batch becomes another one.
    moved = alike.moved(lambda t: ops.reshape(t, (-1, 2)))
    np.testing.assert_array_equal(moved.lower, ops.reshape(alike.lower, (-1, 2)))
    np.testing.assert_array_equal(moved.radius, np.ones((6, 2)))
