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
        size = 4 if kind == "encoder" else 3
        x = layers.Embedding(_WORDS, size)(words)
        x = x + np.linspace(-1.0, 1.0, size * _LENGTH).reshape(_LENGTH, size).astype(dtype)
        if kind == "encoder":  # A block of a transformer, and the mean of all words.
            y = layers.LayerNormalization()(x)
            x = x + layers.MultiHeadAttention(num_heads=2, key_dim=2)(y, y)
            y = layers.Dense(5, activation="gelu")(layers.LayerNormalization()(x))
            x = layers.GlobalAveragePooling1D()(x + layers.Dense(size)(y))
        elif kind == "conv":
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


@pytest.mark.parametrize("kind", ["conv", "encoder", pytest.param("gru", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("kind", ["encoder", pytest.param("gru", marks=pytest.mark.slow)])
def test_certify(kind):
    model, words = _model(kind), _inputs()
    y = np.asarray(model(words)).argmax(axis=1)
    result = tfcert.certify(
        model, words, y, WordSubstitutions(_TABLE, 2), method=["crown"], self_check=1.0
    )
    for i, sequence in enumerate(words):
        right = np.asarray(model(_all(sequence, 2))).argmax(axis=1) == y[i]
        assert result.verdict[i] in (("verified", "unknown") if right.all() else ("falsified",))
    assert set(result.verdict) >= {"verified"}


def test_what_is_refused():
    x = np.zeros((1, 2, 1))
    region = Alternatives(np.ones((1, 2, 1, 1)), 1)
    with pytest.raises(ValueError, match="use tfcert.attacks.Substitutions"):
        tfcert.attacks.PGD(region)
    with pytest.raises(ValueError, match="other regions"):
        tfcert.attacks.Substitutions(tfcert.LpBall(0.1))
    with pytest.raises(NotImplementedError, match="cannot be scaled by a schedule"):
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


def test_points_are_handed_back_as_words():
    model, words = _model(), _inputs()
    y = np.asarray(model(words)).argmax(axis=1)
    region = WordSubstitutions(_TABLE, 2)
    attack = tfcert.attacks.Substitutions(region, restarts=2, early_stop=False)
    found = attack.worst_points(model, words, y)
    assert found.points.dtype == words.dtype and (found.points != words).any()
    outputs = np.asarray(model(found.points))
    for i, sequence in enumerate(words):
        every = _all(sequence, 2)
        assert (every == found.points[i]).all(axis=1).any()
        ahead = np.delete(outputs[i], y[i]).max() - outputs[i, y[i]]
        assert abs(ahead - float(found.margins[i])) < 1e-9
    result = tfcert.certify(model, words, y, region, "ibp", self_check=0)
    assert result.counterexamples
    for place, point in result.counterexamples.items():
        assert (_all(words[place], 2) == point).all(axis=1).any()
        assert np.asarray(model(point[None])).argmax() != y[place]


_BALL, _LEVEL = tfcert.LpBall(0.3), np.array([[0.2, -0.4], [0.1, 0.9], [-0.5, 0.3]])


def _with_number(kind="dense"):
    """Words beside two numbers; "dense" is affine."""
    with rule_cases.dtype_of_new_layers("float64"):
        words = keras.Input((_LENGTH,), dtype="int32", name="words")
        level = keras.Input((2,), dtype="float64", name="level")
        x = layers.Flatten()(layers.Embedding(_WORDS, 3)(words))
        x = layers.Concatenate()([x, layers.Dense(2)(level)])
        if kind == "relu":
            x = layers.Dense(5, "relu")(x)
        model = keras.Model({"words": words, "level": level}, layers.Dense(3)(x))
        return rule_cases.randomise(model, seed=4)


def _extremes(model, sequence, level, most):
    """Outputs at all replacements, with the numbers at all corners of their box."""
    corners = level + 0.3 * np.array(list(itertools.product((-1, 1), repeat=2)))
    several = _all(sequence, most)
    pairs = list(itertools.product(range(len(several)), range(4)))
    batch = {"words": several[[i for i, _ in pairs]], "level": corners[[j for _, j in pairs]]}
    return np.asarray(model(batch))


def test_words_beside_numbers():
    model, x = _with_number(), {"words": _inputs(), "level": _LEVEL}
    for most in (1, 2):
        region = {"words": WordSubstitutions(_TABLE, most), "level": _BALL}
        lower, upper = tfcert.bound(model, x, region, "crown")
        loose = tfcert.bound(model, x, region, "ibp")
        for i, sequence in enumerate(x["words"]):
            outputs = _extremes(model, sequence, _LEVEL[i], most)
            np.testing.assert_allclose(np.asarray(lower)[i], outputs.min(axis=0), atol=1e-9)
            np.testing.assert_allclose(np.asarray(upper)[i], outputs.max(axis=0), atol=1e-9)
            assert (np.asarray(loose.lower)[i] <= outputs.min(axis=0) + 1e-9).all()
    norms = {"words": WordSubstitutions(_TABLE, 1), "level": tfcert.LpBall(0.3, norm=2)}
    tight = tfcert.bound(model, x, norms, "crown")
    wide = tfcert.bound(model, x, {**norms, "level": _BALL}, "crown")
    assert (np.asarray(tight.lower) >= np.asarray(wide.lower) - 1e-9).all()
    assert (np.asarray(tight.lower) > np.asarray(wide.lower) + 1e-3).any()


def test_two_texts():
    """Every input holds words."""
    with rule_cases.dtype_of_new_layers("float64"):
        texts = [keras.Input((2,), dtype="int32") for _ in range(2)]
        read = [layers.Flatten()(layers.Embedding(_WORDS, 2)(text)) for text in texts]
        model = keras.Model(texts, layers.Dense(2)(layers.Concatenate()(read)))
        model = rule_cases.randomise(model, seed=1)
    x = [np.array([[0, 3]]), np.array([[7, 2]])]
    lower, upper = tfcert.bound(model, x, [WordSubstitutions(_TABLE, 1)] * 2)
    pairs = list(itertools.product(_all(x[0][0], 1), _all(x[1][0], 1)))
    outputs = np.asarray(model([np.stack(part) for part in zip(*pairs, strict=True)]))
    np.testing.assert_allclose(np.asarray(lower)[0], outputs.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(np.asarray(upper)[0], outputs.max(axis=0), atol=1e-9)
    with pytest.raises(NotImplementedError, match="so that nothing can be moved"):
        tfcert.bound(model, x, ["fixed", "fixed"])


def test_words_beside_numbers_are_attacked_and_certified():
    model, x = _with_number("relu"), {"words": _inputs(), "level": _LEVEL}
    region = {"words": WordSubstitutions(_TABLE, 2), "level": _BALL}
    y = np.asarray(model(x)).argmax(axis=1)
    margins = np.asarray(tfcert.bound_margins(model, x, y, region, "crown"))
    attack = tfcert.attacks.PGD(region, 10, restarts=2, early_stop=False)
    points, found = attack.worst_points(model, x, y)[1:]
    outputs, changed = np.asarray(model(points)), points["words"] != x["words"]
    assert changed.sum() > 0 and (changed.sum(axis=1) <= 2).all()
    assert (np.abs(points["level"] - _LEVEL) <= 0.3).all()
    for i, sequence in enumerate(x["words"]):
        every = _extremes(model, sequence, _LEVEL[i], 2)
        ahead = (every[:, y[i], None] - every).min(axis=0)
        assert (margins[i] <= ahead + 1e-9).all()
        assert (_all(sequence, 2) == points["words"][i]).all(axis=1).any()
        reached = np.delete(outputs[i], y[i]).max() - outputs[i, y[i]]
        assert abs(reached - float(found[i])) < 1e-9
        # Of all replacements and corners none is much worse for the model.
        assert reached >= -np.delete(ahead, y[i]).min() - 0.05
    result = tfcert.certify(model, x, y, region, ["ibp", "crown"], attack=attack, self_check=0)
    least = np.where(np.eye(3)[y] > 0, np.inf, margins).min(axis=1)
    assert (result.verdict[least > 1e-6] == "verified").all()
    for place, point in result.counterexamples.items():
        assert np.asarray(model({k: v[None] for k, v in point.items()})).argmax() != y[place]
    with pytest.raises(ValueError, match="use tfcert.attacks.Substitutions for finite regions"):
        only_words = tfcert.attacks.Substitutions(region["words"])
        tfcert.certify(model, x, y, region, "ibp", attack=only_words)
    with pytest.raises(NotImplementedError, match="splits boxes"):
        round_ball = tfcert.LpBall(0.3, norm=2)
        tfcert.certify(model, x, y, {**region, "level": round_ball}, "complete")
    with pytest.raises(NotImplementedError, match="'level' of model .* must be read by one"):
        tfcert.bound(model, x, {**region, "level": WordSubstitutions(_TABLE)})
    with pytest.raises(ValueError, match="no region of training or of an"):
        tfcert.export_certified(model, "never", region)
