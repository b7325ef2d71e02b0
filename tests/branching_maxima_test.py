"""Branch and bound on maxima, against exact optima of small networks."""

import functools

import keras
import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

import tfcert
from tests import soundness, support
from tests.branching_loop import problem, search
from tfcert import methods
from tfcert.branching import maxima
from tfcert.branching.layout import Layout
from tfcert.branching.units import UnitSplitter
from tfcert.network import network_of
from tfcert.rules.nonlinear import MaxReduce

METHOD = methods.AlphaCrown(iterations=3, learning_rate=0.2)
LOWER, UPPER = np.array([-1.0, -0.9]), np.array([0.8, 1.0])
layers = keras.layers

# What comes behind the first layer of six, and the places of it that each maximum compares; -1: 0.
KINDS = {
    "pooling": (
        [layers.Reshape((6, 1)), layers.MaxPooling1D(2), layers.Flatten()],
        [[0, 1], [2, 3], [4, 5]],
    ),
    "relu": (
        [layers.ReLU(), layers.Reshape((6, 1)), layers.MaxPooling1D(3), layers.Flatten()],
        [[0, 1, 2, -1], [3, 4, 5, -1]],
    ),
    "padded": (
        [
            layers.Reshape((6, 1)),
            layers.ReLU(),
            layers.MaxPooling1D(3, strides=2, padding="same"),
            layers.Flatten(),
        ],
        [[0, 1, 2, -1], [2, 3, 4, -1], [4, 5, -1]],
    ),
    "edges": (
        [layers.Reshape((6, 1)), layers.MaxPooling1D(4, strides=3, padding="same")],
        [[0, 1, 2, 3], [3, 4, 5]],
    ),
    "filled": (  # Zeros around the map are moved, too.
        [
            layers.ReLU(),
            layers.Reshape((6, 1)),
            layers.ZeroPadding1D(1),
            layers.MaxPooling1D(4),
            layers.Flatten(),
        ],
        [[0, 1, 2, -1], [3, 4, 5, -1]],
    ),
    "whole": (
        [layers.Reshape((3, 2)), layers.GlobalMaxPooling1D()],
        [[0, 2, 4], [1, 3, 5]],
    ),
}


@functools.cache
def net(kind):
    given = keras.Input((2,))
    value = layers.Dense(6)(given)
    for layer in KINDS[kind][0]:
        value = layer(value)
    value = layers.Flatten()(value)
    value = layers.Dense(4)(value)
    value = keras.ops.maximum(value[:, :2], value[:, 2:])
    return keras.Model(given, layers.Dense(1)(value))


def seeded(kind, seed):
    """The model of a kind with the weights of a seed."""
    model, rng = net(kind), np.random.default_rng(seed)
    for weight in model.weights:
        scale = 1.0 if len(weight.shape) == 2 else 0.4
        weight.assign(rng.normal(scale=scale, size=weight.shape))
    return model


def optimum(kind):
    """The least output on the box, by a mixed-integer program that is written from the weights."""
    weights = [np.asarray(weight, float) for weight in net(kind).weights]
    (first, first_bias), (second, second_bias), (last, last_bias) = zip(
        weights[::2], weights[1::2], strict=True
    )
    limit, rows, low, high = 100.0, [], [], []
    pairs, groups = [[0, 2], [1, 3]], KINDS[kind][1]
    count = 2 + sum(1 + len(group) for group in (*groups, *pairs))
    whole = np.zeros(count)
    bounds = [
        np.concatenate([end, np.full(count - 2, end_)])
        for end, end_ in ((LOWER, -np.inf), (UPPER, np.inf))
    ]

    def constrain(row, least, most):
        rows.append(row)
        low.append(least)
        high.append(most)

    def maximum(values, place):
        """A variable that is the largest of some affine functions, each (row, constant)."""
        result, chosen = place, place + 1 + np.arange(len(values))
        whole[chosen], bounds[0][chosen], bounds[1][chosen] = 1, 0, 1
        unit = np.eye(count)
        for (row, constant), one in zip(values, chosen, strict=True):
            constrain(unit[result] - row, constant, np.inf)
            constrain(unit[result] - row + limit * unit[one], -np.inf, constant + limit)
        constrain(unit[chosen].sum(axis=0), 1, 1)
        return unit[result], chosen[-1] + 1

    place, units = 2, np.eye(count)
    entries = [(first[:, i] @ units[:2], first_bias[i]) for i in range(6)]
    entries.append((np.zeros(count), 0.0))
    pooled, outputs = [], []
    for group in groups:
        row, place = maximum([entries[i] for i in group], place)
        pooled.append(row)
    middle = [(second[:, i] @ np.array(pooled), second_bias[i]) for i in range(4)]
    for group in pairs:
        row, place = maximum([middle[i] for i in group], place)
        outputs.append(row)
    solved = milp(
        last[:, 0] @ np.array(outputs),
        integrality=whole,
        bounds=tuple(bounds),
        constraints=LinearConstraint(np.array(rows), low, high),
        options={"mip_rel_gap": 0.0},
    )
    assert solved.status == 0, solved.message
    return solved.fun + last_bias[0]


