"""The ensemble of attacks: on what stands, never weaker, inside, within its time."""

import doctest
import time

import keras
import numpy as np
import pytest

from tests import attack_support as support
from tfcert import attacks, regions
from tfcert.attacks import ensemble

BALL = regions.LpBall(0.1, clip=(0.0, 1.0))


class Noted(attacks.PGD):
    """Notes what it was given."""

    def __init__(self, region, **options):
        super().__init__(region, steps=5, loss="margin", **options)
        self.notes = []

    def pieces(self, model, x, y, seed=0, batch_size=1024):
        self.notes.append((len(x), seed, batch_size, x, self.region))
        return super().pieces(model, x, y, seed, batch_size)

    def _program(self, model, wanted, arguments):  # the notes are no part of a program's key
        notes, self.notes = self.notes, None
        try:
            return super()._program(model, wanted, arguments)
        finally:
            self.notes = notes


def noted(region=BALL, **options):
    attack = Noted(region, **options)
    # Moved to another region, it goes on in the same list.
    attack.notes = notes = []
    return attack, notes


@pytest.mark.parametrize(
    "norm",
    ["inf", pytest.param(2, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)],
)
def test_never_weaker_than_its_first_attack_and_inside(norm):
    model, x, y = support.digits()
    region = regions.LpBall({"inf": 0.1, 2: 0.6, 1: 2.5}[norm], norm, clip=(0, 1))
    first = attacks.APGD(region, 10)
    alone = support.margin(model, first(model, x, y, 3, 50), y)
    both = attacks.Ensemble(region, [first, attacks.APGD(region, 10, loss="margin")])
    found = both.worst_points(model, x, y, 3, 50)
    margins = support.margin(model, found.points, y)
    np.testing.assert_allclose(support.array(found.margins), margins, atol=1e-4)
    assert region.contains(found.points, x).all()
    # Where APGD breaks x the ensemble stops; elsewhere it goes on from APGD's point.
    assert (margins >= alone - 1e-4).all()
    assert (margins > 0).sum() > (alone > 0).sum()
    again = both(model, x, y, 3, 50)
    np.testing.assert_array_equal(support.array(again), support.array(found.points))


def test_every_attack_gets_what_still_stands():
    model, x, y = support.digits()
    sizes = np.linspace(0.0, 0.2, len(x))
    region = BALL.with_eps(sizes)
    (first, one), (second, two) = noted(), noted(restarts=2)
    wrong = (y[:5] + 1) % 10  # of which x is a counterexample by itself
    y = np.concatenate([wrong, y[5:]])
    points = attacks.Ensemble(region, [first, second])(model, x, y, seed=7)
    (count, seed, _, given, there), (left, other, batch, rest, _) = *one, *two
    assert (count, seed) == (120, 7) and other != 7
    own = 5 + np.arange(120) % 115  # five copies fill the batch
    np.testing.assert_array_equal(given, x[own])
    # Each with the size of its own region.
    assert there.contains(given + 0.99 * sizes[own, None, None, None] * (given < 0.5), given).all()
    alone = support.margin(model, first.with_region(there)(model, given, y[own], 7), y[own])
    broken = set(own[alone > 0])
    standing = x[[place for place in range(5, 120) if place not in broken]]
    assert 0 < len(standing) < 115
    np.testing.assert_array_equal(rest, standing[np.arange(left) % len(standing)])
    assert batch in (120, 30) and len(standing) <= left == max(batch, len(standing))
    np.testing.assert_array_equal(support.array(points)[:5], x[:5])


def test_room_in_a_batch_holds_copies():
    model, x, y = support.digits()
    attack, notes = noted(regions.LpBall(0.001))
    x, y = x[:3], y[:3]
    attacks.Ensemble(regions.LpBall(0.001), [attack], starts=40, rounds=2)(model, x, y)
    (count, seed, batch, given, _), (_, other, *_) = notes
    assert (count, batch) == (120, 120) and seed != other
    np.testing.assert_array_equal(given, np.concatenate([x] * 40))
    whole = attacks.Ensemble(BALL)
    assert [whole._gathered(np.arange(n), 1024)[1] for n in (1024, 257, 256, 64, 16, 3, 1)] == [
        *(1024, 1024, 256, 64, 16, 4, 1)
    ]
    assert (
        attacks.Ensemble(BALL, starts=8)._gathered(np.array([5, 9]), 64)[0].tolist() == [5, 9] * 8
    )


