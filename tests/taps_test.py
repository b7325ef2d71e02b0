"""TAPS and STAPS: the search in a latent box, the gradient to its ends, the product of losses."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import training_support as ts
from tests.attacking_test import normalising
from tfcert import LpBall, backend, objectives
from tfcert.network import network_of
from tfcert.objectives.latent import split_node
from tfcert.objectives.latent_search import linked

REGION = LpBall(0.1, clip=(0.0, 1.0))


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def terms(objective, **options):
    x, y = ts.data(16)
    return ts.terms_at(objective, ts.mlp(), x, y, **options)


def test_the_gradient_of_a_point_reaches_the_ends_close_to_it():
    lower, upper = np.array([0.0, 0.0, 0.0, 0.0, 2.0]), np.array([1.0, 1.0, 4.0, 1.0, 2.0])
    points = np.array([0.875, 0.0, 4.0, 0.5, 2.0])

    def gradients(link):
        def total(ends):
            found = linked(ops.convert_to_tensor(points, "float32"), *ends, link)
            # Each coordinate with a gradient of its own.
            value = ops.sum(found * ops.convert_to_tensor([2.0, 3.0, 5.0, 7.0, 11.0]))
            return value, value

        ends = [ops.convert_to_tensor(end, "float32") for end in (lower, upper)]
        found = linked(ops.convert_to_tensor(points, "float32"), *ends, link)
        np.testing.assert_array_equal(array(found), points.astype("float32"))
        return [array(g) for g in backend.value_and_gradients(total, ends)[2]]

    low, high = gradients(0.5)
    # (0.875 - 0.5) / 0.5 of 2; the corners whole; nothing from the middle; half from a point.
    np.testing.assert_allclose(high, [1.5, 0.0, 5.0, 0.0, 5.5], atol=1e-4)
    np.testing.assert_allclose(low, [0.0, 3.0, 0.0, 0.0, 5.5], atol=1e-4)
    low, high = gradients(0.25)
    np.testing.assert_allclose(high[0], 2.0 * 0.5, atol=1e-4)
    low, high = gradients(1.0)
    np.testing.assert_allclose([low[0], high[0]], [2.0 * 0.125, 2.0 * 0.875], atol=1e-4)


def test_without_trailing_layers_it_is_ibp():
    options = {"regularizer": 0.5, "train_eps": 0.2, "ramp": (0, 4)}
    ibp = objectives.IBP(REGION, 0.3, **options)
    taps = objectives.TAPS(REGION, 0, 0.3, **options)
    assert terms(taps, epoch=2.0) == terms(ibp, epoch=2.0)
    sabr = objectives.SABR(REGION, 0.4, 0.3, **options)
    staps = objectives.STAPS(REGION, 0.4, 0, 0.3, **options)
    assert terms(staps, epoch=2.0) == terms(sabr, epoch=2.0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_of_one_trailing_layer_the_search_is_exact(per_sample):
    x, y = ts.data(16)
    objective = objectives.TAPS(REGION, 1, per_sample=per_sample)
    _, batch = ts.batch_at(objectives.IBP(REGION), ts.mlp(), x, y)
    worst = objectives.IBP(REGION).bounds(batch, "ibp").interval()
    losses = array(ops.sparse_categorical_crossentropy(y, -worst, from_logits=True))
    expected = np.mean(losses**2) if per_sample else np.mean(losses) ** 2
    assert terms(objective)["robust"] == pytest.approx(expected, rel=1e-5)


def test_a_ratio_of_1_is_taps():
    assert terms(objectives.STAPS(REGION, 1.0, 2)) == terms(objectives.TAPS(REGION, 2))
    assert terms(objectives.STAPS(REGION, 0.3, 2)) != terms(objectives.TAPS(REGION, 2))


@pytest.mark.parametrize("make", [ts.mlp, normalising])
def test_the_estimate_lies_between_inner_values_and_ibp(make):
    """With other statistics in the search than in the bounds it would not."""
    model = make()
    x, y = ts.data(16, model.input_shape[1:])
    objective = objectives.TAPS(REGION, 2, search_steps=10, search_restarts=2)
    _, batch = ts.batch_at(objective, model, x, y)
    node = split_node(network_of(model), 2)
    known = objective.known_bounds(batch)
    interval = known.evaluation.intervals[node]
    found = array(objective.search.worst_logits(batch, node, interval))
    worst = -array(known.interval())
    rows, other = np.arange(len(y)), np.arange(3) != y[:, None]
    assert (found[rows, y] == 0).all()
    assert (found <= worst + 1e-4).all()
    place = batch.at_node(node, interval)
    values = place.region.sample(place.center, 30, 0)
    best = np.full_like(found, -np.inf)
    for index in range(30):
        scores = array(place.scores(values[:, index]))
        best = np.maximum(best, scores - scores[rows, y][:, None])
    scores = array(place.scores(place.center))
    assert (found >= scores - scores[rows, y][:, None] - 1e-5).all()
    # Each margin has its own point.
    assert (found[other] > best[other] + 1e-3).mean() > 0.9


def gradient_of(**options):
    x, y = ts.data(8)
    model = ts.mlp(units=(5,))
    objective = objectives.TAPS(REGION, 1, **options)
    trainer, batch = ts.batch_at(objective, model, x, y)

    def loss(variables):
        del variables
        losses, _ = trainer.losses_of(batch)
        return losses[0], losses[0]

    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients of variables are taken with a tape here")
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value, _ = loss(None)
    weights = model.trainable_variables
    gradients = tape.gradient(value, [w.value for w in weights])
    return float(value), [array(g) for g in gradients]


def test_the_gradient_of_the_estimate_has_a_scale_and_the_value_none():
    value, one = gradient_of(gradient_scale=1.0)
    for scale, factor in ((3.0, 2.0), (4.0, 2.5)):
        again, found = gradient_of(gradient_scale=scale)
        assert again == pytest.approx(value, rel=1e-6)
        # Of one layer the estimate is IBP's bound, and the square of a loss has twice its slope.
        # Behind the split the estimate's gradient is that of IBP; before it the links share it out.
        np.testing.assert_allclose(found[-1], factor * one[-1], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found[0], factor * one[0], rtol=1e-3, atol=1e-5)


def test_while_the_radius_grows_the_loss_is_that_of_ibp():
    options = {"ramp": (0, 2)}
    ibp = objectives.IBP(REGION, 0.0, **options)
    growing = terms(objectives.TAPS(REGION, 2, **options), epoch=1.0)["robust"]
    assert growing == pytest.approx(terms(ibp, epoch=1.0)["robust"], rel=1e-6)
    at_once = objectives.TAPS(REGION, 2, ibp_warmup=False, **options)
    assert terms(at_once, epoch=1.0)["robust"] > 1.02 * growing  # Losses above 1: a product.
    grown = terms(objectives.TAPS(REGION, 2, **options), epoch=2.0)["robust"]
    assert grown == pytest.approx(terms(at_once, epoch=2.0)["robust"], rel=1e-6)
    assert grown == terms(objectives.TAPS(REGION, 2, **options), epoch=2.0)["robust"]


def test_which_layers_can_trail():
    x, y = ts.data(4)
    with pytest.raises(ValueError, match="`trailing_layers` must lie between 0 and 3.*=4"):
        ts.batch_at(objectives.TAPS(REGION, 4), ts.mlp(), x, y)
    assert np.isfinite(terms(objectives.TAPS(REGION, 3))["robust"])
    inputs = keras.Input((5,))
    inner = keras.layers.Dense(4, activation="relu")(inputs)
    around = keras.layers.Add()([keras.layers.Dense(4)(inner), inner])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.ReLU()(around)))
    ts.batch_at(objectives.TAPS(REGION, 1), model, x, y)
    inputs = keras.Input((5,))
    long = keras.layers.Dense(4)(keras.layers.Dense(4, activation="relu")(inputs))
    around = keras.layers.Add()([long, keras.layers.Dense(4)(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.ReLU()(around)))
    with pytest.raises(NotImplementedError, match="some path of the model bypasses this layer"):
        ts.batch_at(objectives.TAPS(REGION, 3), model, x, y)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"link": 0.0}, r"`link` must lie in \(0, 1\]"),
        ({"gradient_scale": 0.0}, "`gradient_scale` must be > 0"),
        ({"search_steps": 0}, "`steps` must be a positive integer"),
        ({"ibp_warmup": 1}, "`ibp_warmup` must be True or False"),
        ({"relu_shrink": 1.2}, r"`relu_shrink` must lie in \(0, 1\]"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        objectives.TAPS(REGION, **options)
