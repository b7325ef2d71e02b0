"""Hidden intervals on the part of a box where a margin can be 0 or less."""

import functools
import time

import keras
import numpy as np
import pytest
from scipy.optimize import linprog

import tfcert
from tests.branching_loop import Net, Recording, problem, search
from tfcert import backend, methods
from tfcert.branching import halfspaces, roots
from tfcert.branching.bounding import Bounder
from tfcert.branching.halfspaces import least_on_cut
from tfcert.branching.layout import Layout
from tfcert.branching.narrowing import Narrowing
from tfcert.branching.units import UnitSplitter
from tfcert.network import network_of
from tfcert.programs import programs_of
from tfcert.properties.questions import Question

METHOD = methods.AlphaCrown(iterations=4, learning_rate=0.2)
ROW = np.array([1.0, -1.0, 0.5])
LOWER, UPPER = np.full(6, -0.3), np.full(6, 0.3)
SEEDS = (0, 3, 4)
BIASES = 8.0


def _relu(value, rng):
    return keras.layers.ReLU()(value), 0.0


@functools.cache
def net(seed):
    """Large biases leave few units with both signs, so that relaxed margins are close."""
    given = Net.of(seed, (6, 7, 6, 3), _relu)
    given.weights[:] = [(kernel, BIASES * bias) for kernel, bias in given.weights]
    given.model.set_weights([w.astype("float32") for pair in given.weights for w in pair])
    return given


@functools.cache
def optimum(seed):
    return net(seed).least(LOWER, UPPER, ROW, 0.0)


@functools.cache
def _model():
    return Net.of(0, (6, 7, 6, 3), _relu).model


def splitter(seed, offset, **options):
    """Asks whether ``ROW @ outputs + offset`` is positive on the whole box."""
    model = _model()
    model.set_weights(net(seed).model.get_weights())
    options = {"method": METHOD, "root": methods.CrownIBP(), **options}
    return UnitSplitter(model, [problem(LOWER, UPPER, ROW, offset)], **options)


def units_at(seed, points):
    """All inputs of ReLUs at some points, and the linear function of the outputs."""
    values, units = points, []
    for kernel, bias in net(seed).weights[:-1]:
        units.append(values @ kernel + bias)
        values = np.maximum(units[-1], 0.0)
    kernel, bias = net(seed).weights[-1]
    return np.concatenate(units, axis=1), (values @ kernel + bias) @ ROW


def cut_problem(rng, inputs=8):
    """Linear functions, a box and a half-space that leaves some of the box."""
    functions, normal = rng.normal(size=(1, 3, inputs)), rng.normal(size=(1, 1, inputs))
    middle, half = rng.normal(size=(1, 1, inputs)), rng.uniform(0.1, 1.0, (1, 1, inputs))
    least = (normal * middle - abs(normal) * half).sum()
    depth = -(least + rng.uniform(0.02, 0.98) * 2 * (abs(normal) * half).sum())
    return functions, middle, half, normal, np.full((1, 1), depth)


def exact_on_cut(functions, middle, half, normal, depth):
    box = np.stack([(middle - half).ravel(), (middle + half).ravel()], axis=1)
    return [
        linprog(a, A_ub=normal[0], b_ub=-depth[0], bounds=box, method="highs").fun
        for a in functions[0]
    ]


def bounds_on_cuts(count=40):
    """Bounds of linear functions on cut boxes, the exact minima, and those on the whole boxes."""
    found, exact, box = [], [], []
    for seed in range(count):
        given = cut_problem(np.random.default_rng(seed))
        tensors = [keras.ops.convert_to_tensor(array, dtype="float32") for array in given]
        found.append(keras.ops.convert_to_numpy(least_on_cut(*tensors))[0])
        exact.append(exact_on_cut(*given))
        box.append((given[0] * given[1] - abs(given[0]) * given[2]).sum(axis=-1)[0])
    return np.array(found), np.array(exact), np.array(box)


def test_bounds_on_cut_boxes_lie_between_those_of_the_box_and_the_exact_minima():
    found, exact, box = bounds_on_cuts()
    assert (found <= exact + 1e-4).all()
    assert (found >= box - 1e-4).all()
    # The search for the multiplier gets most of what there is to gain.
    gain, possible = found - box, exact - box
    assert possible.mean() > 0.1
    assert gain.sum() > 0.95 * possible.sum()


def test_pieces_of_one_shape_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    parts = [cut_problem(rng) for _ in range(11)]
    given = [np.concatenate(arrays).astype("float32") for arrays in zip(*parts, strict=True)]
    tensors = [keras.ops.convert_to_tensor(array) for array in given]
    monkeypatch.setattr(halfspaces, "_PIECE", 4)
    whole, pieces = least_on_cut(*tensors), halfspaces._by_pieces(tensors)
    np.testing.assert_allclose(whole, pieces, rtol=1e-5, atol=1e-5)