@functools.cache
def grid(count=120):
    axes = [np.linspace(low, high, count) for low, high in zip(LOWER, UPPER, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype("float32")


def values_of(network, points):
    """The value of every node of a network at some points."""
    values = {network.input: points}
    for node in network.nodes:
        if node not in values:
            p = node.primitive.parameters(network.dtype)
            values[node] = node.primitive.apply(p, *[values[source] for source in node.inputs])
    return values


def splitter(kind, offset, **options):
    asked = [problem(LOWER, UPPER, [[1.0]], [offset])]
    return UnitSplitter(net(kind), asked, METHOD, methods.Crown(), **options)


def check_value(model, points):
    """The trees compute what the model does, and have no maximum left."""
    network = maxima.splittable(model)
    assert any(isinstance(node.primitive, MaxReduce) for node in network_of(model).nodes)
    assert not Layout(network).relaxed
    found = np.asarray(values_of(network, points)[network.outputs])
    np.testing.assert_allclose(found, np.asarray(model(points)), rtol=1e-4, atol=1e-5)


def check_domains(kind):
    """Each point of the grid lies in an open or proved part, whose bound is below its value."""
    least = optimum(kind)
    # With narrowed intervals, a domain stands for those of its points that break the question.
    split = splitter(kind, -least - 0.05, narrow=False)
    values = values_of(split.network, grid())
    outputs = np.asarray(values[split.network.outputs])[:, 0]
    units = np.concatenate(
        [
            np.asarray(values[split.network.nodes[spot.place]]).reshape(len(outputs), -1)
            for spot in split.layout.units
        ],
        axis=-1,
    )
    domains, done, rounds = split.start(), np.zeros(len(outputs), bool), 0
    while len(domains) and rounds < 6:
        found, rounds, open_points = split.bound(domains), rounds + 1, np.zeros(len(outputs), bool)
        for i, lower in enumerate(found.lower[:, 0]):
            signs = np.zeros(units.shape[1])
            signs[split.roots.units] = found.domains.state["signs"][i]
            inside = (units * signs >= -1e-5).all(axis=1)
            if inside.any():
                assert lower <= outputs[inside].min() - least - 0.05 + 1e-4
            (done if lower > 0 else open_points)[inside] = True
        assert (done | open_points).all(), "some points are in no part"
        left = found.domains.take(found.lower[:, 0] <= 0)
        left = left.take(split.can_split(left))
        domains = split.split(left) if len(left) else left
    assert rounds > 2


@pytest.mark.parametrize("kind", KINDS)
def test_trees_of_pairs_compute_the_same(kind):
    check_value(seeded(kind, 0), grid(20))


def test_entries_that_are_equal_and_maxima_with_constants():
    given = keras.Input((4, 4, 2))
    value = layers.MaxPooling2D(3, 2, padding="same")(keras.ops.maximum(given, 0.25))
    value = layers.Dense(3)(keras.ops.max(layers.Flatten()(value), axis=-1, keepdims=True))
    check_value(keras.Model(given, value), np.zeros((2, 4, 4, 2), "float32"))
    check_value(
        keras.Model(given, value),
        np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype("float32"),
    )


def test_a_function_moves_behind_the_maximum_only_if_it_never_falls():
    for function, units in (
        (layers.ReLU(), 4 * 4),
        (layers.LeakyReLU(negative_slope=0.25), 4 * 4),
        (keras.ops.abs, 4 * 4 + 4 * 3),
        (layers.PReLU(), 4 * 4 + 4 * 3),
        (keras.ops.tanh, 4 * 4 + 4 * 3),
    ):
        given = keras.Input((4, 4, 1))
        value = layers.MaxPooling2D(2)(function(given))
        model = keras.Model(given, layers.Dense(2)(layers.Flatten()(value)))
        points = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("float32")
        check_value(model, points)
        assert Layout(maxima.splittable(model)).unit_count == units


def test_a_network_without_maxima_stays_as_it_is():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="relu")])
    assert maxima.splittable(model) is network_of(model)


