"""Properties of outputs as data: what they say, and that all their forms say the same."""

import keras
import numpy as np
import pytest

import tfcert
from tests import soundness
from tfcert import properties
from tfcert.properties import ClassStays, Linear, OutputRange, Targeted, TopK
from tfcert.properties.questions import Question, rounded_outward

OUTPUTS = 5


def outputs_of(count=300, seed=0):
    """Random outputs, among which there are ties."""
    return np.random.default_rng(seed).integers(-3, 4, size=(count, OUTPUTS)).astype(float)


def broken(asked, outputs):
    """Which outputs are counterexamples, each taken as those of an input of its own."""
    questions = asked.questions(len(outputs), OUTPUTS)
    return np.array([q.broken(f[None])[0] for q, f in zip(questions, outputs, strict=True)])


LABELS = np.random.default_rng(1).integers(0, OUTPUTS, 300)
TARGETS = (LABELS + 1 + np.random.default_rng(2).integers(0, OUTPUTS - 1, 300)) % OUTPUTS
ROWS = np.random.default_rng(3).integers(-2, 3, (300, 2, OUTPUTS)).astype(float)


def others(f, y):
    return np.delete(f, y)


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        (ClassStays(LABELS), lambda f, i: (others(f, LABELS[i]) < f[LABELS[i]]).all()),
        (ClassStays(2), lambda f, i: (others(f, 2) < f[2]).all()),
        (TopK(LABELS, 1), lambda f, i: (others(f, LABELS[i]) < f[LABELS[i]]).all()),
        (TopK(LABELS, 2), lambda f, i: (others(f, LABELS[i]) >= f[LABELS[i]]).sum() <= 1),
        (TopK(0, 4), lambda f, i: (f[1:] >= f[0]).sum() <= 3),
        (Targeted(LABELS, TARGETS), lambda f, i: f[LABELS[i]] > f[TARGETS[i]]),
        (OutputRange(-2, 2), lambda f, i: (np.abs(f) < 2).all()),
        (OutputRange(upper=[1, 2, np.inf, 3, 1]), lambda f, i: (f < [1, 2, np.inf, 3, 1]).all()),
        (Linear(ROWS, 0.5), lambda f, i: (ROWS[i] @ f + 0.5 > 0).all()),
        (Linear(ROWS[0], [1, -1]), lambda f, i: (ROWS[0] @ f + [1, -1] > 0).all()),
    ],
    ids=lambda value: "" if callable(value) else repr(value),
)
def test_says_what_it_is_meant_to(asked, holds):
    f = outputs_of()
    expected = np.array([not holds(own, i) for i, own in enumerate(f)])
    assert (broken(asked, f) == expected).all() and 0 < expected.sum() < 300
    # The cases say the same: a counterexample fulfils all rows of one of them.
    cases = asked.cases(np.zeros((300, 2), "float32"), tfcert.LpBall(0.1), OUTPUTS)
    met = [
        any((case.rows @ [*own, 1.0] >= 0).all() for case in ways)
        for own, ways in zip(f, cases, strict=True)
    ]
    assert (met == expected).all()
    np.testing.assert_allclose(cases[0][0].upper, [0.1, 0.1], rtol=1e-6)


def test_value_is_monotone_and_decides():
    generator = np.random.default_rng(0)
    groups = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]], bool)
    question = Question(np.eye(4), np.zeros(4), groups, [1, 2, 1])
    margins = generator.integers(-2, 3, (500, 4)).astype(float)
    counts = (margins[:, None] > 0) & groups
    expected = (counts.sum(axis=2) >= [1, 2, 1]).all(axis=1)
    assert (question.proved(margins) == expected).all() and 0 < expected.sum() < 500
    assert (question.broken(margins) == ~expected).all()
    lower = margins - generator.uniform(0, 1, margins.shape)
    assert (question.value(lower) <= question.value(margins)).all()
    # NaN proves nothing, and is a counterexample.
    assert question.broken(np.full((1, 4), np.nan)).all()
    # Ways to break it: none of the first two, or two of the last three, or not the last one.
    ways = [set(way.tolist()) for way in question.conjunctions(10)]
    assert ways == [{0, 1}, {1, 2}, {1, 3}, {2, 3}, {3}]
    with pytest.raises(NotImplementedError, match="more than 3 ways"):
        question.conjunctions(3)
    clauses = question.in_clauses(10)
    np.testing.assert_array_equal(clauses.value(margins), question.value(margins))
    assert [set(way.tolist()) for way in clauses.conjunctions(10)] == ways
    assert (clauses.needs == 1).all()


def test_vnnlib_cases_as_questions():
    generator = np.random.default_rng(0)
    lower, upper = np.zeros(2), np.ones(2)
    several = 0
    for _ in range(20):
        sizes = generator.integers(0, 3, generator.integers(1, 4))
        rows = [generator.normal(size=(size, 3)) for size in sizes]
        cases = tuple(properties.Case(lower, upper, own) for own in rows)
        asked = properties.Property(2, 2, cases)
        (problem,) = asked.problems((2,), "float32")
        f = generator.normal(size=(200, 2))
        met = asked.is_met(np.full((200, 2), 0.5), f)
        assert (problem.question.broken(f) == met).all()
        several += 0 < met.sum() < 200
    assert several > 5
    apart = (cases[0], cases[0]._replace(upper=2 * upper), cases[0])
    assert len(properties.Property(2, 2, apart).problems((1, 2), "float32")) == 2