def check_intervals(seed):
    """New intervals hold wherever the margin is at most 0, and some are tighter than before."""
    points = np.random.default_rng(seed).uniform(LOWER, UPPER, (20_000, len(LOWER)))
    units, values = units_at(seed, points)
    offset = -np.quantile(values, 0.002)  # Broken by few points.
    split = splitter(seed, offset, root=methods.Crown())
    domains = split._bounded(split.start())[0]
    inputs = split._within_reach(domains)
    found = split.bounder.narrow(inputs)
    broken = units[values + offset <= 0]
    assert len(broken) == 40
    assert not found.empty.any()
    assert (broken >= found.low - 1e-4).all()
    assert (broken <= found.high + 1e-4).all()
    before = np.concatenate([high - low for low, high in inputs.ends.values()], axis=1)
    assert ((found.high - found.low) / before).min() < 0.8
    # Elsewhere they need not hold: the condition does count.
    assert ((units < found.low) | (units > found.high)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_intervals_hold_wherever_the_margin_is_at_most_0(seed):
    check_intervals(seed)


def _turned(monkeypatch):
    """Keeps the points on the other side of the half-space."""
    right = halfspaces.least_on_cut

    def wrong(coefficients, middle, half, normal, depth):
        return right(coefficients, middle, half, -normal, -depth)

    monkeypatch.setattr(halfspaces, "least_on_cut", wrong)


def _deeper(monkeypatch):
    """Takes the relaxed margin for larger than it is."""
    right = Bounder._relaxed

    def wrong(self, evaluation, args, *rest):
        found, record = right(self, evaluation, args, *rest)
        return found._replace(lower=found.lower + 3.0), record

    monkeypatch.setattr(Bounder, "_relaxed", wrong)


@pytest.mark.parametrize("plant", [_turned, _deeper])
def test_planted_errors_are_found(plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            check_intervals(seed)


def holds(split):
    return search(split) == "proved"


@pytest.mark.parametrize("seed", SEEDS)
def test_verdicts_are_right_on_both_sides_of_the_optimum_as_without(seed):
    for change in (-0.03, 0.03):
        verdicts = {
            holds(splitter(seed, change - optimum(seed), narrow=narrow)) for narrow in (True, False)
        }
        assert verdicts == {change > 0}


def bounds_of_leaves(seed):
    """The least bound of a search that proves the property with room to spare, and the optimum."""
    split = splitter(seed, 0.05 - optimum(seed), root=methods.Crown())
    domains, least = split.start(), np.inf
    while len(domains):
        found = split.bound(domains)
        value = found.lower[:, 0]
        least = min([least, *value[value > 0]])
        left = found.domains.take(value <= 0)
        domains = split.split(left) if len(left) else left
    return least, 0.05


def test_bounds_of_proved_parts_stay_below_the_optimum():
    for seed in SEEDS:
        least, exact = bounds_of_leaves(seed)
        assert 0 < least <= exact + 1e-4


def test_without_the_limit_of_bounds_they_would_not(monkeypatch):
    start = Narrowing._narrow

    def unlimited(self, domains, inputs):
        count = start(self, domains, inputs)
        domains.state["most"] = np.full(len(domains), np.inf)
        return count

    monkeypatch.setattr(Narrowing, "_narrow", unlimited)
    assert any(least > exact + 1e-3 for least, exact in map(bounds_of_leaves, SEEDS))


def test_fewer_parts_are_needed():
    counts = {}
    for narrow in (True, False):
        counts[narrow] = 0
        for seed in SEEDS:
            split = splitter(seed, 0.03 - optimum(seed), narrow=narrow)
            assert holds(split)
            counts[narrow] += split.bounded
    assert counts[True] < counts[False]


def test_only_dense_networks_of_two_pieces_are_narrowed_and_no_recorded_searches():
    assert Narrowing.fits(Layout(network_of(net(0).model)))
    given = keras.Input((4, 4, 1))
    value = keras.layers.Conv2D(1, 2, activation="relu")(given)
    windows = keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(value)))
    assert not Narrowing.fits(Layout(network_of(windows)))
    given = keras.Input((4,))
    smooth = keras.Model(given, keras.layers.Dense(2)(keras.layers.Dense(3, "tanh")(given)))
    assert not Narrowing.fits(Layout(network_of(smooth)))
    assert splitter(0, 0.0)._narrowing is not None
    assert splitter(0, 0.0, recorder=Recording())._narrowing is None


