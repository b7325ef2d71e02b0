"""Branch and bound: never wrong, complete, repeatable, and in time."""

import time

import keras
import numpy as np
import pytest

import tfcert
from tests import branching_support as support
from tests import support as shared
from tfcert import branching, methods, properties
from tfcert.branching import checking
from tfcert.branching.boxes import BoxSplitter, free_inputs
from tfcert.branching.checking import Referee
from tfcert.branching.search import Limits, search

BOX = tfcert.Box([-1.0, -1.0], [1.0, 1.0])
CENTER = np.zeros((1, 2), "float32")


def values_on_grid(asked):
    """The values of a property on a grid of the box."""
    (question,) = asked.questions(1, 3)
    points = support.grid([-1, -1], [1, 1]).astype("float32")
    return question.value(question.margins(np.asarray(support.network()(points))))


def range_property(slack):
    """Output 0 stays above its least value on a grid, minus some slack."""
    points = support.grid([-1, -1], [1, 1]).astype("float32")
    least = float(np.asarray(support.network()(points))[:, 0].min())
    return properties.OutputRange(lower=[least - slack, -np.inf, -np.inf])


@pytest.mark.parametrize("slack", [0.05, -0.05])
@pytest.mark.parametrize("method", shared.slow_except("crown".__eq__, ["crown", "crown-ibp"]))
def test_decides_close_to_the_truth(method, slack):
    asked = range_property(slack)
    outcome = tfcert.verify(support.network(), asked, CENTER, BOX, method=method)
    assert outcome.verdict == ("holds" if slack > 0 else "violated"), outcome.summary()
    if slack > 0:
        assert outcome.method == "boxes" and outcome.domains > 1 and outcome.reason == ""
        assert 0 < outcome.bound <= values_on_grid(asked).min()
        assert outcome.first_bound <= outcome.seconds
    else:
        point = outcome.counterexample
        assert (np.abs(point) <= 1).all() and point.shape == (2,)
        outputs = np.asarray(support.network()(point[None].astype("float32")))
        np.testing.assert_array_equal(outputs[0], outcome.found.outputs)
        np.testing.assert_allclose(outputs[0], outcome.found.exact, atol=1e-5)
        assert asked.questions(1, 3)[0].broken(outputs).all() and outcome.bound <= 0


def random_property(generator):
    """A clause of several cases of one or two rows, with values around 0."""
    points = generator.uniform(-1, 1, (20, 2)).astype("float32")
    outputs = np.asarray(support.network()(points), np.float64)
    cases = []
    for _ in range(3):
        rows = generator.integers(-2, 3, (2, 3)).astype(float)
        reached = outputs @ rows.T
        high = np.quantile(reached, generator.uniform(0.7, 1), axis=0) + generator.uniform(0, 4)
        limits = (np.full(2, -1.0), np.ones(2))
        cases.append(properties.Case(*limits, np.concatenate([rows, -high[:, None]], axis=1)))
    return properties.Property(2, 3, tuple(cases))


def test_clauses_against_brute_force():
    generator, verdicts = np.random.default_rng(0), []
    points = support.grid([-1, -1], [1, 1])
    outputs = np.asarray(support.network()(points.astype("float32")))
    for _ in range(8):
        asked = random_property(generator)
        outcome = tfcert.verify(support.network(), asked, time_limit=30)
        met = asked.is_met(points, outputs)
        if outcome.verdict == "holds":
            assert not met.any()
        else:
            assert outcome.verdict == "violated"
            found = outcome.counterexample
            assert asked.is_met(found, support.network()(found[None].astype("float32"))).all()
        verdicts.append(outcome.verdict)
    assert set(verdicts) == {"holds", "violated"}