def test_boxes_are_rounded_outward():
    lower, upper = np.array([0.1, 0.5]), np.array([0.3, 0.5])
    low, high = rounded_outward(lower, upper, "float32")
    assert low.dtype == np.float32 and (low <= lower).all() and (high >= upper).all()
    assert (high - low < 0.2 + 1e-6).all() and low[1] == high[1] == 0.5


@pytest.mark.parametrize(
    "asked",
    [ClassStays([1, 2]), TopK(1, 2), Targeted(0, [1, 2]), OutputRange(upper=1), Linear(ROWS[0])],
    ids=repr,
)
def test_serialisation(asked):
    config = keras.saving.serialize_keras_object(asked)
    again = keras.saving.deserialize_keras_object(config)
    assert repr(again) == repr(asked) and type(again) is type(asked)
    assert again.questions(2, OUTPUTS) == asked.questions(2, OUTPUTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassStays(0.5), "`y` must be an integer >= 0.* Received: y=0.5"),
        (lambda: ClassStays(-1), "`y` must be an integer"),
        (lambda: ClassStays(5).questions(1, OUTPUTS), r"`y` must lie in \[0, 5\)"),
        (lambda: ClassStays([1, 2]).questions(3, OUTPUTS), "`y` must hold one entry"),
        (lambda: ClassStays(0).questions(1, 1), "at least two"),
        (lambda: TopK(0, 0), "`k` must be an integer >= 1. Received: k=0"),
        (lambda: TopK(0, 5).questions(1, OUTPUTS), "`k` must be below"),
        (lambda: Targeted(1, [0, 1]), "`target` must be another output"),
        (lambda: OutputRange(), "`lower` or `upper`"),
        (lambda: OutputRange(np.nan), "`lower` must hold numbers"),
        (lambda: OutputRange([0, 1]).questions(1, OUTPUTS), "`lower` must broadcast"),
        (lambda: Linear([1.0]), "`rows` must have the shape"),
        (lambda: Linear([[np.inf]]), "`rows` must be finite"),
        (lambda: Linear(ROWS[0]).questions(1, 4), "`rows` must have one column"),
        (lambda: Linear(ROWS[0], [1, 2, 3]).questions(1, OUTPUTS), "`offsets` must broadcast"),
        (lambda: Linear(ROWS[0], [[[1]]]), "`offsets` must be a number"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_regions_have_no_cases():
    with pytest.raises(NotImplementedError, match="boxes of inputs"):
        ClassStays(0).cases(np.zeros((1, 2), "float32"), tfcert.LpBall(0.1, norm=2), OUTPUTS)


def model_of(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(OUTPUTS)]
    return keras.Sequential([keras.Input((3,)), *layers])


@pytest.mark.parametrize("norm", ["inf", 2])
def test_margin_bounds_of_properties(norm):
    model, x = model_of(), np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    region = tfcert.LpBall(0.2, norm=norm)
    points = np.asarray(region.sample(x, 200, 0))
    f = np.asarray(model(points.reshape(-1, 3))).reshape(4, 200, OUTPUTS)
    y = np.array([0, 1, 2, 3])
    for asked in (TopK(y, 2), OutputRange(-1, 1), Linear(ROWS[0], [0.1, -0.1]), Targeted(y, 4)):
        lower = np.asarray(tfcert.bound_margins(model, x, asked, region, "crown-ibp"))
        rows, offsets = asked.margins(4, OUTPUTS)
        reached = np.einsum("bro,bno->bnr", rows, f) + offsets[:, None]
        assert (lower <= reached.min(axis=1) + soundness.TOLERANCE["float32"]).all()
        assert (lower > reached.min(axis=1) - 2).all()
        proved = asked.proved(lower)
        for question, holds, own in zip(asked.questions(4, OUTPUTS), proved, f, strict=True):
            assert not (holds and question.broken(own).any())


def test_labels_are_the_property_that_the_class_stays():
    model, x = model_of(), np.zeros((2, 3), "float32")
    region, y = tfcert.LpBall(0.1), np.array([1, 2])
    plain = tfcert.bound_margins(model, x, y, region, "ibp")
    np.testing.assert_array_equal(
        plain, tfcert.bound_margins(model, x, ClassStays(y), region, "ibp")
    )
    with pytest.raises(ValueError, match="`specification` must be None"):
        tfcert.bound_margins(model, x, ClassStays(y), region, specification=np.eye(5))
    with pytest.raises(NotImplementedError, match="no float32 number"):
        tfcert.bound_margins(model, x, Linear([[0.1, 0, 0, 0, 0]]), region, "ibp")
