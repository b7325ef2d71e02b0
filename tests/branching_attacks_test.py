"""Attacks of the search for counterexamples: goals of their own, and turns beside the search."""

import keras
import numpy as np
import pytest

import tfcert
from tests import branching_support as support
from tests import soundness
from tfcert.branching import attacking, whole
from tfcert.branching.search import Limits, search
from tfcert.properties.questions import Problem, Question

SIZE = 20


def misleading():
    """Two margins: the least one leads away from the corner where the other one is broken."""
    model = keras.Sequential([keras.Input((SIZE,)), keras.layers.Dense(2)])
    kernel = np.full((SIZE, 2), 1.0 / SIZE) * [0.05, -1.05]
    model.set_weights([kernel, np.array([0.15, 1.0])])
    return model


def problem(question=None, low=-1.0, high=1.0):
    limits = np.full(SIZE, low), np.full(SIZE, high)
    question = question or Question.all_positive(np.eye(2), np.zeros(2))
    return Problem(*(end.astype("float32") for end in limits), question, limits)


def broken(model, one, points):
    return one.question.broken(np.asarray(model(points)))


def test_most_starts_have_a_single_margin_as_their_goal():
    model, one = misleading(), problem()
    with soundness.eagerly():
        points, owner = attacking.attack(model, [one, one], 5, 8, 0)
        found = broken(model, one, points)
        assert owner.tolist() == [0] * 8 + [1] * 8
        # Of eight starts two are for the whole question, and three for each margin.
        assert found.tolist() == [False, False, True, False, False, True, False, True] * 2
        both = Question(np.eye(2), np.zeros(2), [[True, True]], [1])
        points, _ = attacking.attack(model, [problem(both)], 8, 4, 0)
    # Broken only where neither is positive: no margin is a goal alone, and the larger one is least
    # where both are equal.
    np.testing.assert_allclose(points.mean(axis=1), 0.85 / 1.1, atol=0.1)


def test_goals_break_the_question_by_themselves():
    rng = np.random.default_rng(0)
    rows, offsets = rng.normal(size=(5, 3)), rng.normal(size=5)
    groups = np.array([[True, True, False, False, True], [False, True, True, True, False]])
    for needs in ([3, 1], [3, 3], [2, 2], [1, 1]):
        question = Question(rows, offsets, groups, needs)
        goals = attacking._goals(question, apart=True)
        assert attacking._goals(question, apart=False) == [question]
        outputs = rng.normal(scale=2.0, size=(200, 3))
        whole_one = question.broken(outputs)
        alone = np.stack([goal.broken(outputs) for goal in goals[1:]])
        assert (alone.any(axis=0) == whole_one).all()
        assert len(goals) == 1 + sum(3 if need == 3 else 1 for need in needs)
    many = Question.all_positive(rng.normal(size=(100, 3)), np.zeros(100))
    assert attacking._goals(many, apart=True) == [many]


def test_turns_take_all_attacks_within_their_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(attacking.time, "monotonic", lambda: now[0])
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    one = problem(Question.all_positive(rows, np.zeros(3)))
    turns = attacking.Turns(misleading(), [one], seed=3, expected=2.0)
    losses = [getattr(attack, "loss", "square") for attack, _ in turns.attacks]
    assert losses == ["margin", "margin", "cross_entropy", "logits_ratio", "square"]
    assert not turns.is_due(1.9, 60.0)
    assert turns.is_due(2.0, 2.1) and not turns.is_due(2.0, 1.9)

    def searched(model, problems, search, starts, seed, apart):
        now[0] += 3.0
        given.append((search, starts, seed, apart))
        return np.zeros((1, SIZE)), np.zeros(1, "int32")

    given = []
    monkeypatch.setattr(attacking, "_searched", searched)
    turns.take()
    assert not turns.is_due(19.9, 60.0) and turns.is_due(20.1, 60.0)
    for _ in range(5):
        turns.take()
    assert [attack for attack, *_ in given[:5]] == [attack for attack, _ in turns.attacks]
    assert given[5][0] is given[0][0] and given[5][2] != given[0][2]
    assert [apart for *_, apart in given[:5]] == [True, True, False, False, True]
    # An attack of three seconds is not begun with less time left.
    assert turns.is_due(1e3, 3.1) and not turns.is_due(1e3, 2.9)


def test_every_turn_searches_the_boxes():
    model = misleading()
    low, high = problem(low=-1.0, high=0.5), problem(low=0.9, high=1.0)
    turns = attacking.Turns(model, [low, high], 0)
    with soundness.eagerly():
        for search_, _ in turns.attacks:
            search_.steps = 4
            points, owner = turns.take()
            assert len(points) == len(owner) == 128
            for place, one in enumerate((low, high)):
                mine = points[owner == place]
                assert (mine >= one.lower).all() and (mine <= one.upper).all()
                assert broken(model, one, mine).any() == (place == 1)


def test_the_search_gives_turns_to_attacks_beside_it():
    class Beside:
        calls = 0

        def is_due(self, elapsed, left):
            assert elapsed >= 0 and left == np.inf
            return True

        def take(self):
            self.calls += 1
            point = line.kink if self.calls == 3 else 1.0
            return np.full((1, 1), point), np.zeros(1, "int32")

    class Judge:
        def judge(self, points, owner):
            return points[0] if (points == line.kink).any() else None

    line, beside = support.Line(-1e-13), Beside()
    found = search(line, line.problems, Judge(), Limits(), beside=beside)
    assert beside.calls == 3 and found.counterexample[0] == line.kink


def test_what_is_proved_on_the_whole_box_is_not_asked_again():
    rng = np.random.default_rng(0)
    question = Question.all_positive(rng.normal(size=(3, 4)), rng.normal(size=3))
    left, least = whole.narrowed(problem(question), np.array([0.5, -1.0, 0.25, np.inf]))
    assert least == 0.25 and (left.question.rows == question.rows[[1]]).all()
    assert (left.question.offsets == question.offsets[[1]]).all()
    some = problem(Question(np.eye(2), np.zeros(2), [[True, True]], [1]))
    assert whole.narrowed(some, np.array([-0.5, -1.0])) == (some, np.inf)


@pytest.mark.slow
def test_a_verdict_does_not_change_by_what_was_proved_before():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(12, "relu"), keras.layers.Dense(8, "relu"), keras.layers.Dense(5)]
    model = keras.Sequential([keras.Input((30,)), *layers])
    x = np.random.default_rng(0).normal(size=(3, 30)).astype("float32")
    labels = np.asarray(model(x)).argmax(axis=1)
    for eps in (0.02, 0.1, 0.2):
        for i, label in enumerate(labels):
            asked, region = tfcert.properties.ClassStays(int(label)), tfcert.LpBall(eps)
            outcome = tfcert.verify(model, asked, x[i : i + 1], region, time_limit=100)
            apart = [
                tfcert.verify(
                    model, tfcert.properties.Targeted(int(label), j), x[i : i + 1], region
                ).verdict
                for j in range(5)
                if j != label
            ]
            assert outcome.verdict == ("violated" if "violated" in apart else "holds")