def test_finds_counterexamples_of_all_properties():
    model = support.network()
    assert branching.find_counterexample(model, range_property(0.05), CENTER, BOX) is None
    # Only gradient steps come so close to the least value.
    found = branching.find_counterexample(model, range_property(-1e-3), CENTER, BOX, starts=8)
    assert range_property(-1e-3).questions(1, 3)[0].broken(found.outputs[None]).all()
    assert branching.find_counterexample(model, properties.Property(2, 3, ())) is None
    with pytest.raises(ValueError, match="`starts` must be an integer >= 1"):
        branching.find_counterexample(model, range_property(0), CENTER, BOX, starts=0)


def test_counting_property_against_brute_force():
    # Of three outputs, output y is among the two largest: no pair of others reaches it.
    verdicts = set()
    for y, high in ((0, 1.0), (1, 1.0), (2, 1.0), (0, 0.3), (1, 0.3), (2, 0.3)):
        asked, box = properties.TopK(y, 2), tfcert.Box([-high, -high], [high, high])
        (question,) = asked.questions(1, 3)
        outputs = np.asarray(support.network()(support.grid([-high] * 2, [high] * 2)))
        outcome = tfcert.verify(support.network(), asked, CENTER, box, time_limit=30)
        assert outcome.verdict in ("holds", "violated")
        if outcome.verdict == "holds":
            assert not question.broken(outputs).any()
        else:
            assert question.broken(outcome.found.outputs[None]).all()
        verdicts.add(outcome.verdict)
    assert verdicts == {"holds", "violated"}


def test_boxes_cover_and_children_are_no_looser():
    asked, leaves = range_property(0.05), support.Leaves()
    problems = asked.problems(CENTER, BOX, 3)
    splitter = BoxSplitter(support.network(), problems, methods.Crown(), batch=16)
    found = search(splitter, problems, Referee(support.network(), problems), Limits(), watch=leaves)
    assert found.holds and leaves.volume("lower", "upper") == 4.0
    start = splitter.bound(splitter.start())
    children = splitter.split(start.domains)
    assert len(children) == 16
    bounded = splitter.bound(children)
    assert (bounded.lower >= start.lower - 1e-5).all()
    assert bounded.lower[:, 0].min() > start.lower[0, 0] + 0.1
    # Bounds of a part hold on that part.
    state = bounded.domains.state
    for i in range(16):
        points = support.grid(state["lower"][i], state["upper"][i], 10).astype("float32")
        margins = problems[0].question.margins(np.asarray(support.network()(points)))
        assert (bounded.lower[i] <= margins.min(axis=0) + 1e-5).all()
        assert (state["lower"][i] <= bounded.points[i]).all()


class Boxes:
    """A recorder that keeps the boxes of all nodes, and what closed them."""

    def __init__(self, lower, upper):
        self.root = (np.array(lower, float), np.array(upper, float))
        self.boxes, self.inner, self.closed = [], set(), {}

    def add_root(self, case):
        self.cases = list(case)
        self.boxes.append(self.root)
        return len(self.boxes) - 1

    def split_input(self, node, axis, point):
        children = []
        for at, one, where in zip(node, axis, point, strict=True):
            assert at not in self.inner
            self.inner.add(int(at))
            (low, high), step = self.boxes[at], np.eye(2, dtype=bool)[one]
            self.boxes += [(low, np.where(step, where, high)), (np.where(step, where, low), high)]
            children.append([len(self.boxes) - 2, len(self.boxes) - 1])
        return np.array(children)

    def close(self, node, row, *, case):
        for at, own in zip(node, row, strict=True):
            self.closed[int(at), case] = int(own)


