"""Complete searches over words and categories, against the enumeration of all of them."""

import itertools
import time

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tests import groups_test, rule_cases, soundness
from tfcert.branching import choices
from tfcert.properties import ClassStays, OutputRange, TopK
from tfcert.regions import Alternatives, Box, LpBall, Product, WordSubstitutions

TABLE = {0: [1, 2], 2: [5], 3: [8, 4, 6], 7: [7, 6, 6], 8: [1]}
LENGTH = 5
WORDS = np.array([[0, 3, 7, 2, 8], [2, 2, 3, 0, 1], [6, 1, 4, 5, 5]])


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def text_model(dtype="float32", outputs=3, seed=3):
    """Dense layers over embedded words, with enough curvature that bounds of all are loose."""
    with rule_cases.dtype_of_new_layers(dtype):
        words = keras.Input((LENGTH,), dtype="int32")
        x = layers.Embedding(9, 2)(words)
        x = layers.Dense(6, "relu")(layers.Flatten()(x))
        return rule_cases.randomise(keras.Model(words, layers.Dense(outputs)(x)), seed=seed)


def every(words, most):
    """All texts of a region, written down anew."""
    options = [[word, *TABLE.get(int(word), [])] for word in words]
    several = np.array(list(itertools.product(*options)))
    return several[(several != words).sum(axis=1) <= (LENGTH if most is None else most)]


# Assignments.


@pytest.mark.parametrize("most", [0, 1, 2, None])
def test_assignments_reach_every_text_once(most):
    vectors = np.random.default_rng(0).normal(size=(9, 2)).astype("float32")
    region, x = WordSubstitutions(TABLE, most).around(WORDS, vectors), vectors[WORDS]
    options = region.options(x)
    assert options.counts.tolist() == [[3, 4, 2, 2, 2], [2, 2, 4, 3, 1], [1, 1, 1, 1, 1]]
    owner, chosen, done = np.arange(3), options.start(), []
    while len(chosen):
        full = (chosen >= 0).all(axis=1)
        done += list(zip(owner[full], chosen[full], strict=True))
        owner, chosen = owner[~full], chosen[~full]
        slot = (chosen < 0).argmax(axis=1)
        parent, chosen = options.parts(owner, chosen, slot)
        owner = owner[parent]
    own = np.array([o for o, _ in done])
    region_of, points = region.assigned(x, own, np.array([c for _, c in done]), np.full(1, -1))
    assert (np.asarray(region_of.interval(points).lower) == points).all()
    for i, sequence in enumerate(WORDS):
        found = [point.tobytes() for point in points[own == i]]
        assert len(set(found)) == len(found)
        assert set(found) == {vectors[text].tobytes() for text in every(sequence, most)}


@pytest.mark.parametrize("most", [1, 2, None])
def test_a_part_holds_the_texts_that_have_its_words(most):
    vectors = np.random.default_rng(0).normal(size=(9, 2)).astype("float32")
    region, x = WordSubstitutions(TABLE, most).around(WORDS, vectors), vectors[WORDS]
    options = region.options(x)
    random = np.random.default_rng(1)
    rows = random.normal(size=(1, 4, LENGTH, 2))
    for _ in range(30):
        owner = random.integers(0, 2, size=1)
        chosen = options.start()[owner]
        for slot in random.permutation(LENGTH)[:2]:
            if chosen[0, slot] < 0:
                _, parts = options.parts(owner, chosen, np.array([slot]))
                chosen = parts[random.integers(len(parts))][None]
        changes = options.changes(owner, chosen)[0]
        part, center = region.assigned(x, owner, chosen, changes)
        own = options.values[owner[0]]
        points = vectors[every(WORDS[owner[0]], most)]
        fits = np.ones(len(points), bool)
        for slot in np.flatnonzero(chosen[0] >= 0):
            fits &= (points[:, slot] == own[slot, chosen[0, slot]]).all(axis=-1)
        held = {point.tobytes() for point in part.points(center)}
        assert held == {point.tobytes() for point in points[fits]}
        least = np.asarray(part.minimise(rows, center.astype("float64")))[0]
        values = np.einsum("rpf,npf->rn", rows[0], points[fits].astype("float64"))
        np.testing.assert_allclose(least, values.min(axis=1), atol=1e-6)


