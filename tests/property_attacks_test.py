"""Attacks on properties: they reach the worst point where it is known, and say the truth."""

import keras
import numpy as np
import pytest

import tfcert
from tests import training_support as ts
from tfcert import attacks
from tfcert.properties import ClassStays, Linear, Near, OutputRange, Targeted, TopK

EPS = 0.2
REGION = tfcert.LpBall(EPS)
OUTPUTS = 3
ATTACKS = {
    "fgsm": lambda region: attacks.FGSM(region),
    "pgd": lambda region: attacks.PGD(region, steps=10, loss="margin"),
    "apgd": lambda region: attacks.APGD(region, steps=10, loss="margin", targets=2),
    "ensemble": lambda region: attacks.Ensemble(
        region, [attacks.PGD(region, steps=5), attacks.PGD(region, steps=20, loss="margin")]
    ),
}
X = np.random.default_rng(0).uniform(-1, 1, (8, 5)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(8, OUTPUTS))
ASKED = {
    "range": OutputRange([-2.0, -np.inf, -1.5], 2.0),
    "near": Near(2.0, 0.5 * TARGETS),
    "linear": Linear(np.random.default_rng(2).normal(size=(8, 2, OUTPUTS)), 0.5),
    "targeted": Targeted(np.arange(8) % 3, (np.arange(8) + 1) % 3),
    "top-2": TopK(np.arange(8) % 3, 2),
}


@pytest.fixture(scope="module")
def affine():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(OUTPUTS)])
    random = np.random.default_rng(3)
    model.set_weights([random.normal(size=(5, OUTPUTS)), random.normal(size=OUTPUTS)])
    return model


@pytest.fixture(scope="module")
def curved():
    return ts.mlp(seed=4, inputs=5, classes=OUTPUTS)


def margins_at(asked, outputs):
    rows, offsets = asked.margins_of(len(outputs), outputs.shape[1])
    return np.einsum("bro,bo->br", rows, outputs) + offsets


def values_at(asked, outputs):
    """The least margin that is needed."""
    ordered = np.sort(margins_at(asked, outputs), axis=1)
    return ordered[:, -asked.needed(ordered.shape[1])]


@pytest.mark.parametrize("name", ["pgd", "apgd", "ensemble"])
def test_the_worst_point_of_an_affine_model_is_found(name, affine):
    asked = Linear(np.random.default_rng(5).normal(size=(8, 1, OUTPUTS)), 2.0)
    rows, _ = asked.margins_of(8, OUTPUTS)
    slopes = rows[:, 0] @ affine.get_weights()[0].T
    worst = margins_at(asked, np.array(affine(X)))[:, 0] - EPS * np.abs(slopes).sum(axis=1)
    attack = attacks.APGD(REGION, steps=20, loss="margin") if name == "apgd" else None
    attack = attack or ATTACKS[name](REGION)
    if name == "ensemble":  # which leaves alone what is broken: ask for what nothing breaks
        asked = Linear(asked.rows, 20.0)
        worst = worst + 18.0
    found = attack.worst_points(affine, X, asked)
    np.testing.assert_allclose(-np.array(found.margins), worst, rtol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("kind", ASKED)
def test_margins_are_those_of_the_points(name, kind, curved):
    asked = ASKED[kind]
    found = ATTACKS[name](REGION).worst_points(curved, X, asked)
    points = np.array(found.points)
    assert (np.abs(points - X) <= EPS).all()
    values = values_at(asked, np.array(curved(points)))
    np.testing.assert_allclose(-np.array(found.margins), values, atol=1e-5)
    before = values_at(asked, np.array(curved(X)))
    if name != "fgsm":  # A single step may lead anywhere.
        assert values.mean() < before.mean() - 0.01
        assert (values <= before + 1e-6).all()


def test_a_property_that_names_the_label_is_attacked_as_the_label_is(curved):
    y, attack = np.arange(8) % 3, attacks.PGD(REGION, steps=5, loss="margin")
    labels = attack.worst_points(curved, X, y)
    asked = attack.worst_points(curved, X, ClassStays(y))
    np.testing.assert_allclose(np.array(labels.margins), np.array(asked.margins), atol=1e-5)


def test_one_program_for_properties_of_one_shape(curved):
    attack, seen = attacks.PGD(REGION, steps=3), tfcert.programs.programs_of(curved)
    attack(curved, X, OutputRange(-1.0, 1.0))
    traced = [seen.traces("attack")]
    for limit in (2.0, 3.0, 4.0):
        attack(curved, X, OutputRange(-limit, limit))
        traced.append(seen.traces("attack"))
    assert traced[-1] <= traced[0] + 1


def test_a_regression_and_a_probability(curved):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation="sigmoid")])
    asked = OutputRange(0.0, 0.9)  # Of the probability, not of a logit.
    found = attacks.PGD(REGION, steps=10, loss="margin").worst_points(model, X, asked)
    values = values_at(asked, np.array(model(found.points)))
    np.testing.assert_allclose(-np.array(found.margins), values, atol=1e-5)


def test_alternatives_that_break_a_property():
    random = np.random.default_rng(6)
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([random.normal(size=(6, 2)), np.zeros(2)])
    x = random.normal(size=(2, 3, 2)).astype("float32")
    choices = random.normal(size=(2, 3, 4, 2)).astype("float32")
    region = tfcert.regions.Alternatives(choices, max_changes=3)
    asked = OutputRange(-30.0, np.array([[20.0, 30.0], [30.0, 20.0]]))
    found = attacks.Substitutions(region).worst_points(model, x, asked)
    for i in range(2):
        one = tfcert.regions.Alternatives(choices[i : i + 1], max_changes=3)
        every = one.points(x[i : i + 1])
        own = OutputRange(asked.lower, asked.upper[i])
        worst = values_at(own, np.array(model(every))).min()
        np.testing.assert_allclose(-np.array(found.margins)[i], worst, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "attack", "message"),
    [
        (OutputRange(np.zeros((3, 1)), 1.0), attacks.PGD(REGION), "`lower` must hold one entry"),
        (Linear([[1.0, 2.0]]), attacks.PGD(REGION), "`rows` must have one column"),
        (Targeted(0, 1), attacks.PGD(REGION, loss="logits_ratio"), "at least 2 margins"),
    ],
)
def test_says_what_is_wrong(asked, attack, message, curved):
    with pytest.raises(ValueError, match=message):
        attack(curved, X, asked)