def test_records_a_tree_whose_leaves_refute_all_cases():
    points = support.grid([-1, -1], [1, 1])
    outputs = np.asarray(support.network()(points.astype("float32")), np.float64)
    limits, high = (np.full(2, -1.0), np.ones(2)), outputs.max(axis=0)
    rows = [
        np.array([[1.0, 0, 0, -high[0] - 0.1]]),
        np.array([[0, 1.0, 0, 2 - high[1]], [0, 0, 1.0, -high[2] - 0.1]]),
    ]
    cases = tuple(properties.Case(*limits, own) for own in rows)
    recorder = Boxes(*limits)
    asked = properties.Property(2, 3, cases)
    outcome = tfcert.verify(support.network(), asked, batch_size=16, recorder=recorder)
    assert outcome.verdict == "holds" and recorder.cases == [0, 1]
    leaves = [at for at in range(len(recorder.boxes)) if at not in recorder.inner]
    assert len(leaves) > 4
    volume = sum(np.prod(np.subtract(*recorder.boxes[at][::-1])) for at in leaves)
    assert volume == pytest.approx(4.0)
    margins = [-(outputs @ own[:, :-1].T + own[:, -1]) for own in rows]
    for at in leaves:
        low, high = recorder.boxes[at]
        inside = ((low <= points) & (points <= high)).all(axis=1)
        for case in (0, 1):
            assert (margins[case][inside, recorder.closed[at, case]] > 0).all()


def test_batches_and_seeds_do_not_change_verdicts():
    asked, model = range_property(0.02), support.network()
    outcomes = [
        tfcert.verify(model, asked, CENTER, BOX, seed=seed, batch_size=size)
        for seed, size in ((0, 4), (0, 4), (1, 64))
    ]
    assert [one.verdict for one in outcomes] == ["holds"] * 3
    # The same call does the same, whatever ran before.
    assert outcomes[0].domains == outcomes[1].domains and outcomes[0].bound == outcomes[1].bound


def test_several_inputs_and_float_safety():
    x = np.float32([[0.5, 0.5], [-0.5, 0.2]])
    (least,) = values_on_grid(range_property(0)).min(keepdims=True)
    asked = properties.OutputRange(lower=[range_property(0.1).lower[0], -np.inf, -np.inf])
    method = methods.Crown(float_safe=True)
    outcome = tfcert.verify(support.network(), asked, x, tfcert.LpBall(0.2), method=method)
    assert outcome.verdict == "holds" and outcome.bound > 0 and abs(least) < 1e-4
    mixed = properties.ClassStays([0, 1])
    outcome = tfcert.verify(support.network(), mixed, x, tfcert.LpBall(0.01))
    right = np.asarray(support.network()(x)).argmax(axis=1) == [0, 1]
    assert (outcome.verdict == "holds") == right.all()


def test_a_margin_of_zero_stays_unknown_or_is_broken():
    # The margin is 0 at x = 0 alone: by the strict rule that is a counterexample.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), keras.layers.ReLU()])
    model.set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    asked = properties.Linear([[1.0, 1.0]])
    outcome = tfcert.verify(model, asked, np.zeros((1, 1)), tfcert.LpBall(1.0))
    assert outcome.verdict == "violated" and outcome.counterexample.tolist() == [0.0]