# Verdicts.


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        pytest.param("float32", 2, marks=pytest.mark.slow),
        pytest.param("float64", 1, marks=pytest.mark.slow),
        pytest.param("float32", None, marks=pytest.mark.slow),
    ],
)
def test_verdicts_on_words_are_those_of_enumeration(dtype, most):
    model, region = text_model(dtype), WordSubstitutions(TABLE, most)
    y = np.asarray(model(WORDS)).argmax(axis=1)
    found, holds = [], []
    for i, sequence in enumerate(WORDS):
        texts = every(sequence, most)
        scores = np.asarray(model(texts))
        asked = [TopK(y[i], 2) if i else ClassStays(y[i])]
        for limit in (scores[:, 0].max() + 0.01, scores[:, 0].max() - 0.01):
            asked.append(OutputRange(upper=[limit, np.inf, np.inf]))
        for one in asked:
            outcome = tfcert.verify(model, one, WORDS[i : i + 1], region, method="crown")
            (question,) = one.questions(1, 3)
            holds.append("violated" if question.broken(scores).any() else "holds")
            found.append(outcome.verdict)
            if outcome.verdict == "violated":
                text = outcome.counterexample
                assert any((text == other).all() for other in texts)
                assert question.broken(np.asarray(model(text[None])))[0]
            else:
                least = question.value(question.margins(scores)).min()
                assert 0 < outcome.bound <= least + 1e-5
    assert found == holds and {"violated", "holds"} == set(found)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_the_search_decides_what_bounds_and_attacks_leave_open(method, monkeypatch):
    """Without an attack all texts are reached by making choices alone."""
    monkeypatch.setattr(choices.Choices, "_attacked", lambda *args: None)
    model, region = text_model(), WordSubstitutions(TABLE, None)
    scores = np.asarray(model(every(WORDS[0], None)))[:, 0]
    domains = []
    for limit in (scores.max() + 1e-3, scores.max() - 1e-3):
        asked = OutputRange(upper=[limit, np.inf, np.inf])
        outcome = tfcert.verify(model, asked, WORDS[:1], region, method=method)
        assert outcome.verdict == ("holds" if limit > scores.max() else "violated")
        assert outcome.method == "choices"
        domains.append(outcome.domains)
    assert 3 < domains[0] < 2 * len(scores)


def test_several_texts_and_the_one_that_breaks_the_property():
    model, region = text_model(), WordSubstitutions(TABLE, 2)
    most = [np.asarray(model(every(text, 2)))[:, 0].max() for text in WORDS]
    asked = OutputRange(upper=[sorted(most)[1] + 0.01, np.inf, np.inf])
    outcome = tfcert.verify(model, asked, WORDS, region)
    worst = int(np.argmax(most))
    assert outcome.verdict == "violated"
    assert any((outcome.counterexample == text).all() for text in every(WORDS[worst], 2))
    found = tfcert.branching.find_counterexample(model, asked, WORDS, region)
    assert any((found.point == text).all() for text in every(WORDS[worst], 2))


def test_limits_are_kept():
    model, region = text_model(), WordSubstitutions(TABLE, None)
    limit = np.asarray(model(every(WORDS[0], None)))[:, 0].max() + 1e-3
    asked = OutputRange(upper=[limit, np.inf, np.inf])
    begin = time.monotonic()
    outcome = tfcert.verify(model, asked, WORDS[:1], region, method="ibp", time_limit=1e-3)
    assert (outcome.verdict, outcome.limit) == ("unknown", "time")
    assert time.monotonic() - begin < 20
    outcome = tfcert.verify(model, asked, WORDS[:1], region, method="ibp", max_memory=1)
    assert (outcome.verdict, outcome.limit) == ("unknown", "memory")


@pytest.mark.slow
def test_float_safe_verdicts():
    model, region = text_model(), WordSubstitutions(TABLE, 2)
    scores = np.asarray(model(every(WORDS[0], 2)))[:, 0]
    method = tfcert.methods.Crown(float_safe=True)
    asked = OutputRange(upper=[scores.max() + 0.01, np.inf, np.inf])
    assert tfcert.verify(model, asked, WORDS[:1], region, method=method).verdict == "holds"
    # A margin that rounding may turn is no proof.
    asked = OutputRange(upper=[float(np.nextafter(scores.max(), 9.0)), np.inf, np.inf])
    outcome = tfcert.verify(model, asked, WORDS[:1], region, method=method)
    assert (outcome.verdict, outcome.limit) in (("unknown", "rounding"), ("violated", ""))


def test_certify_decides_words_completely():
    model, region = text_model(), WordSubstitutions(TABLE, 3)
    words = np.concatenate([WORDS, WORDS[:, ::-1], WORDS[::-1, [2, 0, 1, 4, 3]]])
    y = np.asarray(model(words)).argmax(axis=1)
    result = tfcert.certify(model, words, y, region, method=["ibp", "complete"], attack=None)
    for i, text in enumerate(words):
        classes = np.asarray(model(every(text, 3))).argmax(axis=1)
        assert result.verdict[i] == ("verified" if (classes == y[i]).all() else "falsified")
        if i in result.counterexamples:
            other = result.counterexamples[i]
            assert any((other == one).all() for one in every(text, 3))
            assert np.asarray(model(other[None])).argmax() != y[i]
    assert {"verified", "falsified"} == set(result.verdict) and "choices" in result.method


# One-hot groups, and several inputs.


