"""How AdvIBP joins two gradients: weights of the combination, moments that lag behind."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import training_support as ts
from tfcert import CertifiedTrainer, objectives
from tfcert.objectives.moments import GradientMoments, combination_weights


def weights_of(g1, g2, leads=True, rescale=False):
    """The weights where averages equal the gradients themselves."""
    norms = [ops.convert_to_tensor(np.float32(np.linalg.norm(g))) for g in (g1, g2)]
    squares = [ops.convert_to_tensor(np.float32(g @ g)) for g in (g1, g2)]
    dot = ops.convert_to_tensor(np.float32(g1 @ g2))
    leads = ops.convert_to_tensor(leads)
    c1, c2, conflict = combination_weights(dot, norms, squares, leads, rescale)
    return float(c1), float(c2), bool(conflict)


def test_agreement_follows_the_bisector():
    g1, g2 = np.array([2.0, 0.5, 0.0], "float32"), np.array([0.3, 1.0, 4.0], "float32")
    c1, c2, conflict = weights_of(g1, g2)
    assert not conflict and c1 > 0 and c2 > 0
    step, u1, u2 = c1 * g1 + c2 * g2, g1 / np.linalg.norm(g1), g2 / np.linalg.norm(g2)
    np.testing.assert_allclose(step @ u1, step @ u2, rtol=1e-5)
    # Its length is the mean of the two gradients' projections on it.
    direction = (u1 + u2) / np.linalg.norm(u1 + u2)
    mean = (g1 @ direction + g2 @ direction) / 2
    np.testing.assert_allclose(np.linalg.norm(step), mean, rtol=1e-5)
    scaled = weights_of(g1, g2, rescale=True)
    np.testing.assert_allclose(scaled[:2], np.linalg.norm(g1) * np.array([c1, c2]), rtol=1e-5)


@pytest.mark.parametrize("leads", [True, False])
def test_in_a_conflict_the_leader_is_freed_of_the_other(leads):
    g1, g2 = np.array([2.0, 0.5, 0.0], "float32"), np.array([-3.0, 1.0, 1.0], "float32")
    c1, c2, conflict = weights_of(g1, g2, leads)
    assert conflict
    assert (c1 if leads else c2) == 1.0
    step = c1 * g1 + c2 * g2
    np.testing.assert_allclose(step @ (g2 if leads else g1), 0.0, atol=1e-5)
    assert step @ (g1 if leads else g2) > 0


def test_a_norm_of_zero_gives_weight_zero():
    zero, g = np.zeros(2, "float32"), np.array([1.0, 2.0], "float32")
    assert weights_of(zero, g, True) == (1.0, 0.0, True)
    assert weights_of(zero, g, False)[:2] == (0.0, 1.0)
    assert np.isfinite(weights_of(zero, zero)[:2]).all()


class Holder(keras.layers.Layer):
    """Keeps variables, as a trainer does."""


def test_moments_lag_one_step_behind():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(6, 2, 4)).astype("float32") + 0.5

    def run(last):
        moments, results = GradientMoments(Holder(), [(4,)]), []
        for g1, g2 in [*gradients, last]:
            args = ([ops.convert_to_tensor(g1)], [ops.convert_to_tensor(g2)])
            true = ops.convert_to_tensor(True)
            results.append([float(v) for v in moments.weights(*args, true, true, False)[:2]])
        return results

    plain = run(gradients[0])
    # The weights of a step are the same whatever its own batch is.
    np.testing.assert_array_equal(plain[-1], run(-7.0 * gradients[3])[-1])

    mean, norm = np.zeros((2, 4)), np.zeros(2)
    for t in range(1, 7):
        seen = gradients[max(t - 2, 0)]
        mean = 0.9 * mean + 0.1 * seen
        norm = 0.99 * norm + 0.01 * np.linalg.norm(seen, axis=1)
        m, n = mean / (1 - 0.9**t), norm / (1 - 0.99**t)
        expected = combination_weights(
            *(ops.convert_to_tensor(np.float32(v)) for v in [m[0] @ m[1]]),
            [np.float32(v) for v in n],
            [np.float32(v @ v) for v in m],
            ops.convert_to_tensor(True),
            False,
        )
        np.testing.assert_allclose(plain[t - 1], [float(v) for v in expected[:2]], rtol=1e-4)


def test_moments_rest_before_the_joint_phase():
    moments = GradientMoments(Holder(), [(2,)])
    g = [ops.ones((2,))]
    false, true = ops.convert_to_tensor(False), ops.convert_to_tensor(True)
    moments.weights(g, g, false, true, False)
    assert float(moments.count) == 0 and np.abs(moments.last[0][0]).max() == 0
    moments.weights(g, g, true, true, False)
    assert float(moments.count) == 1 and np.abs(moments.last[0][0]).max() == 1


def test_the_joint_step_is_the_combined_gradient():
    x, y = ts.data(16)
    objective = objectives.AdvIBP(ts.REGION, gradients="all", rescale=False)
    seen = {}

    def combine(terms, gradients, batch):
        result = objectives.AdvIBP.combine(objective, terms, gradients, batch)
        seen.update(terms=terms, gradients=gradients, result=result)
        return result

    objective.combine = combine
    model = ts.mlp()
    trainer = CertifiedTrainer(model, objective)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = model.get_weights()
    logs = trainer.train_on_batch(x, y, return_dict=True)
    steps = [(b - a) / 0.1 for a, b in zip(model.get_weights(), before, strict=True)]
    (logged, gradient), (g1, g2) = seen["result"], seen["gradients"]
    for step, part in zip(steps, gradient, strict=True):
        np.testing.assert_allclose(step, part, atol=1e-5)
    flat1, flat2 = (np.concatenate([np.ravel(p) for p in g]) for g in (g1, g2))
    c1, c2, conflict = weights_of(flat1, flat2, leads=False)
    more = float(seen["terms"]["robust"]) if conflict else 0.0
    joined = np.concatenate([np.ravel(p) for p in gradient])
    np.testing.assert_allclose(joined, c1 * flat1 + (c2 + more) * flat2, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(logs["loss"], sum(map(float, logged.values())), rtol=1e-5)