def test_questions_that_allow_broken_margins_are_left_alone():
    split = splitter(0, -optimum(0) - 0.1)
    two = [split.problems[0]._replace(question=question(needs)) for needs in (1, 2)]
    for asked, suits in zip(two, (True, False), strict=True):
        again = UnitSplitter(net(0).model, [asked], method=METHOD, root=methods.CrownIBP())
        assert again._narrowing.suits.tolist() == [suits]
        domains = again._bounded(again.start())[0]
        assert len(again._narrowing.due(domains, np.ones(1, bool))) == suits


def question(needs):
    rows = np.stack([ROW, -ROW, 2 * ROW])
    return Question(rows, np.zeros(3), np.ones((1, 3), bool), [needs])


def test_no_time_is_spent_when_none_is_left(monkeypatch):
    split = splitter(0, -optimum(0) - 0.1, deadline=time.monotonic() - 1.0)
    monkeypatch.setattr(Bounder, "narrow", lambda *_: pytest.fail("The time was up."))
    found = split.bound(split.start())
    assert found.lower[0, 0] <= 0
    assert np.isinf(found.domains.state["most"]).all()


def check_tighter_roots(method):
    """Intervals on the whole box hold everywhere, and some are tighter than those before."""
    points = np.random.default_rng(0).uniform(LOWER, UPPER, (20_000, len(LOWER)))
    units, _ = units_at(3, points)
    split = splitter(3, -optimum(3) - 0.1)
    before = np.concatenate([high - low for low, high in split.roots.ends.values()], axis=1)
    split.roots.tighten(split.model, split.network, method)
    low, high = (
        np.concatenate([ends[i] for ends in split.roots.ends.values()], axis=1) for i in (0, 1)
    )
    assert ((units >= low - 1e-4) & (units <= high + 1e-4)).all()
    assert (high - low <= before + 1e-6).all()
    assert ((high - low) < 0.99 * before).any()


def test_intervals_of_whole_boxes_become_tighter():
    check_tighter_roots(methods.Crown())


def test_intervals_that_are_too_tight_are_found(monkeypatch):
    right = roots._intervals

    def wrong(*args):
        ends, outputs = right(*args)
        return {place: (0.5 * low, 0.5 * high) for place, (low, high) in ends.items()}, outputs

    monkeypatch.setattr(roots, "_intervals", wrong)
    with pytest.raises(AssertionError):
        check_tighter_roots(methods.Crown())


def test_whole_boxes_are_tightened_once_in_long_searches_with_time_left():
    split = splitter(0, -optimum(0) - 0.1)
    domains = split.start()
    assert not split._narrowing.wants_tighter_roots(domains)
    domains.depth[:] = 3
    split._narrowing._spent, split._narrowing._deadline = 2.0, time.monotonic() + 10.0
    assert not split._narrowing.wants_tighter_roots(domains)
    split._narrowing._deadline = np.inf
    assert split._narrowing.wants_tighter_roots(domains)
    assert not split._narrowing.wants_tighter_roots(domains)


def test_nothing_is_compiled_that_would_be_ready_late():
    for left, traces in ((1e4, 1), (1e-3, 0)):
        model = keras.models.clone_model(net(0).model)
        deadline = time.monotonic() + left
        asked = [problem(LOWER, UPPER, ROW, -optimum(0) - 0.1)]
        split = UnitSplitter(model, asked, method=METHOD, narrow=False, deadline=deadline)
        lower = [split.bound(split.start()).lower for _ in range(3)]
        np.testing.assert_allclose(lower[1:], lower[:-1], rtol=1e-4)
        assert programs_of(model).traces("split") == (traces if backend.runs_at_once() else 1)


def test_its_share_of_the_time_is_kept(monkeypatch):
    split = splitter(0, -optimum(0) - 0.1)
    split._narrowing._begin = time.monotonic() - 10.0
    for spent, allowed in ((8.0, True), (9.5, False)):
        split._narrowing._spent = spent
        assert split._narrowing._has_time() == allowed


def test_verify_is_right_on_both_sides_of_the_optimum():
    model = keras.models.clone_model(net(0).model)
    model.set_weights(net(0).model.get_weights())
    rows = ROW[None]
    for change in (-0.03, 0.03):
        asked = tfcert.properties.Linear(rows, np.array([change - optimum(0)]))
        x = np.zeros((1, 6), "float32")
        found = tfcert.verify(model, asked, x, tfcert.Box(LOWER, UPPER), time_limit=60)
        assert found.verdict == ("holds" if change > 0 else "violated")