@pytest.mark.parametrize("name", groups_test.REGIONS)
def test_certify_decides_groups_completely(name):
    region, x = groups_test.REGIONS[name], groups_test.X
    model = groups_test.network()
    y = np.asarray(model(x)).argmax(axis=1)
    result = tfcert.certify(model, x, y, region, method=["ibp", "complete"], attack=None)
    points = np.asarray(region.sample(x, 400, 0))
    for i in range(len(x)):
        several = np.concatenate([groups_test.corners(region, i), points[i]])
        wrong = (np.asarray(model(several)).argmax(axis=1) != y[i]).any()
        assert result.verdict[i] in (("falsified",) if wrong else ("verified", "falsified"))
        if result.verdict[i] == "falsified":
            point = result.counterexamples[i]
            assert region.select(np.array([i]), x).contains(point[None], x[i : i + 1]).all()
            assert np.asarray(model(point[None])).argmax() != y[i]


def test_parts_of_groups_are_their_categories():
    region, x = groups_test.OWN, groups_test.X
    options = region.options(x)
    assert options.counts.tolist() == [[3, 1], [3, 2], [2, 2]]
    rows = np.random.default_rng(0).normal(size=(1, 4, groups_test.FEATURES))
    for i in range(3):
        _, parts = options.parts(np.array([i]), options.start()[[i]], np.array([0]))
        for chosen in parts:
            values = options.values[i, 0, chosen[0]]
            part, center = region.assigned(x, np.array([i]), chosen[None], np.array([-1]))
            corners = groups_test.corners(region, i)
            fits = (corners[:, groups_test.GROUPS[0]] == values).all(axis=1)
            assert part.contains(center, center).all() and fits.any()
            least = np.asarray(part.minimise(rows, center.astype("float64")))[0]
            np.testing.assert_allclose(least, (rows[0] @ corners[fits].T).min(axis=1), atol=1e-6)


@pytest.mark.slow
def test_more_categories_than_can_be_searched_one_by_one():
    """Two to the power of 14 choices, most of which one bound proves."""
    groups = [[2 * i, 2 * i + 1] for i in range(14)]
    model = keras.Sequential([keras.Input((29,)), layers.Dense(1)])
    kernel = np.random.default_rng(0).normal(size=(29, 1))
    model.set_weights([kernel, np.zeros(1)])
    x = np.zeros((1, 29), "float32")
    x[0, 0:28:2] = 1
    box = Box(np.array([0.0] * 28 + [-1.0]), np.ones(29), groups)
    most = kernel[:28].reshape(14, 2).max(axis=1).sum() + abs(kernel[28, 0])
    for limit, verdict in ((most + 1e-3, "holds"), (most - 1e-3, "violated")):
        outcome = tfcert.verify(model, OutputRange(upper=limit), x, box)
        assert outcome.verdict == verdict


@pytest.mark.slow
def test_words_beside_numbers():
    words, numbers = keras.Input((3,), dtype="int32", name="w"), keras.Input((2,), name="n")
    seen = layers.Flatten()(layers.Embedding(9, 2)(words))
    both = layers.Dense(6, "relu")(layers.Concatenate()([seen, numbers]))
    model = rule_cases.randomise(keras.Model({"w": words, "n": numbers}, layers.Dense(1)(both)), 1)
    region = {"w": WordSubstitutions(TABLE, 2), "n": LpBall(0.3)}
    x = {"w": np.array([[3, 0, 7]]), "n": np.array([[0.1, -0.2]], "float32")}
    texts = _texts(x["w"][0], 2)
    shifts = np.random.default_rng(0).uniform(-0.3, 0.3, size=(400, 2)).astype("float32")
    shifts[:4] = [[0.3, 0.3], [0.3, -0.3], [-0.3, 0.3], [-0.3, -0.3]]
    pairs = [(text, x["n"][0] + shift) for text in texts for shift in shifts]
    inputs = {"w": np.array([a for a, _ in pairs]), "n": np.array([b for _, b in pairs], "float32")}
    most = np.asarray(model(inputs)).max()
    for limit, verdict in ((most + 0.15, "holds"), (most - 0.02, "violated")):
        outcome = tfcert.verify(model, OutputRange(upper=float(limit)), x, region, time_limit=60)
        assert outcome.verdict == verdict
    point = outcome.counterexample
    assert any((point["w"] == text).all() for text in texts)
    assert np.abs(point["n"] - x["n"][0]).max() <= 0.3 + 1e-6
    moved = {name: np.asarray(part)[None] for name, part in point.items()}
    assert float(np.asarray(model(moved))[0, 0]) >= most - 0.02


def _texts(words, most):
    options = [[word, *TABLE.get(int(word), [])] for word in words]
    several = np.array(list(itertools.product(*options)))
    return several[(several != words).sum(axis=1) <= most]


def test_what_is_refused():
    model, region = text_model(), WordSubstitutions(TABLE, 2)
    asked = OutputRange(upper=[100.0, np.inf, np.inf])
    with pytest.raises(
        NotImplementedError, match="A proof cannot be recorded for regions of words"
    ):
        tfcert.verify(model, asked, WORDS[:1], region, recorder=tfcert.proofs.Tree())
    ball = Product([LpBall(0.1, norm=2), Alternatives(np.zeros((1, 2, 1, 1)))], [(2,), (2, 1)])
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    with pytest.raises(NotImplementedError, match="Problems are about boxes"):
        tfcert.verify(flat, OutputRange(upper=1.0), np.zeros((1, 4), "float32"), ball)