def test_copies_find_what_one_start_misses():
    # Only starts in [0.6, 0.8], of [-1, 1], have a gradient.
    model = support.peak(0.7, 1.0, 20.0, floor=-1.0)
    x, y = np.zeros((2, 1), "float32"), np.zeros(2, int)
    region = regions.LpBall(1.0)
    once, often = (
        support.survivors(
            model, attacks.Ensemble(region, [attacks.PGD(region, 1)], starts=n)(model, x, y), y
        )
        for n in (1, 200)
    )
    assert (once, often) == (2, 0)


def test_time_ends_the_rounds():
    model, x, y = support.digits()
    attack, notes = noted(regions.LpBall(1e-4))  # nothing to find
    endless = attacks.Ensemble(regions.LpBall(1e-4), [attack], rounds=None, time_limit=1.0)
    endless(model, x[:4], y[:4])
    notes.clear()
    begin = time.monotonic()
    endless(model, x[:4], y[:4])
    assert 0.9 < time.monotonic() - begin < 5.0
    assert len(notes) > 2 and len({seed for _, seed, *_ in notes}) == len(notes)
    notes.clear()
    # No batch is begun when the time is up: one of many.
    short = attacks.Ensemble(regions.LpBall(1e-4), [attack], rounds=3, time_limit=1e-6)
    points = short(model, x, y, batch_size=4)
    assert not notes
    np.testing.assert_array_equal(support.array(points), x)


def test_rounds_end_when_nothing_stands():
    attack, notes = noted(regions.LpBall(1.0))
    model, x, y = support.digits()
    forever = attacks.Ensemble(regions.LpBall(1.0), [attack], rounds=None, time_limit=600.0)
    assert support.survivors(model, forever(model, x[:9], y[:9]), y[:9]) == 0
    assert len(notes) < 5


@pytest.mark.parametrize(
    ("classes", "norm", "names"),
    [
        (10, "inf", ["cross_entropy", "margin 9", "logits_ratio 9", "Square"]),
        (4, 2, ["cross_entropy", "margin 9", "logits_ratio 9", "Square"]),
        (3, "inf", ["cross_entropy", "margin 9", "Square"]),
        (2, 1, ["cross_entropy", "margin 9"]),
        (5, 1.5, ["cross_entropy", "margin 9", "logits_ratio 9"]),
    ],
)
def test_the_plan_says_what_fits_the_model(classes, norm, names):
    plan = attacks.Ensemble(regions.LpBall(0.1, norm)).plan(classes)
    found = [
        "Square" if isinstance(a, attacks.Square) else f"{a.loss} {a.targets or ''}".strip()
        for a in plan
    ]
    assert found == names


@pytest.mark.parametrize(
    "attack",
    [
        attacks.PGD(BALL, 5, 0.3, 2, momentum=0.5),
        attacks.APGD(regions.LpBall(0.5, 2), targets=3, early_stop=False),
        attacks.FGSM(regions.Box(0.0, 1.0), loss="margin"),
        attacks.Square(BALL, 50, share=0.3),
        attacks.Ensemble(BALL, rounds=None, time_limit=3.0, starts=2),
        attacks.Ensemble(BALL, [attacks.FGSM(BALL), attacks.Square(BALL)]),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_configurations_come_back(attack):
    config = keras.saving.serialize_keras_object(attack)
    other = keras.saving.deserialize_keras_object(config)
    assert type(other) is type(attack)
    assert repr(other) == repr(attack)
    assert type(attack).from_config(attack.get_config()).get_config() == attack.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": 0.1}, "`region` must be a tfcert.LpBall or tfcert.Box. Received: region=0.1"),
        ({"attacks": []}, r"`attacks` must hold one or more single .*Received: attacks=\(\)"),
        ({"attacks": [attacks.Ensemble(BALL)]}, "`attacks` must hold one or more single attacks"),
        ({"rounds": None}, "`rounds` must be a number .*Received: rounds=None, time_limit=None"),
        ({"rounds": 0}, "`rounds` must be a positive integer. Received: rounds=0"),
        ({"starts": 0}, "`starts` must be a positive integer. Received: starts=0"),
        ({"time_limit": 0.0}, "`time_limit` must be > 0. Received: time_limit=0.0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.Ensemble(**{"region": BALL, **arguments})


@pytest.mark.slow
def test_the_usual_ensemble_breaks_more_than_its_parts():
    model, x, y = support.digits()
    left = support.survivors(model, attacks.Ensemble(BALL)(model, x, y), y)
    for part in attacks.Ensemble(BALL).plan(10):
        assert left <= support.survivors(model, part(model, x, y), y)


@pytest.mark.slow
def test_example():
    result = doctest.testmod(ensemble)
    assert result.attempted > 4 and result.failed == 0