@pytest.mark.parametrize("kind", support.slow_except("padded".__eq__, KINDS))
def test_bounds_hold_for_all_points_of_each_part(kind):
    seeded(kind, 1)
    check_domains(kind)


@pytest.mark.parametrize("kind", support.slow_except(["relu"].__contains__, KINDS))
def test_verdicts_are_right_on_both_sides_of_the_optimum(kind):
    seeded(kind, 2)
    least = optimum(kind)
    step = 2e-3 * (1.0 + abs(least))
    for offset, verdict in ((step, "proved"), (-step, "broken")):
        assert search(splitter(kind, -least + offset)) == verdict


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_many_networks_and_batch_sizes(kind):
    for seed in range(3, 9):
        seeded(kind, seed)
        least = optimum(kind)
        step = 2e-3 * (1.0 + abs(least))
        for batch in (2, 64):
            assert search(splitter(kind, -least + step, batch=batch)) == "proved"
            assert search(splitter(kind, -least - step, batch=batch)) == "broken"


def _moves_what_falls(monkeypatch):
    monkeypatch.setattr(maxima, "_never_falls", lambda curve: True)


def _entries_of_nowhere(monkeypatch):
    monkeypatch.setattr(maxima, "_filled", lambda entries, present: entries)


def _smaller_one(monkeypatch):
    original = maxima.building.dense
    monkeypatch.setattr(maxima.building, "dense", lambda x, kernel: original(x, -kernel))


@pytest.mark.parametrize("plant", [_moves_what_falls, _entries_of_nowhere, _smaller_one])
def test_planted_errors_in_the_trees_are_found(plant, monkeypatch):
    given = keras.Input((4, 4, 1))
    value = layers.MaxPooling2D(3, 2, padding="same")(keras.ops.abs(given) - 1.0)
    value = layers.MaxPooling2D(2)(keras.ops.abs(value))
    model = keras.Model(given, layers.Flatten()(value))
    points = np.random.default_rng(0).normal(scale=0.5, size=(8, 4, 4, 1)).astype("float32")
    check_value(model, points)
    plant(monkeypatch)
    model = keras.Model(given, layers.Flatten()(value))
    with pytest.raises(AssertionError):
        check_value(model, points)


def _too_tight(monkeypatch):
    original = maxima.building.curve

    def curve(function, x):
        made = original(function, x)
        made.enclosure = (lambda known: type(known).from_ends(known.lower, known.lower)), (x,)
        return made

    monkeypatch.setattr(maxima.building, "curve", curve)


def _lost_child(monkeypatch):
    original = UnitSplitter.split

    def split(self, domains):
        children = original(self, domains)
        return children.take(np.arange(len(children)) != 1)

    monkeypatch.setattr(UnitSplitter, "split", split)


@pytest.mark.slow
@pytest.mark.parametrize("plant", [_too_tight, _lost_child])
def test_planted_errors_in_the_search_are_found(plant, monkeypatch):
    monkeypatch.setattr("tests.branching_maxima_test.net", functools.cache(net.__wrapped__))
    plant(monkeypatch)
    seeded("padded", 1)
    with soundness.eagerly(), pytest.raises(AssertionError):
        check_domains("padded")


@pytest.mark.slow
def test_a_network_with_max_pooling_is_decided():
    """Relaxed maxima leave these inputs open, as long as nobody splits them."""
    (x, y), (tests, labels) = tfcert.datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=6, verbose=0)
    right = np.flatnonzero(np.argmax(model.predict(tests[:24], verbose=0), axis=1) == labels[:24])
    result = tfcert.certify(
        model,
        tests[right],
        labels[right],
        tfcert.LpBall(0.03, clip=(0.0, 1.0)),
        method="complete",
        time_limit_per_input=60,
        self_check=0.0,
    )
    assert (result.verdict != "unknown").all()
    assert (result.method == "units").sum() > 1
