"""Tests of models with several inputs, and of a region for each."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import properties
from tfcert.branching import find_counterexample
from tfcert.regions import Box, LpBall, Product

IMAGE, META = (3, 3, 1), (2,)
RNG = np.random.default_rng(0)
X = {
    "image": RNG.uniform(size=(3, *IMAGE)).astype("float32"),
    "meta": RNG.normal(size=(3, *META)).astype("float32"),
}
REGIONS = {
    "one_is_fixed": {"image": LpBall(0.1, clip=(0.0, 1.0)), "meta": "fixed"},
    "boxes": {"image": LpBall(0.1, clip=(0.0, 1.0)), "meta": Box(-3.0, 3.0)},
    "norms": {"image": LpBall(0.3, norm=2), "meta": LpBall([0.2, 0.0], norm=1)},
}


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    image, meta = keras.Input(IMAGE, name="image"), keras.Input(META, name="meta")
    seen = layers.Flatten()(layers.Conv2D(2, 2, activation="relu")(image))
    hidden = layers.Concatenate()([seen, layers.Dense(4, "relu")(meta)])
    return keras.Model({"image": image, "meta": meta}, layers.Dense(3)(hidden))


def _vector(x):
    return np.concatenate([x["image"].reshape(len(x["image"]), -1), x["meta"]], axis=1)


def _product(name):
    one = {k: LpBall(0.0) if v == "fixed" else v for k, v in REGIONS[name].items()}
    return Product([one["image"], one["meta"]], [IMAGE, META])


def _points(name, count=100):
    """Points of the region, half of them corners, as inputs of the model."""
    drawn = [
        np.asarray(_product(name).sample(_vector(X), count, seed=1, corners=corners))
        for corners in (False, True)
    ]
    vectors = np.concatenate(drawn, axis=1).reshape(-1, 11)
    return {"image": vectors[:, :9].reshape(-1, *IMAGE), "meta": vectors[:, 9:]}


@pytest.mark.parametrize("name", REGIONS)
def test_a_product_is_the_regions_of_its_blocks(name):
    region, x = _product(name), _vector(X)
    rows = RNG.normal(size=(3, 4, 11)).astype("float32")
    blocks = (rows[..., :9].reshape(3, 4, *IMAGE), rows[..., 9:])
    single = sum(
        np.asarray(one.minimise(part, own))
        for one, part, own in zip(region.regions, blocks, X.values(), strict=True)
    )
    found = np.asarray(region.minimise(rows, x))
    np.testing.assert_allclose(found, single, atol=1e-5)
    # The minimum is reached inside, and no point is below.
    least = np.asarray(region.minimiser(rows, x))
    assert region.contains(least, x).all()
    reached = np.einsum("brn,brn->br", rows, least)
    clipped = name != "norms"
    np.testing.assert_allclose(reached, found, atol=1e-4 if clipped else 1e-3)
    drawn = np.asarray(region.sample(x, 200, seed=0, corners=True))
    assert region.contains(drawn, x).all()
    assert (np.einsum("brn,bcn->brc", rows, drawn) >= found[..., None] - 1e-5).all()
    # Points outside are moved in, block by block.
    moved = np.asarray(region.project(x + RNG.normal(size=x.shape), x))
    assert region.contains(moved, x).all()
    assert not region.contains(x + 10.0, x).any()
    low, high = (np.asarray(end) for end in region.interval(x))
    assert (low[:, None] <= drawn).all() and (drawn <= high[:, None]).all()


@pytest.mark.parametrize("name", REGIONS)
def test_the_numbers_of_a_product_make_the_same_region(name):
    region, x = _product(name), ops.convert_to_tensor(_vector(X))
    again = region.template().with_numbers(region.numbers(x, outward=True))
    for ours, theirs in zip(again.bind(x), region.bind(x), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-6)
    assert region.signature() == _product(name).signature()
    others = {_product(other).signature() for other in REGIONS if other != name}
    assert region.signature() not in others or name != "norms"
    assert Product.from_config(region.get_config()) == region
    small = region.scaled(0.5)
    assert region.contains(np.asarray(small.sample(x, 50, seed=0, corners=True)), x).all()
    with pytest.raises(ValueError, match="must be a list with a radius for each input"):
        region.with_eps(0.1)


def test_sizes_of_each_sample_are_cut_with_the_batch():
    region = Product([LpBall(1.0).with_eps(np.array([0.0, 0.1, 0.2])), LpBall(0.3)], [IMAGE, META])
    x = _vector(X)
    assert region.varies(x)
    some = region.select(np.array([2, 0]), x)
    for place, chosen in enumerate((2, 0)):
        whole, cut = region.interval(x).upper[chosen], some.interval(x[[2, 0]]).upper[place]
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(cut))
    part = region.numbers(ops.convert_to_tensor(x), outward=True).cut(np.array([1]))
    upper = region.template().with_numbers(part).bind(x[1:2]).upper
    np.testing.assert_allclose(np.asarray(upper[0]), np.asarray(region.interval(x).upper[1]))


@pytest.mark.parametrize("name", REGIONS)
def test_outputs_lie_within_bounds(name, model):
    outputs = np.asarray(model(_points(name))).reshape(3, 200, 3)
    for method in ("ibp", "crown"):
        bounds = tfcert.bound(model, X, REGIONS[name], method)
        lower, upper = (np.asarray(t)[:, None] for t in bounds)
        assert (lower - 1e-5 <= outputs).all() and (outputs <= upper + 1e-5).all()
    # A region that is too small is found out.
    wrong = REGIONS[name] | {"image": LpBall(0.001)}
    lower, upper = (np.asarray(t)[:, None] for t in tfcert.bound(model, X, wrong, "ibp"))
    assert not ((lower - 1e-5 <= outputs) & (outputs <= upper + 1e-5)).all()


def test_bounds_are_those_of_a_model_that_splits_one_input(model):
    entry = keras.Input((11,))
    image = layers.Reshape(IMAGE)(entry[:, :9])
    whole = keras.Model(entry, model({"image": image, "meta": entry[:, 9:]}))
    size = np.concatenate([np.full(9, 0.1), np.zeros(2)])
    region = {"image": LpBall(0.1), "meta": "fixed"}
    for method in ("ibp", "crown"):
        ours = tfcert.bound(model, X, region, method)
        theirs = tfcert.bound(whole, _vector(X), LpBall(size), method)
        np.testing.assert_allclose(np.asarray(ours.lower), np.asarray(theirs.lower), atol=1e-6)


def test_lists_are_in_the_order_of_the_inputs(model):
    listed = keras.Model([*model.inputs], model.outputs[0])
    y, region = np.array([0, 1, 2]), REGIONS["boxes"]
    order = ["image" if len(t.shape) == 4 else "meta" for t in listed.inputs]
    ours = tfcert.bound_margins(listed, [X[k] for k in order], y, [region[k] for k in order])
    theirs = tfcert.bound_margins(model, X, y, region)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    named = tfcert.least_margins(listed, X, y, region)
    wanted = np.where(np.eye(3)[y] > 0, np.inf, np.asarray(theirs)).min(axis=1)
    np.testing.assert_allclose(np.asarray(named), wanted, atol=1e-5)


def test_counterexamples_have_the_structure_of_the_inputs(model):
    region = {"image": LpBall(0.5, clip=(0.0, 1.0)), "meta": Box(-4.0, 4.0)}
    y = np.asarray(model(X)).argmax(axis=1)
    asked = properties.ClassStays(y)
    found = find_counterexample(model, asked, X, region, starts=16)
    outcome = tfcert.verify(model, asked, X, region, 30)
    assert found is not None and outcome.verdict == "violated"
    result = tfcert.certify(model, X, y, region, "ibp", self_check=0)
    assert (result.verdict == "falsified").any()
    points = [found.point, outcome.counterexample, *result.counterexamples.values()]
    for point in points:
        assert point["image"].shape == IMAGE and point["meta"].shape == META
        assert (np.abs(point["meta"]) <= 4.0).all() and (point["image"] >= 0.0).all()
    batch = {k: np.stack([p[k] for p in points]).astype("float32") for k in X}
    places = [None, None, *result.counterexamples]
    for place, out in zip(places, np.asarray(model(batch)), strict=True):
        if place is not None:
            assert out.argmax() != y[place]
            assert np.abs(result.counterexamples[place]["image"] - X["image"][place]).max() <= 0.5


def test_a_fixed_input_stays(model):
    y = np.asarray(model(X)).argmax(axis=1)
    region = {"image": LpBall(1.0, clip=(0.0, 1.0)).scaled(0.9), "meta": "fixed"}
    result = tfcert.certify(model, X, y, region, "ibp", self_check=0)
    for place, point in result.counterexamples.items():
        np.testing.assert_array_equal(point["meta"], X["meta"][place])
    small = {"image": "fixed", "meta": "fixed"}
    bounds = tfcert.bound(model, X, small)
    np.testing.assert_allclose(np.asarray(bounds.lower), np.asarray(model(X)), atol=1e-5)


REFUSED = {
    "keys": ({"x": {"image": X["image"]}}, ValueError, "`x` must be a dictionary with an entry"),
    "one_region": ({"region": LpBall(0.1)}, ValueError, "`region` must be a dictionary"),
    "no_region": ({"region": {"image": LpBall(0.1), "meta": None}}, ValueError, "for input 'meta'"),
    "shape": ({"x": X | {"meta": np.zeros((3, 3))}}, ValueError, r"shape \(batch, 2\).*\(3, 3\)"),
    "batch": ({"x": X | {"meta": np.zeros((1, 2))}}, ValueError, "one batch for all inputs"),
    "clip": ({"x": X | {"image": X["image"] + 1}}, ValueError, "x must lie inside clip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name, model):
    changed, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        tfcert.bound(model, **{"x": X, "region": REGIONS["one_is_fixed"], **changed})


POINTS = {"fgsm": {}, "ensemble": {}, "restarts": {"restarts": 2, "steps": 5, "batch_size": 2}}


@pytest.mark.parametrize("name", POINTS)
def test_attacks_give_points_in_the_structure_of_the_inputs(name, model):
    """The points are those of a model that splits one vector; each input is in its region."""
    options = dict(POINTS[name])
    size, region = options.pop("batch_size", 1024), REGIONS["boxes"]
    region = {"image": LpBall(0.3, clip=(0.0, 1.0)), "meta": Box(-3.0, 3.0)}
    kinds = {"fgsm": tfcert.attacks.FGSM, "ensemble": tfcert.attacks.Ensemble}
    if name == "ensemble":
        options = {"attacks": [tfcert.attacks.PGD(LpBall(0.1), 5)]}
    kind = kinds.get(name, tfcert.attacks.PGD)
    y = np.asarray(model(X)).argmax(axis=1)
    points = kind(region, **options)(model, X, y, seed=1, batch_size=size)
    found = kind(region, **options).worst_points(model, X, y, seed=1, batch_size=size)
    entry = keras.Input((11,))
    image = layers.Reshape(IMAGE)(entry[:, :9])
    whole = keras.Model(entry, model({"image": image, "meta": entry[:, 9:]}))
    single = Product(list(region.values()), [IMAGE, META])
    wanted = kind(single, **options).worst_points(whole, _vector(X), y, seed=1, batch_size=size)
    np.testing.assert_array_equal(_vector(points), np.asarray(wanted.points))
    np.testing.assert_array_equal(np.asarray(found.margins), np.asarray(wanted.margins))
    for key in X:
        assert points[key].shape == X[key].shape
        assert region[key].contains(points[key], X[key]).all()
        assert np.abs(points[key] - X[key]).max() > 1e-3
    outputs = np.asarray(model(points))
    reached = (np.where(np.eye(3)[y] > 0, -np.inf, outputs)).max(axis=1) - outputs[range(3), y]
    np.testing.assert_allclose(reached, np.asarray(found.margins), atol=1e-5)


@pytest.mark.parametrize("name", ["one_is_fixed", "norms"])
def test_optimised_slopes_are_at_least_as_tight(name, model):
    method = tfcert.methods.AlphaCrown(iterations=5)
    lower, upper = tfcert.bound(model, X, REGIONS[name], method)
    plain = tfcert.bound(model, X, REGIONS[name], "crown")
    assert (np.asarray(lower) >= np.asarray(plain.lower) - 1e-5).all()
    outputs = np.asarray(model(_points(name))).reshape(3, 200, 3)
    assert (np.asarray(lower)[:, None] - 1e-5 <= outputs).all()
    assert (outputs <= np.asarray(upper)[:, None] + 1e-5).all()
    if name == "one_is_fixed":  # The same as of a model that splits one vector.
        entry = keras.Input((11,))
        image = layers.Reshape(IMAGE)(entry[:, :9])
        whole = keras.Model(entry, model({"image": image, "meta": entry[:, 9:]}))
        size = np.concatenate([np.full(9, 0.1), np.zeros(2)])
        limits = np.r_[np.zeros(9), np.full(2, -9.0)], np.r_[np.ones(9), np.full(2, 9.0)]
        theirs = tfcert.bound(whole, _vector(X), LpBall(size, clip=limits), method)
        np.testing.assert_allclose(np.asarray(lower), np.asarray(theirs.lower), atol=1e-5)
