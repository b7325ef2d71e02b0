"""Attacks and bounds that losses are made of: places, statistics, parts of a region, nodes."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import training_support as ts
from tfcert import Box, CertifiedTrainer, LpBall, attacks, backend, bound_margins, objectives
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.objectives.attacking import SignedSteps, stationarity
from tfcert.objectives.latent import latent_node
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise

REGION = LpBall(0.1, clip=(0.0, 1.0))


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def batch_of(model, x, y, objective=None, **options):
    return ts.batch_at(objective or objectives.IBP(REGION, 0.0), model, x, y, **options)[1]


def normalising():
    """A network whose moving statistics are far from those of any batch."""
    model = ts.cnn(batch_norm=True)
    norm = model.layers[1]
    norm.moving_mean.assign(ops.convert_to_tensor([3.0, -2.0, 1.0]))
    norm.moving_variance.assign(ops.convert_to_tensor([9.0, 0.2, 4.0]))
    return model


def test_an_attack_and_its_loss_see_the_statistics_of_the_clean_batch():
    x, y = ts.data(12, (6, 6, 1))
    attack = attacks.PGD(REGION, 4)
    model = normalising()
    batch = batch_of(model, x, y, objectives.AdversarialTraining(REGION, 4))
    assert batch.moments
    found = array(batch.attacked(attack))
    expected = array(attack.last_point(batch.forward, batch.x, batch.y, batch.seed))
    np.testing.assert_array_equal(found, expected)
    moving = attack.last_point(lambda t: model(t, training=False), batch.x, batch.y, batch.seed)
    assert np.abs(found - array(moving)).max() > 0.01

    def loss(points):
        return float(ops.mean(-ops.log_softmax(batch.forward(points))[:, 0]))

    y[:] = 0
    batch = batch_of(model, x, y, objectives.AdversarialTraining(REGION, 4))
    assert loss(batch.attacked(attack)) > loss(x) + 1e-3
    # In validation the moving statistics count.
    batch = batch_of(model, x, y, training=False)
    np.testing.assert_array_equal(batch.forward(x), model(x, training=False))


@pytest.mark.parametrize(
    ("objective", "made"),
    [
        (objectives.Standard(), False),
        (objectives.Standard(REGION), False),
        (objectives.GaussianSmoothing(0.1), False),
        (objectives.IBP(REGION), True),
        (objectives.AdvIBP(REGION), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_statistics_are_made_for_objectives_that_need_them(objective, made):
    x, y = ts.data(6, (6, 6, 1))
    assert bool(batch_of(normalising(), x, y, objective).moments) is made


@pytest.mark.parametrize("stage", [2, 3])
def test_any_attack_runs_on_an_inner_value(stage):
    x, y = ts.data(16)
    model = ts.mlp()
    objective = objectives.IBP(REGION, 0.0)
    batch = batch_of(model, x, y, objective)
    network = network_of(model)
    node = latent_node(network, stage)
    interval = objective.bounds(batch, "ibp").evaluation.intervals[node]
    place = batch.at_node(node, interval)
    inner = node_values(network, {network.input: batch.x}, {})[node]
    np.testing.assert_allclose(place.scores(inner), model(x), atol=1e-5)

    def loss(points):
        losses = keras.ops.sparse_categorical_crossentropy(y, place.scores(points), True)
        return float(ops.mean(losses))

    for found in (
        place.worst(attacks.PGD(REGION, 5)),
        place.worst(attacks.APGD(REGION, 5, loss="margin")),
        SignedSteps(2, 0.5)(place, 0.0)[0],
    ):
        assert (array(found) >= array(interval.lower)).all()
        assert (array(found) <= array(interval.upper)).all()
        # No input reaches the worst inner values, and their loss is at most the bound's.
        assert loss(found) > loss(inner) + 1e-3
    margins = array(objective.bounds(batch, "ibp").interval())
    assert loss(found) <= float(
        ops.mean(keras.ops.sparse_categorical_crossentropy(y, -margins, True)) + 1e-5
    )


def test_stationarity_is_0_at_the_best_corner_alone():
    lower, upper = np.zeros((1, 3), "float32"), np.array([[1.0, 2.0, 4.0]], "float32")
    gradient = np.array([[1.0, -3.0, 0.5]], "float32")
    best = np.array([[1.0, 0.0, 4.0]], "float32")
    assert array(stationarity(lower, upper, best, gradient)) == pytest.approx(0.0)
    center = 0.5 * (lower + upper)
    expected = 0.5 * (1.0 + 2.0 * 3.0 + 4.0 * 0.5)
    assert array(stationarity(lower, upper, center, gradient)) == pytest.approx(expected)
    assert array(stationarity(lower, upper, upper - best, gradient)) == pytest.approx(2 * expected)


def test_samples_close_to_stationary_rest():
    x, y = ts.data(8)
    place = batch_of(ts.mlp(), x, y).at_input(REGION)
    resting, single = (SignedSteps(steps, 0.5)(place, 1e9)[0] for steps in (6, 1))
    np.testing.assert_array_equal(resting, single)
    moving = SignedSteps(6, 0.5)(place, 0.0)[0]
    assert np.abs(array(moving) - array(single)).max() > 0.01


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_of_a_small_box_around_points(method):
    x, y = ts.data(10)
    model, objective = ts.mlp(), objectives.IBP(REGION, 0.0)
    batch = batch_of(model, x, y, objective)
    points = array(batch.attacked(attacks.PGD(REGION, 3)))
    small = REGION.scaled(0.3)
    part = objective.bounds(batch, method, around=points, region=small)
    whole = objective.bounds(batch, method)
    # The box is what both have in common.
    inside, outer = (box.interval(center) for box, center in ((small, points), (REGION, x)))
    box = Box(np.maximum(*(array(b.lower) for b in (inside, outer))),
              np.minimum(*(array(b.upper) for b in (inside, outer))))  # fmt: skip
    assert (array(inside.lower) < array(outer.lower) - 1e-3).any()
    expected = array(bound_margins(model, points, y, box, "ibp"))
    np.testing.assert_allclose(part.interval(), expected, atol=1e-5)
    assert (array(part.interval()) >= array(whole.interval()) - 1e-5).all()
    if method != "ibp":
        assert (array(part.backward()) >= array(part.interval()) - 0.2).all()
    for seed in range(5):
        scores = array(model(box.sample(points, 1, seed)[:, 0]))
        margins = np.take_along_axis(scores, y[:, None], 1) - scores
        for lower in (part.interval(), part.backward() if method != "ibp" else part.interval()):
            assert (margins >= array(lower) - 1e-5).all()


def test_a_part_of_a_region_at_its_ends():
    x, y = ts.data(10)
    model, objective = ts.mlp(), objectives.IBP(REGION, 0.0)
    batch = batch_of(model, x, y, objective)
    # Around x at the full size: the region itself.
    same = objective.bounds(batch, "ibp", around=batch.x)
    np.testing.assert_allclose(same.interval(), objective.bounds(batch, "ibp").interval())
    # Points outside are moved to the border, where a region of size 0 leaves them alone.
    point = objective.bounds(batch, "ibp", around=x + 5.0, region=LpBall(0.0))
    scores = array(model(np.minimum(x + 0.1, 1.0).astype("float32")))
    margins = np.take_along_axis(scores, y[:, None], 1) - scores
    np.testing.assert_allclose(point.interval(), margins, atol=1e-5)
    with pytest.raises(ValueError, match="norm inf. Received: region=LpBall.*norm=2"):
        objective.bounds(batch, "ibp", region=LpBall(0.1, norm=2))


def test_a_part_of_a_region_is_that_of_the_step():
    """While the radius grows the small box is cut down to the radius of the step."""
    x, y = ts.data(6)
    objective = objectives.IBP(REGION, 0.0, ramp=(0, 2))
    batch = batch_of(ts.mlp(), x, y, objective, epoch=0.0)
    around = objective.bounds(batch, "ibp", around=x + 0.05, region=REGION)
    np.testing.assert_allclose(around.interval(), objective.bounds(batch, "ibp").interval())


def linear_inside():
    """The input of the last layer is that of a layer without an activation."""
    keras.utils.set_random_seed(1)
    units = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(4)]
    return keras.Sequential([keras.Input((5,)), *units, keras.layers.Dense(3)])


@pytest.mark.parametrize("make", [ts.mlp, linear_inside])
@pytest.mark.parametrize("stage", [2, 3])
def test_bounds_from_known_intervals_of_an_inner_node(make, stage):
    x, y = ts.data(10)
    model, objective = make(), objectives.IBP(REGION, 0.0)
    batch = batch_of(model, x, y, objective)
    node = latent_node(network_of(model), stage)
    interval = objective.bounds(batch, "ibp").evaluation.intervals[node]
    middle, width = array(interval.center), array(interval.radius)
    small = Interval.from_ends(
        ops.convert_to_tensor(middle - 0.5 * width), ops.convert_to_tensor(middle + 0.5 * width)
    )
    place = batch.at_node(node, small)
    whole = array(objective.bounds(batch, "ibp", known={node: interval}).interval())
    half = objective.bounds(batch, "ibp", known={node: small})
    lower = array(half.interval())
    other = np.arange(3) != y[:, None]
    assert (lower[other] > whole[other] + 1e-4).all()
    # Less is known than of the whole network, whose last affine layers are folded.
    assert (whole <= array(objective.bounds(batch, "ibp").interval()) + 1e-5).all()
    pairs = array(half.pairs())
    corners = place.region.sample(place.center, 50, 0, corners=True)
    for index in range(50):
        scores = array(place.scores(corners[:, index]))
        assert (np.take_along_axis(scores, y[:, None], 1) - scores >= lower - 1e-5).all()
        assert (scores[:, :, None] - scores[:, None] >= pairs - 1e-5).all()


def test_which_known_intervals_serve():
    x, y = ts.data(4)
    model, objective = ts.mlp(), objectives.IBP(REGION, 0.0)
    batch = batch_of(model, x, y, objective)
    network = network_of(model)
    node = latent_node(network, 2)
    interval = objective.bounds(batch, "ibp").evaluation.intervals[node]
    # A box behind the first layer, so wide that a sweep of the others gains something.
    first = next(node for node in network.nodes if isinstance(node.primitive, Elementwise))
    around = Interval.from_ends(ops.zeros((4, *first.shape)), ops.ones((4, *first.shape)))
    loose = objective.bounds(batch, "ibp", known={first: around}).interval()
    tight = objective.bounds(batch, "crown-ibp", known={first: around}).best()
    assert (ops.convert_to_numpy(tight - loose) > -1e-5).all()
    assert (ops.convert_to_numpy(tight - loose) > 1e-5).any()
    with pytest.raises(ValueError, match="`known` must hold inner nodes"):
        objective.bounds(batch, "ibp", known={network.outputs: interval})


class ReadsBehind(objectives.CrownIBP):
    """Reads relaxations behind a branch that held a sweep."""

    def margin_bounds(self, batch, known):
        swept = known.if_swept(self.ramp(batch.clock) > 0.5, known.backward, known.interval())
        return 0.5 * swept + 0.5 * known.backward()


def test_relaxations_can_be_read_behind_a_branch():
    x, y = ts.data(8)
    trainer = CertifiedTrainer(ts.mlp(), ReadsBehind(ts.REGION, 0.0, 1.0, ramp=(0, 2)))
    trainer.compile("sgd", jit_compile=False)
    if keras.backend.backend() == "tensorflow":
        assert not trainer.run_eagerly
    history = trainer.fit(x, y, epochs=3, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_points_carry_no_gradient():
    x, y = ts.data(6)
    model = ts.mlp()
    batch = batch_of(model, x, y)

    def total(values):
        place = batch.at_node(
            network_of(model).input, Interval.from_ends(values[0], values[0] + 0.1)
        )
        points = [place.worst(attacks.PGD(REGION, 2)), SignedSteps(1, 1.25)(place, 0.0)[0]]
        value = sum(map(ops.sum, points)) + 0.0 * ops.sum(values[0])
        return value, value

    gradient = backend.value_and_gradients(total, [batch.x])[2][0]
    np.testing.assert_array_equal(array(gradient), 0.0)
