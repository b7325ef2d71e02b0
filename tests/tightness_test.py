"""TightRelaxation: the gap, the relaxed minimum and the infeasibility, by hand."""

import hypothesis as hp
import keras
import numpy as np
import pytest
from hypothesis import strategies as hps

from tests import soundness, support
from tests import training_support as ts
from tests.objectives_support import SEEDS, SETTINGS, cross_entropy
from tfcert import LpBall, bound_margins, methods, objectives
from tfcert.bounds.margins import Margins
from tfcert.objectives.tightness import relaxation_tightness


def _tightness(model, x, y, region, method, **options):
    known = Margins(model, x, y, region, method)
    return known, relaxation_tightness(known, known.rows, **options)


@hp.given(seed=SEEDS, eps=hps.floats(0.005, 0.4))
@SETTINGS
@pytest.mark.parametrize(
    "slope", support.slow_except("adaptive".__eq__, ["adaptive", "same", "zero", "one"])
)
def test_the_gap_is_the_sum_of_weighted_distances(slope, seed, eps):
    model, (x, y) = ts.mlp(seed), ts.data(4, seed=seed)
    region = LpBall(eps, clip=(0.0, 1.0))
    known, found = _tightness(model, x, y, region, methods.CrownIBP(slope))
    scale = 1.0 + np.abs(np.asarray(known.backward())).max()
    np.testing.assert_allclose(found.gap, found.weighted, atol=2e-5 * scale)
    assert np.asarray(found.gap).min() >= -2e-5 * scale
    assert np.asarray(found.infeasibility).min() >= 0


@pytest.mark.parametrize(
    "method",
    [methods.CrownIBP("same"), methods.CrownIBP("adaptive"), methods.FastLin()],
    ids=["same", "adaptive", "fast-lin"],
)
def test_the_gap_is_that_sum_beyond_float32(method):
    soundness.needs_float64()
    model, (x, y) = ts.mlp(dtype="float64"), ts.data(6)
    known, found = _tightness(model, x.astype("float64"), y, LpBall(0.2, clip=(0, 1)), method)
    assert np.asarray(found.gap).dtype == "float64" and np.asarray(found.gap).max() > 0.05
    scale = 1.0 + np.abs(np.asarray(known.backward())).max()
    np.testing.assert_allclose(found.gap, found.weighted, rtol=0, atol=1e-11 * scale)


def test_the_relaxed_minimum_is_below_what_the_network_reaches():
    model, (x, y) = ts.mlp(3), ts.data(6)
    known, found = _tightness(model, x, y, LpBall(0.2), methods.CrownIBP())
    reached = np.asarray(found.gap) + np.asarray(known.relaxed_minimum(known.rows).value)
    lower = np.asarray(bound_margins(model, x, y, LpBall(0.2), "alpha-crown"))
    others = np.arange(3) != y[:, None]
    assert (reached[others] >= lower[others] - 1e-5).all()


@pytest.mark.parametrize("distance", ["touching", "face"])
def test_nothing_unstable_gives_zero(distance):
    model, (x, y) = ts.mlp(), ts.data(5)
    _, point = _tightness(model, x, y, LpBall(0.0), methods.CrownIBP(), distance=distance)
    np.testing.assert_allclose(point.gap, 0.0, atol=1e-5)
    np.testing.assert_array_equal(point.infeasibility, 0.0)
    linear = ts.mlp(activation=None)
    _, found = _tightness(linear, x, y, LpBall(0.3), methods.CrownIBP(), distance=distance)
    np.testing.assert_allclose(found.gap, 0.0, atol=1e-5)
    np.testing.assert_array_equal(found.infeasibility, 0.0)


def test_infeasibility_by_hand():
    # One unit with z in [-1, 3] at x in [-1, 3], which the score uses with weight w.
    def distance(weight, method, **options):
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, activation="relu"), keras.layers.Dense(2)]
        )
        model.layers[0].set_weights([np.array([[1.0]]), np.array([0.0])])
        model.layers[1].set_weights([np.array([[weight, 0.0]]), np.zeros(2)])
        known = Margins(model, np.array([[1.0]], "float32"), np.array([0]), LpBall(2.0), method)
        rows = (known.hot - known.hot[:, ::-1])[:, None]
        return float(relaxation_tightness(known, rows, **options).infeasibility[0, 0])

    same, adaptive = methods.CrownIBP("same"), methods.CrownIBP("adaptive")
    # Weight > 0: the lower face, minimal at x = -1. Slope 3/4: |z| = 1; slope 1: relu(z) - z = 1.
    assert distance(1.0, same) == pytest.approx(1.0)
    assert distance(1.0, same, distance="face") == pytest.approx(0.75)
    assert distance(1.0, adaptive) == pytest.approx(1.0)
    # Slope 0: every x is a minimum; the input itself is taken, where relu(1) - 0 = 1.
    assert distance(1.0, methods.CrownIBP("zero")) == pytest.approx(1.0)
    # Weight < 0: the upper face, minimal at x = 3, where it touches.
    assert distance(-1.0, same) == pytest.approx(0.0)


@pytest.mark.parametrize("base", ["crown-ibp", "fast-lin"])
def test_tight_relaxation_without_weights_is_its_base(base):
    x, y = ts.data(8)
    tight = objectives.TightRelaxation(ts.REGION, 0.0, 0.0, base=base)
    terms = ts.terms_at(tight, ts.mlp(), x, y)
    method = methods.FastLin() if base == "fast-lin" else methods.CrownIBP()
    known = Margins(ts.mlp(), x, y, ts.REGION, method)
    expected = cross_entropy(y, -np.asarray(known.backward())).mean()
    assert set(terms) == {"natural", "robust"}
    np.testing.assert_allclose(terms["robust"], expected, rtol=1e-5)


def test_specifications_of_tight_relaxation():
    x, y = ts.data(8)

    def regularizers(specifications):
        objective = objectives.TightRelaxation(LpBall(0.3), 1.0, 1.0, specifications=specifications)
        return ts.terms_at(objective, ts.mlp(2), x, y)

    def gap(specifications):
        return regularizers(specifications)["gap"]

    known, found = _tightness(ts.mlp(2), x, y, LpBall(0.3), methods.CrownIBP())
    others = np.arange(3) != y[:, None]
    gaps = np.asarray(found.gap)
    np.testing.assert_allclose(gap("all"), gaps[others].mean(), rtol=1e-4)
    away = np.asarray(found.infeasibility)
    assert away[~others].max() > 0.01  # The row of the label is 0, at which every x is a minimum.
    found_all = regularizers("all")["feasibility"]
    np.testing.assert_allclose(found_all, away[others].mean(), rtol=1e-4)
    worst = np.where(others, np.asarray(known.backward()), np.inf).argmin(1)
    np.testing.assert_allclose(gap("worst"), gaps[np.arange(8), worst].mean(), rtol=1e-4)
    assert gaps[others].min() <= gap("random") <= gaps[others].max()


def test_feasibility_is_for_relu_networks():
    tanh = ts.mlp(activation="tanh")
    from tfcert import CertifiedTrainer

    with pytest.raises(NotImplementedError, match="feasibility_weight=0.0"):
        CertifiedTrainer(tanh, objectives.TightRelaxation(ts.REGION))
    x, y = ts.data(4)
    terms = ts.terms_at(objectives.TightRelaxation(ts.REGION, 0.1, 0.0), tanh, x, y)
    assert terms["gap"] > 0
