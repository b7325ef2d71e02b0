"""One-hot groups of a box, against the enumeration of all categories."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import soundness
from tests import training_support as ts
from tfcert import attacks, objectives

FEATURES = 7
GROUPS = [[1, 4, 2], [6, 5]]
X = np.array(
    [[0.1, 1, 0, -0.2, 0, 1, 0], [0.3, 0, 0, 0.4, 1, 0, 1], [0.0, 0, 1, 0.0, 0, 1, 0]], "float32"
)
LOWER = np.array([-0.5, 0, 0, -0.5, 0, 0, 0])
UPPER = np.array([0.5, 1, 1, 0.5, 1, 1, 1])
BOX = tfcert.Box(LOWER, UPPER, GROUPS)


def own_limits():
    """For each input: numbers within 0.1; the last input may not be of category 4."""
    lower, upper = X - np.float32(0.1), X + np.float32(0.1)
    for group in GROUPS:
        lower[:, group], upper[:, group] = 0, 1
    upper[2, 4] = 0
    lower[0, [5, 6]], upper[0, [5, 6]] = X[0, [5, 6]], X[0, [5, 6]]  # A frozen group.
    return lower, upper


OWN = tfcert.Box(*own_limits(), GROUPS)
REGIONS = {"shared": BOX, "own": OWN}


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def corners(region, i):
    """All categories of input i with all corners of the other features, written down anew."""
    lower, upper = (np.broadcast_to(limit, X.shape)[i] for limit in (region.lower, region.upper))
    options = [[p for p in group if upper[p] == 1] for group in GROUPS]
    found = []
    for chosen in itertools.product(*options):
        for ends in itertools.product(*[(lower[p], upper[p]) for p in (0, 3)]):
            point = np.zeros(FEATURES)
            point[list(chosen)] = 1
            point[[0, 3]] = ends
            found.append(point)
    return np.array(found)


def network(dtype="float32", classes=3, seed=1):
    return ts.mlp(seed, (8, 6), FEATURES, classes, dtype=dtype)


@pytest.mark.parametrize("name", REGIONS)
def test_the_minimum_of_linear_functions_is_that_of_all_categories(name):
    region, rows = REGIONS[name], np.random.default_rng(0).normal(size=(3, 5, FEATURES))
    found = np.asarray(region.minimise(rows, X.astype("float64")))
    where = np.asarray(region.minimiser(rows, X.astype("float64")))
    for i in range(3):
        expected = (rows[i] @ corners(region, i).T).min(axis=1)
        np.testing.assert_allclose(found[i], expected, atol=1e-9)
        np.testing.assert_allclose((rows[i] * where[i]).sum(axis=1), expected, atol=1e-9)
    assert region.contains(where, X).all()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_smaller_copy_moves_groups_a_part_of_the_way(fraction):
    region, rows = OWN.scaled(fraction), np.random.default_rng(0).normal(size=(3, 5, FEATURES))
    found = np.asarray(region.minimise(rows, X.astype("float64")))
    for i in range(3):
        points = X[i] + fraction * (corners(OWN, i) - X[i])
        np.testing.assert_allclose(found[i], (rows[i] @ points.T).min(axis=1), atol=1e-8)
    points = region.sample(X, 20, 0)
    assert region.contains(points, X).all()
    if fraction == 0:
        assert (np.asarray(points) == X[:, None]).all()


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", REGIONS)
def test_bounds_of_an_affine_model_are_exact(name, method):
    region = REGIONS[name]
    model = keras.Sequential(
        [keras.Input((FEATURES,), dtype="float64"), layers.Dense(2, dtype="float64")]
    )
    random = np.random.default_rng(2)
    model.set_weights([random.normal(size=(FEATURES, 2)), random.normal(size=2)])
    lower, upper = tfcert.bound(model, X.astype("float64"), region, method)
    for i in range(3):
        outputs = np.asarray(model(corners(region, i)))
        np.testing.assert_allclose(np.asarray(lower)[i], outputs.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(np.asarray(upper)[i], outputs.max(axis=0), atol=1e-6)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("name", REGIONS)
def test_bounds_hold_and_are_tighter_than_those_of_the_box(name, method):
    region, model = REGIONS[name], network("float64")
    x = X.astype("float64")
    lower, upper = (np.asarray(end) for end in tfcert.bound(model, x, region, method))
    box = tfcert.Box(region.lower, region.upper)
    wide = tfcert.bound(model, x, box, method)
    if method == "ibp":  # Slopes of sweeps follow from the intervals: now and then to the worse.
        assert (lower >= np.asarray(wide.lower) - 1e-6).all()
    assert (upper - lower).sum() < 0.9 * np.asarray(wide.upper - wide.lower).sum()
    points = np.asarray(region.sample(x, 300, 0))
    for i in range(3):
        outputs = np.asarray(model(np.concatenate([corners(region, i), points[i]])))
        assert (outputs >= lower[i] - 1e-9).all() and (outputs <= upper[i] + 1e-9).all()


@pytest.mark.parametrize("name", REGIONS)
def test_points_are_one_hot_and_projections_the_nearest(name):
    region, random = REGIONS[name], np.random.default_rng(3)
    drawn = np.asarray(region.sample(X, 200, 1))
    assert region.contains(drawn, X).all()
    for group in GROUPS:
        assert (drawn[..., group].sum(axis=-1) == 1).all()
        assert (drawn[1][:, group].mean(axis=0) > 0.15).all()  # Every category comes up.
    points = random.normal(size=(3, 4, FEATURES)).astype("float32")
    near = np.asarray(region.project(points, X))
    assert region.contains(near, X).all()
    here = np.linalg.norm(near - points, axis=-1)[:, :, None]
    away = np.linalg.norm(drawn[:, None] - points[:, :, None], axis=-1)
    assert (here <= away + 1e-5).all()
    np.testing.assert_array_equal(np.asarray(region.project(drawn, X)), drawn)


def test_what_lies_outside_is_told():
    inside = np.repeat(X[1:2], 4, axis=0)
    inside[1, [1, 4]] = 1, 0  # Another category.
    inside[2, [1, 4]] = 0.5, 0.5
    inside[3, [1, 4]] = 1, 1
    around = np.repeat(X[1:2], 4, axis=0)
    assert BOX.contains(inside, around).tolist() == [True, True, False, False]
    point = X[2:].copy()
    point[0, [2, 4]] = 0, 1  # Category 4 is not allowed for this input.
    assert not OWN.contains(np.concatenate([X[:2], point]), X)[2]
    assert np.asarray(BOX.admits(inside)).tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", ["pgd", "apgd"])
@pytest.mark.parametrize("name", REGIONS)
def test_attacks_find_the_worst_categories(name, kind):
    region = REGIONS[name]
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1)])
    model.set_weights([np.random.default_rng(4).normal(size=(FEATURES, 1)), np.zeros(1)])
    asked = tfcert.properties.OutputRange(upper=50.0)
    attack = {"pgd": attacks.PGD, "apgd": attacks.APGD}[kind](region, steps=10, loss="margin")
    found = attack.worst_points(model, X, asked)
    assert region.contains(found.points, X).all()
    for i in range(3):
        worst = np.asarray(model(corners(region, i))).max()
        np.testing.assert_allclose(50.0 + np.array(found.margins)[i], worst, atol=1e-4)


def test_certificates_and_counterexamples():
    model, x = network(), np.concatenate([X] * 3)
    y = np.asarray(model(x)).argmax(axis=1)
    region = tfcert.Box(np.tile(OWN.lower, (3, 1)), np.tile(OWN.upper, (3, 1)), GROUPS)
    result = tfcert.certify(model, x, y, region, self_check=1.0, method=["ibp", "crown"])
    assert set(result.verdict.tolist()) <= {"verified", "falsified", "unknown"}
    for i, verdict in enumerate(result.verdict[:3]):
        classes = np.asarray(model(corners(OWN, i))).argmax(axis=1)
        if verdict == "verified":
            assert (classes == y[i]).all()
        if verdict == "falsified":
            point = np.asarray(result.counterexamples[i])[None]
            assert np.asarray(model(point)).argmax() != y[i]


@pytest.mark.parametrize("name", REGIONS)
def test_verification_decides_every_choice_of_categories(name):
    region, model = REGIONS[name], network(classes=1)
    model.layers[-1].bias.assign([0.0])
    verdicts = []
    for i in range(3):
        own = region.select(np.array([i]), X) if name == "own" else region
        worst = np.asarray(model(np.concatenate([corners(region, i), region.sample(X, 500, 0)[i]])))
        for limit in (worst.max() + 0.2, worst.max() - 0.05):
            asked = tfcert.properties.OutputRange(upper=limit)
            outcome = tfcert.verify(model, asked, X[i : i + 1], own, time_limit=60)
            verdicts.append(outcome.verdict)
            if outcome.verdict == "violated":
                point = np.asarray(outcome.counterexample)[None].astype("float32")
                assert own.contains(point, X[i : i + 1]).all()
                assert float(model(point)[0, 0]) >= limit
    assert verdicts == ["holds", "violated"] * 3


def test_too_many_choices_are_refused():
    x = np.tile([1.0, 0.0], (1, 20)).astype("float32")
    many = tfcert.Box(np.zeros(40), np.ones(40), np.arange(40).reshape(20, 2).tolist())
    model = keras.Sequential([keras.Input((40,)), layers.Dense(1)])
    assert np.isfinite(np.asarray(tfcert.bound(model, x, many).lower)).all()
    with pytest.raises(NotImplementedError, match="1048576 choices"):
        tfcert.properties.OutputRange(0.0).cases(x, many, 1)


def test_training_with_a_ramp():
    objective = objectives.IBP(BOX, ramp=(0, 2))
    x, y = np.repeat(X, 4, axis=0), np.tile([0, 1, 2], 4)
    terms = [ts.terms_at(objective, network(), x, y, epoch)["robust"] for epoch in (0, 1, 2)]
    assert np.isfinite(terms).all()
    whole = objectives.IBP(BOX, natural_weight=0.0)
    margins = np.asarray(tfcert.bound_margins(network(), x, y, BOX, "ibp"))
    worst = np.log(np.exp(-margins).sum(axis=1)).mean()
    np.testing.assert_allclose(ts.terms_at(whole, network(), x, y)["robust"], worst, rtol=1e-4)


def test_configuration_and_program():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(BOX))
    assert again == BOX and again.groups == ((1, 4, 2), (6, 5)) and "groups=" in repr(again)
    assert tfcert.Box(LOWER, UPPER) != BOX
    assert BOX.signature() == tfcert.Box(LOWER - 1 * (UPPER < 1), UPPER, GROUPS).signature()
    assert BOX.signature() != tfcert.Box(LOWER, UPPER, GROUPS[:1]).signature()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOWER, UPPER, [[1]]), "at least two"),
        ((LOWER, UPPER, [[1, 2], [2, 4]]), "no other group"),
        ((LOWER, UPPER, [[1, -2]]), "a place >= 0"),
        ((LOWER, UPPER, [[0, 1]]), "must be 0 or 1"),
        ((LOWER, UPPER * [1, 0, 0, 1, 0, 1, 1], GROUPS), "must be 0 or 1"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfcert.Box(*arguments)


def test_says_what_is_wrong_with_x():
    with pytest.raises(ValueError, match="one-hot in each of `groups`"):
        BOX.interval(X + 0.1)
    with pytest.raises(ValueError, match="places up to 6"):
        tfcert.Box(0.0, 1.0, GROUPS).interval(np.abs(X[:, :5]))
