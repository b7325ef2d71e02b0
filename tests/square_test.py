"""The square attack: its squares, its points, and models without gradients."""

import doctest

import keras
import numpy as np
import pytest
from keras import ops

from tests import attack_support as support
from tfcert import attacks, regions
from tfcert.attacks import square, windows


class Steps(keras.layers.Layer):
    """Inputs in steps of a tenth: no gradient anywhere."""

    def call(self, x):
        return ops.floor(10.0 * x + 0.5) / 10.0


def quantised():
    """Right at 0.5, wrong where the mean falls below 0.46 or so."""
    dense = keras.layers.Dense(2)
    inputs = keras.Input((6, 6, 1))
    outputs = dense(keras.layers.Flatten()(Steps()(inputs)))
    model = keras.Model(inputs, outputs)
    dense.set_weights([np.stack([np.full(36, 1 / 36), np.zeros(36)], 1), np.array([0.0, 0.43])])
    return model, np.full((5, 6, 6, 1), 0.5, "float32"), np.zeros(5, int)


@pytest.mark.parametrize(
    "region",
    [regions.LpBall(0.1, clip=(0, 1)), regions.LpBall(1.2, 2), regions.Box(0.4, 0.6)],
    ids=["inf", "2", "box"],
)
def test_models_without_gradients_are_broken(region):
    model, x, y = quantised()
    gradients = attacks.APGD(region, 20, loss="margin", restarts=2)
    assert support.survivors(model, attacks.PGD(region, 9, random_start=False)(model, x, y), y) == 5
    points = attacks.Square(region, 200)(model, x, y)
    assert support.survivors(model, points, y) == 0
    assert region.contains(points, x).all()
    both = attacks.Ensemble(region, [gradients, attacks.Square(region, 200)])
    assert support.survivors(model, both(model, x, y), y) == 0


