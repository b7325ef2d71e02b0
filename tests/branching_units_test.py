"""Branch and bound on the signs of units, against exact optima of small networks."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from tests import soundness, support
from tests.branching_loop import Net, Recording, problem, search
from tfcert import methods
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.sweep import Slopes
from tfcert.branching import choosing, leaves
from tfcert.branching.layout import Layout, flat_slopes, flat_units
from tfcert.branching.units import UnitSplitter
from tfcert.network import network_of
from tfcert.properties.questions import Question
from tfcert.rules.rows import Rows

METHOD = methods.AlphaCrown(iterations=4, learning_rate=0.2)
ROW = np.array([1.0, -1.0, 0.5])
LOWER, UPPER = np.full(3, -1.0), np.array([1.0, 1.0, 0.7])


def _relu(value, rng):
    return keras.layers.ReLU()(value), 0.0


def _leaky(value, rng):
    return keras.layers.LeakyReLU(negative_slope=0.25)(value), 0.25


def _prelu(value, rng):
    slope = rng.uniform(-0.5, 1.5, value.shape[1]).astype("float32")
    layer = keras.layers.PReLU()
    value = layer(value)
    layer.set_weights([slope])
    return value, slope


def _absolute(value, rng):
    return keras.ops.abs(value), -1.0


KINDS = {"relu": _relu, "leaky": _leaky, "prelu": _prelu, "absolute": _absolute}


@functools.cache
def net(kind, seed=0):
    return Net.of(seed, (3, 5, 4, 3), KINDS[kind])


@functools.cache
def optimum(kind, seed=0):
    return net(kind, seed).least(LOWER, UPPER, ROW, 0.0)


@functools.cache
def _shared(kind):
    return Net.of(0, (3, 5, 4, 3), KINDS[kind]).model


def shared(kind, seed):
    """The model of all seeds of a kind, which is compiled once, with the weights of one seed."""
    model = _shared(kind)
    model.set_weights(net(kind, seed).model.get_weights())
    return model


def splitter(kind, offset, seed=0, model=None, **options):
    """Asks whether ``ROW @ outputs + offset`` is positive on the whole box."""
    asked = [problem(LOWER, UPPER, ROW, offset)]
    options = {"method": METHOD, "root": methods.CrownIBP(), "candidates": 2, **options}
    return UnitSplitter(model or net(kind, seed).model, asked, **options)


def signs_by_layer(split, state, i):
    """The signs of a domain as ``Net.least`` takes them."""
    flat = np.zeros(split.layout.unit_count, int)
    flat[split.roots.units] = state["signs"][i]
    return [part.ravel() for part in split.layout.by_place(flat).values()]


def check_tree(kind, seed=0, model=None):
    """Bounds every domain of a search, and compares each with the exact optimum on the domain.

    The question is broken by 0.02 at the optimum, so that the domains that hold the optimum are
    never proved, and are split until no unit is left.
    """
    # Narrowed intervals leave too few domains; their bounds have tests of their own.
    split = splitter(kind, -optimum(kind, seed) - 0.02, seed, model, narrow=False)
    tolerance = 1e-4 * (1.0 + abs(optimum(kind, seed)))
    domains, parents, count = split.start(), None, 0
    while len(domains) and count < 60:
        found = split.bound(domains)
        count += len(domains)
        for i, lower in enumerate(found.lower[:, 0]):
            exact = net(kind, seed).least(
                LOWER,
                UPPER,
                ROW,
                -optimum(kind, seed) - 0.02,
                signs_by_layer(split, found.domains.state, i),
            )
            assert lower <= exact + tolerance, (lower, exact)
        if parents is not None:
            assert (found.lower[:, 0] >= np.repeat(parents, 2)).all()
        left = found.domains.take(found.lower[:, 0] <= 0)
        left = left.take(split.can_split(left))
        left = left.take(np.arange(min(len(left), 6)))
        parents = left.state["lower"][:, 0]
        if len(left):
            domains = split.split(left)
            check_children(left, domains)
        else:
            domains = left
    assert count > 8, "too few domains to mean anything"


def check_children(parents, children):
    """Each parent has two children, which differ in one unit: >= 0 on one, <= 0 on the other."""
    assert len(children) == 2 * len(parents)
    pairs = children.state["signs"].reshape(len(parents), 2, -1).astype(int)
    before = parents.state["signs"].astype(int)
    change = pairs - before[:, None]
    assert (np.abs(change).sum(axis=2) == 1).all()
    assert (change.sum(axis=1) == 0).all()
    assert (children.owner == np.repeat(parents.owner, 2)).all()


@pytest.mark.parametrize("kind", support.slow_except(["relu", "prelu"].__contains__, KINDS))
def test_bounds_of_all_domains_stay_below_the_optimum_and_above_the_parents(kind):
    check_tree(kind)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_of_more_networks(kind, seed):
    check_tree(kind, seed, shared(kind, seed))


def _wrong_sign(monkeypatch):
    def constrain(self, place, rows, sign, point):
        if self.recording:
            return original(self, place, rows, sign, point)
        coefficients = rows.coefficients + self.multipliers[place] * sign
        return Rows(coefficients, rows.window, rows.clean), 0.0

    original = Slopes.constrain
    monkeypatch.setattr(Slopes, "constrain", constrain)


def _wrong_side(monkeypatch):
    def settle(self, node, interval):
        kept = self.known
        swapped = {place: -sign for place, sign in kept.signs.items()}
        self.known = dataclasses.replace(kept, signs=swapped)
        original(self, node, interval)
        self.known = kept

    original = Evaluation.settle
    monkeypatch.setattr(Evaluation, "settle", settle)


def _lost_child(monkeypatch):
    def split(self, domains):
        children = original(self, domains)
        return children.take(np.arange(len(children)) != len(children) - 1)

    original = UnitSplitter.split
    monkeypatch.setattr(UnitSplitter, "split", split)


def _child_twice(monkeypatch):
    def split(self, domains):
        children = original(self, domains)
        return children.take(np.arange(len(children)) // 2 * 2)

    original = UnitSplitter.split
    monkeypatch.setattr(UnitSplitter, "split", split)


@pytest.mark.parametrize("plant", [_wrong_sign, _wrong_side, _lost_child, _child_twice])
def test_planted_errors_are_found(plant, monkeypatch):
    plant(monkeypatch)
    with soundness.eagerly(), pytest.raises(AssertionError, match=r"assert|few") as error:
        check_tree("relu")
    assert "too few" not in str(error.value)


@pytest.mark.parametrize("kind", support.slow_except(["prelu"].__contains__, KINDS))
def test_verdicts_are_right_on_both_sides_of_the_optimum(kind):
    step = 0.02 * (1.0 + abs(optimum(kind)))
    assert search(splitter(kind, -optimum(kind) + step)) == "proved"
    assert search(splitter(kind, -optimum(kind) - step)) == "broken"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_many_networks_and_batch_sizes(kind):
    for seed in range(1, 9):
        for side, verdict in ((0.01, "proved"), (-0.01, "broken")):
            offset = -optimum(kind, seed) + side * (1.0 + abs(optimum(kind, seed)))
            # Trials are most of the work of a search, and do not depend on the batch.
            for batch, candidates in ((2, 1), (7, 2), (64, 1)):
                options = {"batch": batch, "candidates": candidates}
                found = search(splitter(kind, offset, seed, shared(kind, seed), **options))
                assert found == verdict


def test_bounds_do_not_depend_on_the_batch():
    with soundness.eagerly():
        whole = splitter("relu", -optimum("relu"))
        found = whole.bound(whole.start())
        children = whole.split(found.domains)
        together = whole.bound(children).lower
        apart = [whole.bound(children.take(np.array([i]))).lower for i in range(2)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-5)


def test_a_case_with_two_rows_is_proved_where_either_one_is():
    """One margin fails on one part of the box, the other one elsewhere, and never both."""
    given = keras.Input((1,))
    model = keras.Model(given, keras.layers.Dense(2, use_bias=False)(keras.layers.ReLU()(given)))
    model.layers[-1].set_weights([np.array([[1.0, -1.0]], "float32")])
    # y = (r, -r): r > 0.4 or r < 0.6 holds everywhere, although each one fails somewhere.
    rows, offsets = np.eye(2), np.array([-0.4, 0.6])
    for ends, verdict in ((offsets, "unknown"), (np.array([-0.6, 0.4]), "broken")):
        asked = [problem([-1.0], [1.0], rows, ends)]
        with soundness.eagerly():
            split = UnitSplitter(model, asked, METHOD, methods.CrownIBP(), 2)
            found = search(split)
        # The least of the larger margin, by a linear program for each piece, decides the first.
        assert found == ("proved" if verdict == "unknown" else verdict)


def test_groups_of_a_question_are_proved_apart():
    """Two margins that must both be positive: the verdict is that of the harder one."""
    rows = np.stack([ROW, -ROW])
    most = -net("relu").least(LOWER, UPPER, -ROW, 0.0)
    for shift, verdict in ((0.2, "proved"), (-0.2, "broken")):
        offsets = np.array([-optimum("relu") + 0.3, most + shift])
        asked = problem(LOWER, UPPER, rows, offsets)
        for question in (
            Question.all_positive(rows, offsets),
            Question(rows, offsets, [[True, True]], [2]),
        ):
            asked = asked._replace(question=question)
            split = UnitSplitter(net("relu").model, [asked], METHOD, methods.CrownIBP(), 2)
            assert split.start().owner.tolist() == [0, 0]
            assert search(split) == verdict


def test_a_search_is_recorded_with_what_proves_each_part():
    record = Recording()
    offset = -optimum("relu") + 0.05 * (1.0 + abs(optimum("relu")))
    split = splitter("relu", offset, recorder=record)
    assert search(split) == "proved"
    inner = set(record.parent)
    ends = [node for node in range(len(record.parent)) if node not in inner]
    assert len(ends) > 1
    for node in ends:
        signs = [np.zeros(len(bias)) for _, bias in net("relu").weights[:-1]]
        places = [spot.place for spot in split.layout.units]
        for (place, unit), sign in record.signs(node).items():
            signs[places.index(place)][unit] = sign
        exact = net("relu").least(LOWER, UPPER, ROW, offset, signs)
        assert exact > 0
        if node in record.closed:
            _, slopes, multipliers = record.closed[node]
            assert all((table >= 0).all() and (table <= 1).all() for table in slopes.values())
            for place, table in multipliers.items():
                assert (table >= 0).all()
                used = {unit for at, unit in record.signs(node) if at == place}
                assert not table[[i for i in range(len(table)) if i not in used]].any()
        else:
            assert exact == np.inf, "only parts without points may be left without a reason"


def test_linear_programs_of_leaves_are_exact_and_tell_empty_parts():
    kind, rng = "leaky", np.random.default_rng(0)
    network = network_of(net(kind).model)
    layout, empty = Layout(network), 0
    for _ in range(12):
        x = rng.uniform(LOWER, UPPER)
        signs = np.where(rng.random(layout.unit_count) < 0.3, -1, 1) if empty < 2 else None
        if signs is None:  # The pattern of a point.
            value, signs = x, []
            for (kernel, bias), slope in zip(net(kind).weights, net(kind).slopes, strict=False):
                z = value @ kernel + bias
                signs.append(np.where(z >= 0, 1, -1))
                value = np.where(z >= 0, z, slope * z)
            signs = np.concatenate(signs)
        piece = leaves.AffinePiece(network, layout, LOWER, UPPER, signs)
        found = piece.least(signs, ROW[None], np.zeros(1))
        exact = net(kind).least(LOWER, UPPER, ROW, 0.0, np.split(signs, [5]))
        if np.isinf(exact):
            empty += 1
            assert found.value == np.inf and found.point is None
        else:
            assert exact - 1e-3 <= found.value <= exact + 1e-6
            assert (found.point >= LOWER).all() and (found.point <= UPPER).all()
            outputs = np.asarray(net(kind).model(found.point[None].astype("float32")))
            assert outputs[0] @ ROW == pytest.approx(exact, abs=1e-3)
    assert 2 <= empty < 12


def test_half_spaces_are_pushed_outward_by_more_than_the_solver_allows():
    """x = 1 is the only point of the part; a program that cut it off would call the part empty."""
    one = np.ones((1, 1))
    found = leaves.least_value(one, np.zeros(1), one, np.array([-1.0 - 5e-7]), np.ones(1))
    assert found.value == pytest.approx(1.0, abs=1e-4) and found.value < 1.0
    far = leaves.least_value(one, np.zeros(1), one, np.array([-1.1]), np.ones(1))
    assert far.value == np.inf


def test_layers_that_never_become_affine_leave_the_question_open():
    given = keras.Input((2,))
    value = keras.layers.Dense(4)(given) * keras.layers.Dense(4)(given)
    value = keras.layers.Dense(3, activation="relu")(value)
    model = keras.Model(given, keras.layers.Dense(1)(value))
    keras.utils.set_random_seed(0)
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    axis = np.linspace(-1, 1, 101)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype("float32")
    least = float(np.min(model(points)))
    with soundness.eagerly():
        found = []
        for offset in (-least + 20.0, -least + 1e-3):
            asked = [problem([-1.0, -1.0], [1.0, 1.0], [[1.0]], [offset])]
            found.append(search(UnitSplitter(model, asked, METHOD, methods.Crown(), 2)))
    assert found == ["proved", "unknown"]


def test_without_scipy_leaves_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install tfcert\[verify\]"):
        leaves.least_value(np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.ones(1), np.ones(1))


@pytest.mark.parametrize("kind", KINDS)
def test_flat_places_and_back(kind):
    network = network_of(net(kind).model)
    layout, rng = Layout(network), np.random.default_rng(0)
    units = rng.random((2, layout.unit_count))
    assert (flat_units(layout, layout.by_place(units)) == units).all()
    slopes = rng.random((2, 3, layout.slope_count))
    assert (flat_slopes(layout, layout.slopes_by_place(slopes)) == slopes).all()
    place, entry = layout.locate(np.arange(layout.unit_count))
    assert place.tolist() == [layout.units[0].place] * 5 + [layout.units[1].place] * 4
    assert entry.tolist() == [*range(5), *range(4)]
    assert layout.slope_count == (9 if kind != "prelu" else 18)


def test_the_half_that_is_proved_less_well_decides_between_candidates():
    lower = np.array(
        [[[-3.0, 5.0], [-2.0, -2.0], [-1.0, -1.9]], [[-1.0, 9.0], [-1.0, -0.5], [0, 0]]]
    )
    candidates = np.array([[4, 5, 6], [4, 5, -1]], "int32")
    assert choosing.preferred(lower, candidates).tolist() == [2, 0]
