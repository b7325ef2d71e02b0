"""What attacks maximise: values by hand, and targets."""

import keras
import numpy as np
import pytest

from tests import attack_support as support
from tfcert import attacks, regions
from tfcert.attacks import losses

LOGITS = np.array([[4.0, 1.0, 3.0, -2.0, 0.5], [0.0, 5.0, 2.0, 4.5, 1.0]], "float32")
Y = np.array([0, 2])


def test_losses_without_a_target_by_hand():
    values = {name: support.array(loss(Y, LOGITS)) for name, loss in losses.LOSSES.items()}
    np.testing.assert_allclose(values["margin"], [-1.0, 3.0])
    # (wrong - right) / (first - third): -1 / (4 - 1) and 3 / (5 - 2).
    np.testing.assert_allclose(values["logits_ratio"], [-1 / 3, 1.0], rtol=1e-6)
    likely = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values["cross_entropy"], -np.log(likely[[0, 1], Y]), rtol=1e-5)


def test_losses_with_a_target_by_hand():
    target = np.array([3, 1])
    values = {n: support.array(loss(Y, target, LOGITS)) for n, loss in losses.TARGETED.items()}
    np.testing.assert_allclose(values["margin"], [-6.0, 3.0])
    # (target - right) / (first - mean of third and fourth): 4 - (1 + 0.5) / 2, 5 - (2 + 1) / 2.
    np.testing.assert_allclose(values["logits_ratio"], [-6 / 3.25, 3 / 3.5], rtol=1e-6)
    likely = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values["cross_entropy"], np.log(likely[[0, 1], target]), rtol=1e-5)


def test_rivals_are_the_best_wrong_classes():
    found = support.array(losses.rivals(Y, LOGITS, 3))
    np.testing.assert_array_equal(found, [[2, 1, 4], [1, 3, 4]])


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_a_target_is_reached_where_the_loss_alone_leads_elsewhere(loss):
    """Class 1 is closest at x, and stays behind; class 4 wins where coordinate 0 falls."""
    # Scores for x = 0: 3, 2.9, 0, 0, 1. Class 1 grows up to 2.95; class 4 has no such limit.
    inputs = keras.Input((2,))
    first = keras.layers.Dense(2, use_bias=False, name="split")(inputs)
    near = keras.ops.minimum(2.9 + first[:, :1], 2.95)
    far = 1.0 - 3.0 * first[:, 1:]
    flat = 0.0 * first
    model = keras.Model(
        inputs, keras.ops.concatenate([3.0 + flat[:, :1], near, flat[:, :1], flat[:, 1:], far], 1)
    )
    model.get_layer("split").set_weights([np.eye(2)])
    x, y = np.zeros((2, 2), "float32"), np.zeros(2, int)
    region = regions.LpBall(1.0)
    broken = {
        targets: 2
        - support.survivors(
            model,
            attacks.PGD(region, 10, 0.1, loss=loss, random_start=False, targets=targets)(
                model, x, y
            ),
            y,
        )
        for targets in (None, 1, 2, 9)
    }
    # Cross-entropy also pushes what is behind; a margin sees the class in front alone.
    assert broken == {None: 2 if loss == "cross_entropy" else 0, 1: 0, 2: 2, 9: 2}


def test_every_target_has_all_restarts():
    attack = attacks.APGD(regions.LpBall(0.1), restarts=3, targets=4)
    assert attack._attempts(10) == 12
    assert attack._attempts(3) == 6
    assert attacks.APGD(regions.LpBall(0.1), restarts=3)._attempts(10) == 3


@pytest.mark.parametrize(
    ("classes", "arguments", "message"),
    [
        (3, {"targets": 2}, "logits_ratio' and targets=2 needs a model with at least 4 classes"),
        (2, {}, "loss='logits_ratio' needs a model with at least 3 classes. Received: .* with 2"),
    ],
)
def test_too_few_classes(classes, arguments, message):
    attack = attacks.APGD(regions.LpBall(0.1), loss="logits_ratio", **arguments)
    with pytest.raises(ValueError, match=message):
        attack(support.network(classes=classes), np.ones((2, 8), "float32"), np.zeros(2, int))
    with pytest.raises(ValueError, match="`targets` must be a positive integer. Received: targ"):
        attacks.APGD(regions.LpBall(0.1), targets=0)
