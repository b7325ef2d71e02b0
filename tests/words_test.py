"""Tests of words that may be replaced: exact against the enumeration of all replacements."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import rule_cases, soundness
from tfcert.regions import Alternatives, WordSubstitutions

_WORDS, _LENGTH = 9, 4
_TABLE = {0: [1, 2], 2: [5], 3: [8, 4], 7: [7, 6]}


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def _model(kind="dense", dtype="float64"):
    with rule_cases.dtype_of_new_layers(dtype):
        words = keras.Input((_LENGTH,), dtype="int32")
        x = layers.Embedding(_WORDS, 3)(words)
        x = x + np.linspace(-1.0, 1.0, 3 * _LENGTH).reshape(_LENGTH, 3).astype(dtype)
        if kind == "conv":
            x = layers.Conv1D(3, 2, activation="relu")(x)
            x = layers.GlobalMaxPooling1D()(x)
        elif kind == "gru":
            x = layers.GRU(2)(x)
        else:
            x = layers.Flatten()(x)
        x = layers.Dense(3)(x)
        return rule_cases.randomise(keras.Model(words, x), seed=3)


def _inputs():
    return np.array([[0, 3, 7, 2], [1, 2, 3, 0], [6, 1, 4, 5]])


def _all(words, most):
    """All sequences that a region holds, written down anew."""
    options = [[word, *_TABLE.get(int(word), [])] for word in words]
    several = np.array(list(itertools.product(*options)))
    return several[(several != words).sum(axis=1) <= most]


@pytest.mark.parametrize("most", [0, 1, 2, None])
def test_bounds_of_an_affine_model_are_those_of_all_replacements(most):
    model, words = _model(), _inputs()
    lower, upper = tfcert.bound(model, words, WordSubstitutions(_TABLE, most), "crown")
    for i, sequence in enumerate(words):
        outputs = np.asarray(model(_all(sequence, _LENGTH if most is None else most)))
        np.testing.assert_allclose(np.asarray(lower)[i], outputs.min(axis=0), atol=1e-9)
        np.testing.assert_allclose(np.asarray(upper)[i], outputs.max(axis=0), atol=1e-9)


def test_intervals_of_the_embedding_are_exact():
    model, words = _model(), _inputs()
    parts = tfcert.split_embedding(model)
    vectors = np.asarray(parts.embedding.embeddings)
    region = WordSubstitutions(_TABLE, 2).around(words, vectors)
    bounds = region.interval(parts.embed(words))
    for i, sequence in enumerate(words):
        points = vectors[_all(sequence, _LENGTH)]
        np.testing.assert_array_equal(np.asarray(bounds.lower)[i], points.min(axis=0))
        np.testing.assert_array_equal(np.asarray(bounds.upper)[i], points.max(axis=0))


@pytest.mark.parametrize("kind", ["conv", pytest.param("gru", marks=pytest.mark.slow)])
def test_outputs_of_all_replacements_lie_within_bounds(kind):
    model, words = _model(kind), _inputs()
    region, y = WordSubstitutions(_TABLE, 2), np.array([0, 1, 2])
    margins = np.asarray(tfcert.bound_margins(model, words, y, region, "crown"))
    least = np.asarray(tfcert.least_margins(model, words, y, region, "crown-ibp"))
    bounds = {m: tfcert.bound(model, words, region, m) for m in ("ibp", "crown-ibp", "crown")}
    alone = tfcert.bound_margins(model, words[:1], y[:1], region, "crown")
    np.testing.assert_allclose(np.asarray(alone)[0], margins[0], atol=1e-9)
    for i, sequence in enumerate(words):
        outputs = np.asarray(model(_all(sequence, 2)))
        ahead = (outputs[:, y[i], None] - outputs).min(axis=0)
        assert (margins[i] <= ahead + 1e-9).all()
        assert least[i] <= np.delete(ahead, y[i]).min() + 1e-9
        for lower, upper in bounds.values():
            assert (np.asarray(lower)[i] <= outputs.min(axis=0) + 1e-9).all()
            assert (np.asarray(upper)[i] >= outputs.max(axis=0) - 1e-9).all()


def test_points_of_the_region():
    model, words = _model(), _inputs()
    parts = tfcert.split_embedding(model)
    vectors = np.asarray(parts.embedding.embeddings)
    region = WordSubstitutions(_TABLE, 2).around(words, vectors)
    x = np.asarray(parts.embed(words))
    for corners in (False, True):
        points = np.asarray(region.sample(x, 20, seed=1, corners=corners))
        assert region.contains(points, x).all()
        assert (points != x[:, None]).any()
    assert region.contains(region.project(points + 0.3, x), x).all()
    np.testing.assert_array_equal(np.asarray(region.project(points, x)), points)
    for i in range(len(x)):
        own, one = region.select(np.array([i]), x), x[i : i + 1]
        listed = own.points(one)
        assert len(listed) == own.count(one)
        expected = {vectors[s].tobytes() for s in _all(words[i], 2)}
        assert {point.tobytes() for point in listed} == expected
        three = listed[-1:].copy()
        three[0, :3] = vectors[[8, 8, 8]]
        assert not region.contains(np.repeat(three, 3, axis=0), x)[i]


def test_the_least_value_of_a_linear_function_is_reached():
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    choices = np.random.default_rng(1).normal(size=(2, 3, 4, 2))
    region = Alternatives(choices, 2)
    rows = np.random.default_rng(2).normal(size=(2, 5, 3, 2))
    least = np.asarray(region.minimise(rows, x))
    points = np.asarray(region.minimiser(rows, x))
    np.testing.assert_allclose((rows * points).sum(axis=(2, 3)), least, atol=1e-9)
    assert region.contains(points, x).all()
    for i in range(2):
        values = np.einsum("rpf,npf->rn", rows[i], region.select([i], x).points(x[i : i + 1]))
        np.testing.assert_allclose(values.min(axis=1), least[i], atol=1e-9)


def test_the_attack_finds_what_enumeration_finds():
    model, words = _model("gru"), _inputs()
    parts = tfcert.split_embedding(model)
    x = np.asarray(parts.embed(words))
    y = np.asarray(model(words)).argmax(axis=1)
    for most in (1, 2):
        region = WordSubstitutions(_TABLE, most).around(words, parts.embedding.embeddings)
        attack = tfcert.attacks.Substitutions(region, restarts=3, early_stop=False)
        points, margins = attack.worst_points(parts.rest, x, y)[1:]
        assert region.contains(points, x).all()
        for i, sequence in enumerate(words):
            outputs = np.asarray(model(_all(sequence, most)))
            others = np.delete(outputs, y[i], axis=1).max(axis=1)
            assert abs((others - outputs[:, y[i]]).max() - float(margins[i])) < 1e-9


@pytest.mark.slow
def test_certify():
    model, words = _model("gru"), _inputs()
    y = np.asarray(model(words)).argmax(axis=1)
    result = tfcert.certify(model, words, y, WordSubstitutions(_TABLE, 2), self_check=1.0)
    for i, sequence in enumerate(words):
        right = np.asarray(model(_all(sequence, 2))).argmax(axis=1) == y[i]
        assert result.verdict[i] in (("verified", "unknown") if right.all() else ("falsified",))
    assert set(result.verdict) >= {"verified"}


def test_what_is_refused():
    x = np.zeros((1, 2, 1))
    region = Alternatives(np.ones((1, 2, 1, 1)), 1)
    with pytest.raises(ValueError, match="searched by tfcert.attacks.Substitutions"):
        tfcert.attacks.PGD(region)
    with pytest.raises(ValueError, match="any other by gradients"):
        tfcert.attacks.Substitutions(tfcert.LpBall(0.1))
    with pytest.raises(NotImplementedError, match="no smaller copies"):
        region.scaled(0.5)
    with pytest.raises(ValueError, match="`choices` must have the shape"):
        region.validate(np.zeros((1, 3, 1)))
    with pytest.raises(ValueError, match="`max_changes` must be"):
        Alternatives(np.ones((1, 2, 1, 1)), -1)
    with pytest.raises(ValueError, match="`max_changes` must be"):
        WordSubstitutions({}, 1.5)
    with pytest.raises(ValueError, match="`table` must be"):
        WordSubstitutions({1: ["a"]})
    with pytest.raises(ValueError, match="words below 9"):
        tfcert.bound(_model(), _inputs(), WordSubstitutions({0: [9]}))
    with pytest.raises(ValueError, match="integers >= 0 of the shape"):
        tfcert.bound(_model(), -_inputs(), WordSubstitutions({}))
    masked = keras.Sequential(
        [keras.Input((4,)), layers.Embedding(9, 2, mask_zero=True), layers.LSTM(2)]
    )
    with pytest.raises(NotImplementedError, match="mask_zero=False"):
        tfcert.bound(masked, _inputs(), WordSubstitutions(_TABLE))
    words = keras.Input((4,), dtype="int32")
    there = ops.cast(ops.expand_dims(words > 0, -1), "float32")
    twice = keras.Model(words, layers.Embedding(9, 2)(words) * there)
    with pytest.raises(NotImplementedError, match="one keras.layers.Embedding and nothing else"):
        tfcert.bound(twice, _inputs(), WordSubstitutions(_TABLE))
    assert region.contains(x, x).all()


def test_configuration():
    words = WordSubstitutions(np.array([[1, -1], [0, 2]]), None)
    assert words.table == {0: (1,), 1: (0, 2)}
    for region in (words, Alternatives(np.ones((1, 2, 1, 1)), 1)):
        config = keras.saving.serialize_keras_object(region)
        assert keras.saving.deserialize_keras_object(config) == region
