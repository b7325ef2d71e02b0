"""Tests of a region's numbers, apart from the region, and of regions of a third kind."""

import copy

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import regions_support, support
from tests.regions_support import array
from tfcert.attacks import APGD, FGSM, PGD
from tfcert.regions import rounding

X = regions_support.make_x(0)
LINE = np.linspace(0.0, 0.2, regions_support.BATCH)
BALLS = {name: regions_support.make_ball(*case) for name, case in regions_support.CASES.items()}
REGIONS = {
    **BALLS,
    **{f"{name}_each": ball.with_eps(LINE) for name, ball in BALLS.items() if "full" in name},
    "schedule": BALLS["inf_scalar_clip"].with_eps(ops.convert_to_tensor(0.1)),
    "schedule_each": BALLS["2_scalar_clip"].scaled(ops.convert_to_tensor(LINE, "float32")),
    "box": tfcert.Box(-1.3, np.linspace(1.1, 1.4, 8).reshape(2, 2, 2)),
    "box_each": tfcert.Box(X - 0.1, 1.7),
    "box_shrunk": tfcert.Box(-1.3, 1.4).scaled(0.3),
    "box_shrunk_each": tfcert.Box(X - 0.1, X + 0.07).scaled(LINE),
}


class Askew(tfcert.regions.Region):
    """A box that reaches further to one side of x: only what every region has to say."""

    def __init__(self, left, right):
        self.left, self.right = np.array(left, "float32"), np.array(right, "float32")

    def _check_shapes(self, shape):
        np.broadcast_shapes(self.left.shape, self.right.shape, shape[1:])

    def _check_values(self, x):
        pass

    def _limits(self, x, outward):
        if outward:
            return rounding.add_down(x, -self.left), rounding.add_up(x, self.right)
        inner = rounding.add_up(x, -self.left), rounding.add_down(x, self.right)
        return ops.minimum(inner[0], x), ops.maximum(inner[1], x)

    def _contains(self, points, x):
        moves = points - x[:, None]
        inside = (moves >= -self.left.astype("longdouble")) & (moves <= self.right)
        return inside.reshape(*inside.shape[:2], -1).all(axis=-1)

    def _fields(self):
        return {"left": self.left, "right": self.right}


class Moved(tfcert.LpBall):
    """A ball with a number that its class has never heard of."""

    def __init__(self, eps, shift):
        super().__init__(eps)
        self.shift = shift

    def _limits(self, x, outward):
        lower, upper = super()._limits(x, outward)
        return lower, upper + self.shift


def _given(region, x, outward):
    """What compiled code makes of a region."""
    return region.template().with_numbers(region.numbers(x, outward))


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("dtype", support.slow_except("float32".__eq__, ["float32", "float64"]))
def test_bounds_from_numbers_are_the_same_bits(name, dtype):
    region, x = REGIONS[name], ops.convert_to_tensor(X, dtype)

    def both(x, numbers):
        return region.template().with_numbers(numbers).bind(x)

    # Eagerly as in compiled code: a bound is the same wherever it was computed.
    for run in (both, regions_support.compiled(both)):
        wanted, found = region.bind(x), run(x, region.numbers(x, outward=True))
        for first, second in zip(wanted, found, strict=True):
            assert (first is None) == (second is None)
            if first is not None:
                np.testing.assert_array_equal(array(first), array(second))


@pytest.mark.parametrize("name", REGIONS)
def test_attacks_from_numbers_are_the_same_bits(name):
    region, x = REGIONS[name], ops.convert_to_tensor(X)
    known = _given(region, x, outward=False)
    points = regions_support.make_x(1)
    coefficients = np.random.default_rng(2).normal(size=(3, 2, 2, 2, 2)).astype("float32")
    for run in (
        lambda region: region.project(points, x),
        lambda region: region.sample(x, 5, 0),
        lambda region: region.sample(x, 5, 0, corners=True),
        lambda region: region.minimiser(coefficients, x),
        lambda region: region.reach(x),
        lambda region: region.inner_limits(x).lower,
        lambda region: region.inner_limits(x).upper,
    ):
        np.testing.assert_array_equal(array(run(region)), array(run(known)))


@pytest.mark.parametrize("name", REGIONS)
def test_samples_are_cut_out_of_what_is_per_sample(name):
    region, x, places = REGIONS[name], ops.convert_to_tensor(X), np.array([2, 0])
    numbers = region.numbers(x, outward=False)
    assert region.varies(x) == bool(numbers.per_sample) == ("_each" in name)
    part = region.template().with_numbers(numbers.cut(places)).inner_limits(X[places])
    for found, wanted in zip(part, region.inner_limits(x), strict=True):
        np.testing.assert_array_equal(array(found), array(wanted)[places])
    chosen = region.select(places, x)
    assert chosen.signature() == region.signature()
    for found, wanted in zip(chosen.inner_limits(X[places]), part, strict=True):
        np.testing.assert_array_equal(array(found), array(wanted))


def test_a_template_holds_no_numbers():
    for region in REGIONS.values():
        template, numbers = region.template(), region.numbers(X, outward=True)
        for name in (*numbers.shared, *numbers.per_sample):
            assert getattr(template, name) is None
            assert getattr(region, name) is not None


