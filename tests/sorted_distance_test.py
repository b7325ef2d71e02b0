"""Layers of sorted distances: values, gradients, what training draws, bounds, certificates."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfcert
from tfcert.layers import LInfDistance, SortedDistance, sorted_kernels


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def by_sorting(x, w, shares):
    sizes = np.abs(x.astype("float64")[:, :, None] - w)
    largest = -np.sort(-sizes, axis=1)[:, : len(shares)]
    return np.einsum("bkj,k->bj", largest, shares)


def built(inputs, units, seed=0, **options):
    layer = SortedDistance(units, **options)
    layer.build((None, inputs))
    layer.kernel.assign(normal(inputs, units, seed=seed))
    return layer


@pytest.mark.parametrize("keep, terms", [(0.75, 10), (0.3, 4), (0.5, 1)])
def test_values_are_sorted_sums(keep, terms):
    layer = built(7, 5, keep=keep, terms=terms, use_bias=True, bias_initializer="ones")
    x = normal(4, 7, seed=1)
    weights = keep * (1 - keep) ** np.arange(min(terms, 7))
    expected = by_sorting(x, np.asarray(layer.kernel), weights / weights.sum())
    np.testing.assert_allclose(layer(x), expected + 1.0, rtol=1e-5)


def test_all_kept_is_the_largest_difference():
    layer, plain = built(9, 4, keep=1.0), LInfDistance(4)
    plain.build((None, 9))
    plain.kernel.assign(layer.kernel)
    x = normal(3, 9, seed=1)
    np.testing.assert_array_equal(layer(x), plain(x))
    np.testing.assert_allclose(layer(x, training=True), plain(x), rtol=1e-6)


@pytest.mark.parametrize("keep", [0.05, 0.33, 0.75, 0.85, 1.0])
@pytest.mark.parametrize("terms", [1, 3, 10, 50])
def test_weights_never_sum_to_more_than_one(keep, terms):
    shares = sorted_kernels.shares(keep, terms)
    assert np.array_equal(np.float32(shares), shares) and min(shares) >= 0
    assert 1 - 1e-6 < sum(shares) <= 1


def test_blocks_of_units_change_nothing(monkeypatch):
    x, w = normal(3, 20, seed=1), normal(20, 11, seed=2)
    shares = sorted_kernels.shares(0.6, 5)

    def found():
        with tf.GradientTape() as tape:
            values = [tf.constant(x), tf.constant(w)]
            tape.watch(values)
            y = sorted_kernels.sorted_sum(*values, shares)
        return [np.asarray(part) for part in (y, *tape.gradient(y, values))]

    whole = found()
    monkeypatch.setattr(sorted_kernels, "_ENTRIES", 60)
    for one, other in zip(whole, found(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_sorting_formula():
    x, w = tf.constant(normal(3, 20)), tf.constant(normal(20, 6, seed=1))
    upstream, shares = normal(3, 6, seed=2), sorted_kernels.shares(0.6, 5)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = function(x, w)
        return tape.gradient(y, [x, w], upstream)

    def formula(x, w):
        sizes = tf.transpose(tf.abs(x[:, :, None] - w), (0, 2, 1))
        return tf.linalg.matvec(tf.math.top_k(sizes, len(shares))[0], shares)

    ours = gradients(lambda x, w: sorted_kernels.sorted_sum(x, w, shares))
    for found, expected in zip(ours, gradients(formula), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_training_is_the_sorted_sum():
    layer = SortedDistance(3, keep=0.6, terms=6, seed=5, kernel_initializer="random_normal")
    layer.build((None, 6))
    x = normal(2, 6, seed=4)
    drawn = np.stack([np.asarray(layer(x, training=True)) for _ in range(500)])
    # No input is kept with probability 0.4^6: the weights of the mean sum to 1 less that.
    expected = np.asarray(layer(x)) * (1 - 0.4**6)
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - expected) < 4.5 * error).all()
    assert len(np.unique(drawn[:, 0, 0])) > 3


@pytest.mark.parametrize("seed", range(4))
def test_intervals_hold_and_are_attained(seed):
    random = np.random.default_rng(seed)
    x, w = normal(2, 5, seed=seed), normal(5, 4, seed=seed + 9)
    radius = random.uniform(0.1, 1.0, x.shape).astype("float32")
    lower, upper = x - radius, x + radius
    shares = sorted_kernels.shares(0.6, 3)
    low, high = sorted_kernels.sorted_interval(
        *map(ops.convert_to_tensor, (lower, upper, w)), shares
    )
    share = random.uniform(size=(500, *x.shape)).round(seed % 2).astype("float32")
    points = np.clip(lower + share * (upper - lower), lower, upper)
    values = sorted_kernels.sorted_sum(
        ops.reshape(points, (-1, 5)), ops.convert_to_tensor(w), shares
    )
    values = np.reshape(values, (500, 2, 4))
    assert (values >= np.asarray(low)).all() and (values <= np.asarray(high)).all()
    # For a unit, the nearest and the farthest point of the box attain the ends.
    for unit in range(4):
        far = np.where(upper - w[:, unit] > w[:, unit] - lower, upper, lower)
        near = np.clip(w[:, unit], lower, upper)
        for point, end in ((far, high), (near, low)):
            reached = by_sorting(point, w[:, [unit]], shares)[:, 0]
            np.testing.assert_allclose(reached, np.asarray(end)[:, unit], rtol=1e-5, atol=1e-6)


def network():
    keras.utils.set_random_seed(0)
    return tfcert.models.get("sort_mlp_3x8", (4, 4, 1), 3)


def test_outputs_move_no_further_than_inputs():
    model = network()
    random = np.random.default_rng(0)
    x = random.uniform(size=(300, 4, 4, 1)).astype("float32")
    step = 0.2 * random.choice([-1, 1], size=x.shape).astype("float32")
    moved = np.abs(np.asarray(model(x + step)) - np.asarray(model(x)))
    assert 0.05 < moved.max() <= 0.2 + 1e-5


def test_certificates_of_the_margin_hold():
    model = network()
    x = np.random.default_rng(0).uniform(size=(40, 4, 4, 1)).astype("float32")
    y = np.asarray(model(x)).argmax(axis=-1)
    radius = np.asarray(tfcert.lipschitz.radius(model, x, y))
    assert 0 < (radius > 0.3).sum() < 40
    region = tfcert.LpBall(0.3)
    least = np.asarray(tfcert.least_margins(model, x, y, region, "lipschitz"))
    np.testing.assert_array_equal(least > 0, radius > 0.3)
    assert (np.asarray(tfcert.least_margins(model, x, y, region, "ibp")) > 0)[radius > 0.301].all()
    # Each input moves towards the edge of its certificate; its class stays.
    random = np.random.default_rng(1)
    for _ in range(50):
        step = random.choice([-1.0, 1.0], size=x.shape) * 0.999 * radius[:, None, None, None]
        moved = np.asarray(model(x + step.astype("float32"))).argmax(axis=-1)
        np.testing.assert_array_equal(moved, y)


def test_p_matters_in_training_alone():
    layer = built(5, 3)
    x = normal(2, 5, seed=1)
    before = np.asarray(layer(x))
    layer.p.assign(8.0)
    np.testing.assert_array_equal(layer(x), before)
    layer.keep = 1.0
    largest = np.abs(x[:, :, None] - np.asarray(layer.kernel)).max(axis=1)
    assert (np.asarray(layer(x, training=True)) > largest).all()


def test_a_saved_layer_is_the_same(tmp_path):
    model = network()
    x = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    config = SortedDistance(3, keep=0.6, terms=4, seed=1).get_config()
    assert (config["keep"], config["terms"], config["seed"]) == (0.6, 4, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep": 0.0}, "`keep` must lie above 0 and up to 1. Received: keep=0.0"),
        ({"keep": 1.5}, "`keep` must lie"),
        ({"terms": 0}, "`terms` must be a positive integer. Received: terms=0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SortedDistance(3, **options)


@pytest.mark.slow
def test_training_certifies():
    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = tfcert.models.get("sort_mlp_2x32", (8, 8, 1), 10)
    region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    options = {"ramp": (1, 14), "weight": (1.0, 0.01), "train_eps": 0.15}
    objective = tfcert.objectives.LInfDistance(region, **options)
    trainer = tfcert.CertifiedTrainer(model, objective)
    trainer.compile(keras.optimizers.Adam(0.02, beta_2=0.99, epsilon=1e-10))
    trainer.fit(x, y, epochs=16, batch_size=64, verbose=0)
    assert (np.asarray(tfcert.lipschitz.radius(model, x_test, y_test)) > 0.1).mean() > 0.25
