"""Branch and bound at points: units that other functions than two-piece ones read."""

import functools
import sys

import keras
import numpy as np
import pytest

import tfcert
from tests import support
from tests.branching_loop import problem, search
from tfcert import methods
from tfcert.bounds.sweep import Slopes
from tfcert.branching.layout import Layout
from tfcert.branching.units import UnitSplitter
from tfcert.network import network_of

METHOD = methods.AlphaCrown(iterations=2, learning_rate=0.3)
LOWER, UPPER = np.array([-1.0, -0.8]), np.array([0.9, 1.0])
KINDS = ("tanh", "sigmoid", "gelu", "relu6", "mixed")


@functools.cache
def net(kind):
    """The model, and the model of the values that its units are; compiled once for all weights."""
    given = keras.Input((2,))
    first = keras.layers.Dense(4)(given)
    if kind == "mixed":  # A unit that two functions read, and ReLU units behind it.
        value = keras.ops.tanh(first) + keras.ops.relu(first)
        second = keras.layers.Dense(3)(value)
        value = keras.ops.relu(second)
    else:
        second = keras.layers.Dense(3)(keras.layers.Activation(kind)(first))
        value = keras.layers.Activation(kind)(second)
    model = keras.Model(given, keras.layers.Dense(1)(value))
    return model, keras.Model(given, [first, second])


@functools.cache
def points(count=300):
    axes = [np.linspace(low, high, count) for low, high in zip(LOWER, UPPER, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype("float32")


def values(kind, seed=0):
    """Gives the model some weights; its outputs at a grid of points, and the units there."""
    model, units = net(kind)
    rng, scale = np.random.default_rng(seed), 4.0 if kind == "relu6" else 1.5
    for weight in model.weights:
        size = scale if len(weight.shape) == 2 else 0.5
        weight.assign(rng.normal(scale=size, size=weight.shape))
    flat = np.concatenate([np.asarray(part) for part in units(points())], axis=-1)
    return np.asarray(model(points()))[:, 0].astype(float), flat


def splitter(kind, offset, **options):
    asked = [problem(LOWER, UPPER, [[1.0]], [offset])]
    return UnitSplitter(net(kind)[0], asked, METHOD, methods.Crown(), **options)


def check_domains(kind, seed=0, candidates=1):
    """Each point of the grid lies in an open or proved part, whose bound is below its value."""
    outputs, units = values(kind, seed)
    split = splitter(kind, -outputs.min() - 0.05, candidates=candidates)
    network = network_of(split.model)
    assert split.layout.unit_count == units.shape[1] and network.outputs.shape == (1,)
    domains, done, rounds = split.start(), np.zeros(len(outputs), bool), 0
    while len(domains) and rounds < 7:
        found, rounds, open_points = split.bound(domains), rounds + 1, np.zeros(len(outputs), bool)
        for i, lower in enumerate(found.lower[:, 0]):
            inside = np.ones(len(outputs), bool)
            low, high = (np.full(units.shape[1], end) for end in (-np.inf, np.inf))
            low[split.roots.units] = found.domains.state["low"][i]
            high[split.roots.units] = found.domains.state["high"][i]
            # Points that rounding may put on either side of a cut count on both.
            inside = ((units >= low - 1e-5) & (units <= high + 1e-5)).all(axis=1)
            if inside.any():
                assert lower <= outputs[inside].min() - outputs.min() - 0.05 + 1e-4
            (done if lower > 0 else open_points)[inside] = True
        assert (done | open_points).all(), "some points are in no part"
        left = found.domains.take(found.lower[:, 0] <= 0)
        left = left.take(split.can_split(left))
        domains = split.split(left) if len(left) else left
    assert rounds == 7


@pytest.mark.parametrize("kind", support.slow_except("tanh".__eq__, KINDS))
def test_bounds_hold_for_all_points_of_each_part(kind):
    check_domains(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_of_more_networks(kind):
    for seed in range(1, 6):
        check_domains(kind, seed)


@pytest.mark.slow
def test_the_same_with_trials_of_candidates():
    check_domains("mixed", candidates=2)


def _forgotten_constant(monkeypatch):
    original = Slopes.constrain
    monkeypatch.setattr(Slopes, "constrain", lambda self, *given: (original(self, *given)[0], 0.0))


def _cut_beside(monkeypatch):
    def parted(self, state, units, candidates):
        state = original(self, state, units, candidates)
        return {**state, "low": state["low"] + 0.3}

    original = UnitSplitter._parted
    monkeypatch.setattr(UnitSplitter, "_parted", parted)


@pytest.mark.slow
@pytest.mark.parametrize("plant", [_forgotten_constant, _cut_beside])
def test_planted_errors_are_found(plant, monkeypatch):
    plant(monkeypatch)
    monkeypatch.setattr(sys.modules[__name__], "net", functools.cache(net.__wrapped__))
    with pytest.raises(AssertionError):
        check_domains("tanh")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_are_right_on_both_sides_of_the_optimum(kind):
    outputs, _ = values(kind)
    step = 0.2 * float(np.ptp(outputs))
    assert search(splitter(kind, -outputs.min() + step)) == "proved"
    assert search(splitter(kind, -outputs.min() - step)) == "broken"


@pytest.mark.slow
def test_a_network_of_many_inputs_is_decided():
    keras.utils.set_random_seed(0)
    given = keras.Input((30,))
    value = keras.layers.Dense(6, activation="tanh")(given)
    model = keras.Model(given, keras.layers.Dense(2)(keras.layers.Dense(5, "tanh")(value)))
    x, region = np.zeros((1, 30), "float32"), tfcert.LpBall(0.25)
    row = np.array([[1.0, 0.0]])
    (whole,) = np.asarray(tfcert.bound(model, x, region, "alpha-crown").lower)[:, 0]
    asked = tfcert.properties.Linear(row, [0.02 - float(whole)])
    outcome = tfcert.verify(model, asked, x, region, time_limit=300)
    assert (outcome.verdict, outcome.method) == ("holds", "alpha-crown")
    asked = tfcert.properties.Linear(row, [-0.02 - float(whole)])
    outcome = tfcert.verify(model, asked, x, region, time_limit=300)
    assert (outcome.verdict, outcome.method) == ("holds", "units") and outcome.domains > 2


def test_proofs_split_signs_alone():
    network = network_of(net("mixed")[0])
    assert Layout(network).smooth == [True, False] and not Layout(network).relaxed
    plain = Layout(network, points=False)
    assert plain.unit_count == 7 and plain.smooth == [False, False] and len(plain.relaxed) == 1