def test_an_edge_that_was_rounded_away_is_still_taken():
    # 0.1 as float32 lies above 0.1, and 0.3 as float32 above 0.3: rounded inward, the clip range
    # ends before x.
    clip = (0.7, 0.3 + 0.6)
    x = np.array([clip], "float32")
    ball = tfcert.LpBall(0.09, clip=clip)
    ball.validate(x)
    for outward in (True, False):
        known = _given(ball, x, outward)
        known.validate(x)
        assert ball.contains(known.project(x, x), x).all()
    assert array(_given(ball, x, outward=True).admits(x)).all()


def _signatures(*regions):
    return {region.signature() for region in regions}


def test_numbers_are_no_part_of_a_signature():
    ball, box = tfcert.LpBall, tfcert.Box
    same = (
        (ball(0.1), ball(0.2), ball(np.array([0.1, 0.2])), ball(0.3).with_eps(0.1)),
        (ball(0.1, clip=(0, 1)), ball(0.2, clip=(-1, np.array([2.0, 3.0])))),
        # One size or one per sample is a matter of the shape.
        (ball(0.1).with_eps(LINE), ball(0.1).scaled(ops.convert_to_tensor(0.1))),
        (ball(0.1, 1), ball(np.array([0.1, 0.1]), 1)),
        (box(-1, 1), box(X - 1, X + 1)),
        (box(-1, 1).scaled(0.5), box(-2, 2).scaled(LINE)),
    )
    for group in same:
        assert len(_signatures(*group)) == 1, group
    first = [group[0] for group in same]
    others = [ball(0.1, 2), ball(np.array([0.1, 0.2]), 1), ball(0.1, 2, clip=(0, 1))]
    assert len(_signatures(*first, *others)) == len(first) + len(others)


def test_contents_that_are_no_numbers_are_a_part_of_it():
    assert Moved(0.1, 0.0).signature() == Moved(0.2, 0.0).signature()
    assert Moved(0.1, 0.0).signature() != Moved(0.1, 0.5).signature()
    assert Moved(0.1, 0.0).signature() != tfcert.LpBall(0.1).signature()


class _Opaque:
    __slots__ = ("held",)


class _Plain:
    pass


def test_a_region_of_a_third_kind_shares_with_its_equals_only():
    left = np.array([0.1, 0.2])
    region = Askew(left, 0.3)
    assert region.signature() == Askew(left, 0.3).signature() == copy.copy(region).signature()
    assert region.signature() != Askew(left, 0.4).signature()
    assert region.signature() != Askew(left[::-1], 0.3).signature()
    before, template = region.signature(), region.template()
    region.left[0] = 0.5
    assert region.signature() != before
    assert template.left[0] == np.float32(0.1)  # What was compiled stays what it was.


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held["list"].append(1),
        lambda held: held["set"].add(2),
        lambda held: held["dict"].update(a=2.0),
        lambda held: held["variable"].assign(2.0),
        lambda held: setattr(held["object"], "held", 1),
        lambda held: held["objects"].__setitem__(0, 1.0),
        lambda held: held.update(tensor=ops.convert_to_tensor(2.0)),
        lambda held: held.update(function=abs),
        lambda held: held.update(zero=-0.0),
    ],
)
def test_any_change_of_contents_is_seen(change):
    region = Askew(0.1, 0.3)
    region.held = held = {
        "list": [],
        "set": set(),
        "dict": {"a": 1.0},
        "variable": keras.Variable(1.0),
        "tensor": ops.convert_to_tensor(1.0),
        "object": _Plain(),
        "objects": np.array([None, "a"]),
        "function": max,
        "zero": 0.0,
        "nan": float("nan"),
    }
    held["itself"] = held
    before = region.signature()
    assert region.signature() == before and hash(region.signature()) == hash(before)
    change(held)
    assert region.signature() != before


def test_hidden_contents_are_never_the_same():
    region = Askew(0.1, 0.3)
    region.held = _Opaque()
    assert region.signature() != region.signature()


def _model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu")])
    model.set_weights([np.eye(2), np.zeros(2)])
    return model


@pytest.mark.parametrize("batch", [None, pytest.param(1, marks=pytest.mark.slow)])
def test_each_region_of_a_third_kind_has_its_own_programs(batch):
    model, x, y = _model(), np.array([[0.5, 0.25]], "float32"), np.array([0])
    method = tfcert.methods.Crown(max_memory=1 << 20) if batch else "crown"
    x, y = np.repeat(x, 2, axis=0), np.repeat(y, 2)
    for region, margin in (
        (Askew(0.0625, 0.0), 0.1875),
        (Askew(0.0, [0.0, 0.5]), -0.25),
        (Askew([0.125, 0.0], 0.0625), 0.0625),
    ):
        found = array(tfcert.bound_margins(model, x, y, region, method))
        assert found[:, 1] == pytest.approx([margin] * 2, abs=1e-6)
        lower, upper = tfcert.bound(model, x, region, method)
        wanted = region.interval(x)
        np.testing.assert_allclose(array(lower), array(wanted.lower), atol=1e-6)
        np.testing.assert_allclose(array(upper), array(wanted.upper), atol=1e-6)
        result = tfcert.certify(model, x, y, region, ["crown"], batch_size=1)
        assert set(result.verdict) == {"verified" if margin > 0 else "falsified"}
        for attack in (PGD, APGD, FGSM):
            goes_on = {} if attack is FGSM else {"early_stop": False}
            points = attack(region, **goes_on)(model, x, y)
            assert region.contains(points, x).all()
            if goes_on:  # The one step of FGSM is half of the box wide.
                reached = array(model(points))
                assert reached[:, 0] - reached[:, 1] == pytest.approx([margin] * 2, abs=1e-6)