def test_what_rounding_breaks_is_not_violated():
    # x + 2^25 - 2^25 is 0 in float32 and x in float64.
    layers = [keras.layers.Dense(1) for _ in range(2)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    one, shift = np.ones((1, 1)), np.array([2.0**25])
    model.set_weights([one, shift, one, -shift])
    asked = properties.OutputRange(lower=0.0)
    problems = asked.problems(np.ones((1, 1), "float32"), tfcert.LpBall(0.5), 1)
    referee = Referee(model, problems)
    assert referee.judge(np.ones((1, 1)), np.zeros(1, np.int32)) is None
    (note,) = referee.notes
    assert "breaks the property as executed in float32, and does not in float64" in note
    outcome = tfcert.verify(model, asked, np.ones((1, 1)), tfcert.LpBall(0.5), time_limit=20)
    assert outcome.verdict != "violated" and outcome.notes


def test_without_float64_a_note_says_so(monkeypatch):
    def refuse(model):
        raise ValueError("There is no float64.")

    monkeypatch.setattr(checking, "in_float64", refuse)
    outcome = tfcert.verify(support.network(), range_property(-0.05), CENTER, BOX)
    assert outcome.verdict == "violated" and outcome.found.exact is None
    (note,) = outcome.notes
    assert "not evaluated in float64. There is no float64." in note and note in outcome.summary()


def test_points_lie_in_the_limits_before_rounding():
    limits = np.array([0.1]), np.array([0.3])
    case = properties.Case(*limits, np.array([[1.0, 0.0]]))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    outcome = tfcert.verify(model, properties.Property(1, 1, (case,)))
    assert outcome.verdict == "violated" and 0.1 <= outcome.counterexample[0] <= 0.3


def test_counts_the_numbers_that_vary():
    x, asked = np.zeros((1, 30), "float32"), properties.OutputRange(lower=-1e-3)
    problems = asked.problems(x, tfcert.LpBall(1.0), 1)
    assert free_inputs(problems[0]) == 30
    mixed = tfcert.Box(np.zeros(30), np.arange(30.0) < 7)
    assert free_inputs(asked.problems(x, mixed, 1)[0]) == 7


def wide():
    """Thirty inputs, of which output 0 is the sum of positive parts, minus 1."""
    layers = [keras.layers.Dense(30, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((30,)), *layers])
    model.set_weights([np.eye(30), np.zeros(30), np.ones((30, 1)), -np.ones(1)])
    return model


def test_boxes_of_many_numbers_are_bounded_as_a_whole():
    x, region = np.zeros((1, 30), "float32"), tfcert.LpBall(0.1)
    above = properties.OutputRange(lower=-1.1)
    outcome = tfcert.verify(wide(), above, x, region)
    assert (outcome.verdict, outcome.method, outcome.domains) == ("holds", "crown", 1)
    assert 0 < outcome.first_bound <= outcome.seconds
    below = properties.OutputRange(upper=0.5)
    outcome = tfcert.verify(wide(), below, x, region)
    assert (outcome.verdict, outcome.method) == ("violated", "attack")


def test_a_network_in_time():
    # A margin of about 0 on a line: boxes along it stay open for ever.
    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    signs, last = np.array([1.0, -1.0, 1.0, -1.0]), np.array([[1.0], [1.0], [-0.5], [-0.5]])
    model.set_weights([np.stack([signs, -signs]), np.zeros(4), last, np.array([1e-7])])
    asked = properties.OutputRange(lower=0.0)
    begin = time.monotonic()
    outcome = tfcert.verify(model, asked, CENTER, BOX, time_limit=3, batch_size=64)
    assert outcome.verdict == "unknown" and outcome.limit == "time", outcome.summary()
    assert time.monotonic() - begin < 5 and "parts are open" in outcome.reason


def test_nothing_is_asked():
    empty = properties.Property(2, 3, ())
    assert tfcert.verify(support.network(), empty).verdict == "holds"
    # No condition on outputs: every input is a counterexample.
    always = properties.Case(np.zeros(2), np.ones(2), np.zeros((0, 4)))
    outcome = tfcert.verify(support.network(), properties.Property(2, 3, (always,)))
    assert outcome.verdict == "violated"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": 3}, "`asked` must be one of tfcert.properties"),
        ({"x": None}, "`x` and `region` are required"),
        ({"region": 0.1}, "`region` must be a tfcert.LpBall"),
        ({"x": np.zeros((1, 3))}, "`x` must have the shape"),
        ({"time_limit": 0}, "`time_limit` must be seconds > 0"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"batch_size": 1}, "`batch_size` must be an integer >= 2"),
        ({"asked": properties.Property(2, 3, ())}, "`x` and `region` must be None"),
        ({"asked": properties.Property(3, 3, ()), "x": None, "region": None}, "3 inputs and 3"),
        ({"method": "exact"}, "`method` must be one of"),
    ],
)
def test_bad_arguments(change, message):
    given = {"asked": properties.ClassStays(0), "x": CENTER, "region": BOX} | change
    with pytest.raises(ValueError, match=message):
        tfcert.verify(support.network(), **given)