@pytest.mark.parametrize(
    ("norm", "shape"), [(2, (64,)), (2, (8, 7, 2)), ("inf", (4, 8, 2)), ("inf", (8, 1, 8))]
)
def test_points_lie_inside_and_no_step_makes_them_better(norm, shape):
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (6, *shape)).astype("float32")
    region = regions.LpBall(0.5, norm, (-0.6, 0.6)).with_eps([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    y = support.array(model(x)).argmax(axis=1)
    before = support.margin(model, x, y)
    attack = attacks.Square(region, 30, early_stop=False)
    for points in (attack(model, x, y), attack(model, x, y, batch_size=4)):
        assert region.contains(points, x).all()
        assert (support.margin(model, points, y) >= before).all()
        np.testing.assert_array_equal(support.array(points)[0], x[0])  # eps = 0
        assert (support.margin(model, points, y) > before + 1e-3).sum() >= 4


def test_seeds_and_steps_decide():
    model, x, y = support.digits()
    region = regions.LpBall(0.05, clip=(0, 1))

    def found(seed, steps=8, **options):
        attack = attacks.Square(region, steps, early_stop=False, **options)
        return support.array(attack(model, x[:9], y[:9], seed))

    np.testing.assert_array_equal(found(1), found(1))
    assert (found(1) != found(2)).any(axis=(1, 2, 3)).sum() > 4  # x may stay the worst
    few, many = (
        support.margin(model, points, y[:9]).mean() for points in (found(1, 2), found(1, 200))
    )
    assert few < many


@pytest.mark.parametrize("norm", ["inf", 2])
def test_it_finds_the_worst_corner_of_a_linear_model(norm):
    """By 2000 squares of falling size: close to the largest margin that there is."""
    weights = np.random.default_rng(0).normal(size=64)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.set_weights([np.stack([weights, 0 * weights], 1), np.array([9.0, 0.0])])
    x, y = np.zeros((3, 8, 8, 1), "float32"), np.zeros(3, int)
    attack = attacks.Square(regions.LpBall(0.1, norm), 2000, early_stop=False)
    reached = (support.margin(model, attack(model, x, y), y) + 9.0) / 0.1
    most = np.abs(weights).sum() if norm == "inf" else np.sqrt((weights**2).sum())
    assert (reached >= (0.97 if norm == "inf" else 0.7) * most).all()
    assert (reached <= most + 1e-4).all()


def test_shares_are_the_paper_s():
    shares = attacks.Square(regions.LpBall(0.1), 10_000).shares()
    for step, halvings in ((0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3),
                           (500, 3), (501, 4), (1000, 4), (1001, 5), (2001, 6), (4001, 7),
                           (6000, 7), (6001, 8), (8000, 8), (8001, 9), (9999, 9)):  # fmt: skip
        assert shares[step] == 0.8 / 2**halvings, step
    fewer = attacks.Square(regions.LpBall(0.1), 100, share=0.1).shares()
    np.testing.assert_array_equal(
        fewer[[0, 1, 5, 20, 21, 99]], 0.1 / 2.0 ** np.array([0, 2, 3, 5, 6, 9])
    )


def test_squares_lie_anywhere_in_the_image():
    tiled = windows.Squares(4, 7, 2)
    numbers = np.random.default_rng(0).uniform(size=(400, tiled.draws)).astype("float32")
    mask, signs = map(support.array, tiled.window(ops.convert_to_tensor(numbers), np.float32(3)))
    assert mask.shape == (400, 4, 7, 1) and signs.shape == (400, 1, 1, 2)
    assert (mask.sum(axis=(1, 2, 3)) == 9).all()
    assert mask.any(axis=0).all() and len(np.unique(mask, axis=0)) == 2 * 5
    assert len(np.unique(signs, axis=0)) == 4
    largest, _ = tiled.window(ops.convert_to_tensor(numbers), np.float32(9))
    assert support.array(largest).all()
    np.testing.assert_array_equal(
        tiled.sizes(np.array([1.0, 0.5, 0.001])), np.array([5, 4, 1], "float32")
    )


def test_sets_of_numbers():
    sets = windows.windows_of((50, 4))
    assert isinstance(sets, windows.Columns) and sets.shape == (200, 1, 1)
    assert isinstance(windows.windows_of((28, 28, 1)), windows.Squares)
    assert isinstance(windows.windows_of((28, 1, 28)), windows.Columns)
    numbers = np.random.default_rng(0).uniform(size=(300, sets.draws)).astype("float32")
    for share in (0.4, 0.0):
        mask, signs = map(support.array, sets.window(ops.convert_to_tensor(numbers), share))
        share = max(share, 1 / 200)
        assert (mask.sum(axis=(1, 2, 3)) >= 1).all()
        assert abs(mask.mean() - share) < 0.01
        assert abs(signs.mean()) < 0.01


def test_bumps_are_two_peaks_of_opposite_signs():
    tiled = windows.Squares(9, 9, 1)
    numbers = np.array([[0.5, 0.5, 0.0, 0.0, 0.9, 0.9]], "float32")
    first, second, pattern = (
        support.array(part)[0, :, :, 0]
        for part in tiled.bumps(ops.convert_to_tensor(numbers), np.float32(5))
    )
    assert first[2:7, 2:7].all() and first.sum() == 25
    assert second[:5, :5].all() and second.sum() == 25
    # The halves are 2 and 3 wide, with peaks of 1 + 1/4 + 1/9 in the middle row.
    peak = 1 + 1 / 4 + 1 / 9
    np.testing.assert_allclose(
        pattern[4, 2:7], [1 / 4 + 1 / 9, peak, -1 / 4 - 1 / 9, -peak, -1 / 4 - 1 / 9], rtol=1e-6
    )
    np.testing.assert_allclose(pattern[2, 2:7], [1 / 9, 1 / 9, -1 / 9, -1 / 9, -1 / 9], rtol=1e-6)
    turned = np.where(np.arange(6) == 4, 0.1, numbers).astype("float32")
    _, _, other = tiled.bumps(ops.convert_to_tensor(turned), np.float32(5))
    np.testing.assert_allclose(support.array(other)[0, :, :, 0], pattern.T, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": regions.LpBall(0.1, 1)}, "balls of norm inf and 2. Use APGD.*norm=1"),
        ({"share": 0.0}, r"`share` must lie in \(0, 1\]. Received: share=0.0"),
        ({"steps": 0}, "`steps` must be a positive integer. Received: steps=0"),
        ({"restarts": True}, "`restarts` must be a positive integer. Received: restarts=True"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.Square(**{"region": regions.LpBall(0.1), **arguments})


def test_example():
    result = doctest.testmod(square)
    assert result.attempted > 3 and result.failed == 0
